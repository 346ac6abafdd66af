"""A file that takes pictures resizes them as Pillow does, in every runtime; the Resize operator does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekit.backends.tensorrt.flavour import TensorRT
from edgekit.errors import ModelError
from edgekit.onnx.exact import run_file_exact
from edgekit.onnx.pictures import PICTURE, levels_name, picture_spec, with_pictures
from edgekit.onnx.run import open_every_value, open_unoptimised
from edgekit.preprocess import Preprocess
from edgekit.tensors import TensorSpec

SIZES = [(42, 42), (28, 28), (480, 640), (31, 45), (100, 28), (5, 300), (250, 230), (1, 1), (2, 3), (27, 1000)]
MOST = 1
"""Grey levels that the file may be off."""
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def preprocessing(color: str = "rgb", size: tuple[int, int] = (28, 30)) -> Preprocess:
    channels = 1 if color == "grey" else 3
    return Preprocess("grey" if color == "grey" else "rgb", *size, (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.4)[:channels])


def spec_of(preprocess: Preprocess, batch: int | str = "batch") -> TensorSpec:
    return TensorSpec("x", "float32", (batch, len(preprocess.mean), preprocess.height, preprocess.width))


def network(preprocess: Preprocess, opset: int = 20) -> onnx.ModelProto:
    """A network that gives its input."""
    shape = spec_of(preprocess).shape
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def file_for(preprocess: Preprocess) -> onnx.ModelProto:
    model = with_pictures(network(preprocess), spec_of(preprocess), preprocess)
    onnx.checker.check_model(model, full_check=True)
    return model


def picture(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def apart(run: Run, preprocess: Preprocess, size: tuple[int, int]) -> float:
    """The most grey levels between the network's input by ``run`` and by Pillow."""
    image = picture(size)
    return float(np.abs(run(image[None])[0] - preprocess.open(image)).max())


def levels_by(model: onnx.ModelProto) -> Run:
    run = open_every_value(model, Path("m"), ["picture.x.levels"])
    return lambda pictures: run({PICTURE: pictures})["picture.x.levels"]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("color", ["rgb", "grey"])
def test_pictures_of_any_size_are_resized_as_by_pillow(color: str, size: tuple[int, int]) -> None:
    preprocess = preprocessing(color)
    assert levels_name(spec_of(preprocess)) == "picture.x.levels"
    assert apart(levels_by(file_for(preprocess)), preprocess, size) <= MOST


def test_the_networks_input_is_normalised_as_by_edgekit() -> None:
    for color in ("rgb", "grey"):
        preprocess = preprocessing(color)
        image = picture((preprocess.height, preprocess.width))
        (numbers,) = open_unoptimised(file_for(preprocess), Path("m"))({PICTURE: image[None]}).values()
        assert (numbers == preprocess.normalise(preprocess.open(image)[None])).all()


def test_several_pictures_are_as_each_alone() -> None:
    run = open_unoptimised(file_for(preprocessing()), Path("m"))
    images = np.stack([picture((50, 40), seed) for seed in range(3)])
    together = run({PICTURE: images})["y"]
    for image, expected in zip(images, together, strict=True):
        assert (run({PICTURE: image[None]})["y"][0] == expected).all()


def resize_operator(preprocess: Preprocess, antialias: int) -> onnx.ModelProto:
    """The same with the operator Resize."""
    channels, height, width = spec_of(preprocess).shape[1:]
    nodes = [
        helper.make_node("Cast", [PICTURE], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Resize", ["t", "", "", "size"], ["r"], mode="linear", antialias=antialias),
        helper.make_node("Round", ["r"], ["y"]),
    ]
    sides = [helper.make_tensor_value_info(PICTURE, TensorProto.UINT8, ["n", "h", "w", 3])]
    ends = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels, height, width])]
    stored = [numpy_helper.from_array(np.array([1, channels, height, width]), "size")]
    graph = helper.make_graph(nodes, "g", sides, ends, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize("antialias", [0, 1])
def test_the_resize_operator_is_further_from_pillow(antialias: int) -> None:
    """The partner: what a wrong filter gives is far beyond what is allowed."""
    preprocess = preprocessing()
    run = open_unoptimised(resize_operator(preprocess, antialias), Path("m"))
    assert apart(lambda pictures: run({PICTURE: pictures})["y"], preprocess, (100, 28)) > 2


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_float32_rounds_to_the_levels_of_float64(size: tuple[int, int]) -> None:
    """Ties, of which small pictures have many, go the same way whatever a runtime rounds in a sum."""
    preprocess = preprocessing()
    model = file_for(preprocess)
    images = np.stack([picture(size, seed) for seed in range(2)])
    exact = run_file_exact(model, {PICTURE: images})["y"]
    (mine,) = open_unoptimised(model, Path("m"))({PICTURE: images}).values()
    np.testing.assert_allclose(mine, exact, atol=1e-5)


def test_the_reference_evaluator_takes_it() -> None:
    preprocess = preprocessing()
    evaluator = ReferenceEvaluator(file_for(preprocess))
    image = picture((60, 30))
    expected = preprocess.normalise(preprocess.open(image)[None])
    numbers = np.asarray(next(iter(evaluator.run(None, {PICTURE: image[None]}))))
    assert np.abs(numbers - expected).max() <= 1.01 * MOST / 255 / min(preprocess.std)


def test_openvino_takes_it() -> None:
    openvino = pytest.importorskip("openvino", exc_type=ImportError)
    preprocess, core = preprocessing("grey"), openvino.Core()
    model = core.read_model(file_for(preprocess).SerializeToString())
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in SIZES[:5]:
        image = picture(size)
        expected = open_unoptimised(file_for(preprocess), Path("m"))({PICTURE: image[None]})["y"]
        np.testing.assert_allclose(compiled({PICTURE: image[None]})[0], expected, atol=1e-5)


def test_tensorrts_parser_takes_it_and_refuses_an_antialiased_resize(rtx: TensorRT) -> None:
    builder = rtx.api.Builder(rtx.api.Logger(rtx.api.Logger.INTERNAL_ERROR))
    parsed = []
    for model in (file_for(preprocessing("grey")), resize_operator(preprocessing(), 1)):
        network = builder.create_network()
        parsed.append(rtx.api.OnnxParser(network, rtx.api.Logger(rtx.api.Logger.INTERNAL_ERROR)).parse(model.SerializeToString()))
    assert parsed == [True, False]


def test_the_batch_is_that_of_the_network() -> None:
    assert picture_spec(spec_of(preprocessing(), 4)).shape == (4, "height", "width", 3)


def test_a_file_of_an_old_opset_is_refused() -> None:
    preprocess = preprocessing()
    with pytest.raises(ModelError, match="opset 12, and resizing needs 13"):
        with_pictures(network(preprocess, 12), spec_of(preprocess), preprocess)
