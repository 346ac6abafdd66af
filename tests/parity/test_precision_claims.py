"""What a file computes in decides what it is held to: a manifest that says something else of it fails by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgekit.bundle.folder import open_bundle
from edgekit.commands.export import export
from edgekit.commands.quantize import quantize
from edgekit.commands.verify import verify
from edgekit.errors import BundleError
from edgekit.parity.manifest import check_manifest
from edgekit.sources import ExportOptions
from edgekit.variants import Wanted
from tests.bundle.editing import edit, npz, put
from tests.converted import changed, copied, stored
from tests.onnx.crafted import model_of, node, tensor

Change = Callable[[dict[str, Any], dict[str, Any]], object]
ORT = ["ort-cpu"]
DROPPED = "the manifest does not say how it was converted, nor what its file computed then"


def failing(root: Path) -> dict[str, str]:
    bundle = open_bundle(root)
    checks = check_manifest(bundle, bundle.golden(), bundle.evidence())
    return {check.code: check.text for check in checks if check.outcome == "fail"}


def without_conversion(document: dict[str, Any], variant: str) -> None:
    (described,) = (each for each in document["variants"] if each["name"] == variant)
    described.update(conversion=None)
    described["allowance"] = {"tolerance": {"atol": 0.0, "rtol": {"int8": 5e-2, "float16": 2e-2}[variant], "top1": 1.0}}


def one_code(model: onnx.ModelProto) -> None:
    """One stored weight of the fourth convolution in 8 bits is another."""

    def change(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        codes = codes.copy()
        row = codes[2].reshape(-1)
        row[5] += 75 if row[5] < 0 else -75
        return codes

    stored(model, [tensor.name for tensor in model.graph.initializer if tensor.name.endswith("/codes")][3], change)


def test_an_int8_file_that_is_not_said_to_be_converted_fails_although_its_bars_hide_a_changed_weight(
    repository: Path, tmp_path: Path
) -> None:
    root = copied(repository, tmp_path, "edgenet")
    put(root, "int8.onnx", changed(root, "int8.onnx", one_code))
    setup = ["ort-cpu variant=int8"]
    assert [parity.passed for parity in verify(root, setup).parities] == [True, False]  # as written it shows
    edit(root, lambda document: without_conversion(document, "int8"))
    report = verify(root, setup)
    assert [parity.passed for parity in report.parities] == [True]  # 5 % of scale is all that is left to hold it to
    assert not report.passed
    assert failing(root) == {"conversion": f"int8: {DROPPED}"}
    assert verify(root, setup, allow=["conversion"]).passed


def test_a_float16_file_that_is_not_said_to_be_converted_fails(lenet: Path) -> None:
    edit(lenet, lambda document: without_conversion(document, "float16"))
    assert failing(lenet) == {"conversion": f"float16: {DROPPED}"}


STEPS, NOT_MOSTLY = "and its file computes in steps of 8 bits", "and most of what its file holds or computes is not"


@pytest.mark.parametrize(
    ("variant", "said", "because"),
    [
        (0, "float16", NOT_MOSTLY),
        (0, "bfloat16", NOT_MOSTLY),
        (0, "int8", NOT_MOSTLY),
        (1, "float32", STEPS),
        (1, "float64", STEPS),
        (1, "float16", STEPS),
        (1, "bfloat16", STEPS),
        (2, "float32", "and its file is float16"),
        (2, "int8", NOT_MOSTLY),
        (2, "bfloat16", NOT_MOSTLY),
    ],
)
def test_a_file_is_of_no_other_precision_than_it_computes_in(lenet: Path, variant: int, said: str, because: str) -> None:
    name = open_bundle(lenet).manifest.variants[variant].name
    edit(lenet, lambda document: document["variants"][variant].update(precision=said))
    assert failing(lenet)["precision"] == f"{name} is said to be {said}, {because}"


def test_a_file_of_full_precision_was_not_converted(lenet: Path) -> None:
    def converted(document: dict[str, Any]) -> None:
        first, int8, _ = document["variants"]
        first.update(conversion={**int8["conversion"], "ranges": None})
        int8.update(conversion=None)

    edit(lenet, converted)
    bundle = open_bundle(lenet)
    said = [check.text for check in check_manifest(bundle, bundle.golden(), None) if check.code == "conversion"]
    assert said[0] == "float32: the manifest says how it was converted, and float32 is the precision of no converted file"


def exchanged(first: dict[str, Any], second: dict[str, Any], *keys: str) -> None:
    for key in keys:
        first["conversion"][key], second["conversion"][key] = second["conversion"][key], first["conversion"][key]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda int8, half: exchanged(int8, half, "outputs"), "errors", "float16: the manifest says the file's error is"),
        (lambda int8, half: exchanged(int8, half, "ranges", "calibration"), "conversion", "float16: "),
        (
            lambda int8, half: exchanged(int8, half, *int8["conversion"]),
            "conversion",
            "float16: ",
        ),
    ],
)
def test_the_conversion_of_another_variant_is_told(lenet: Path, change: Change, code: str, said: str) -> None:
    edit(lenet, lambda document: change(*document["variants"][1:]))
    assert failing(lenet)[code].startswith(said)


@pytest.mark.parametrize("key", ["outputs", "ranges"])
def test_two_variants_of_one_recorded_file_are_refused(lenet: Path, key: str) -> None:
    def borrowed(document: dict[str, Any]) -> None:
        int8, half = document["variants"][1:]
        half["conversion"][key] = int8["conversion"][key]

    edit(lenet, borrowed)
    with pytest.raises(BundleError, match=r"has two variants of one file, int8\.(npz|json)"):
        open_bundle(lenet)


def beside(*nodes: onnx.NodeProto, tensors: tuple[onnx.TensorProto, ...]) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.extend(tensors)
        model.graph.node.extend(nodes)

    return change


def many(kind: int) -> onnx.TensorProto:
    return helper.make_tensor("many", kind, (1000, 1000), np.zeros(2 * 1000 * 1000, np.uint8).tobytes(), raw=True)


@pytest.mark.parametrize(("said", "kind"), [("bfloat16", TensorProto.BFLOAT16), ("float16", TensorProto.FLOAT16)])
def test_numbers_beside_the_way_to_the_outputs_buy_no_wider_bar(lenet: Path, said: str, kind: int) -> None:
    dead = helper.make_node("Cast", ["many"], ["dead"], to=TensorProto.FLOAT)
    put(lenet, "model.onnx", changed(lenet, "model.onnx", beside(dead, tensors=(many(kind),))))
    edit(lenet, lambda document: document["variants"][0].update(precision=said))
    assert failing(lenet)["precision"] == f"float32 is said to be {said}, {NOT_MOSTLY}"


def test_steps_beside_the_way_to_the_outputs_buy_no_wider_bar(lenet: Path) -> None:
    tensors = (numpy_helper.from_array(np.float32(1), "dead.scale"), numpy_helper.from_array(np.int8(0), "dead.zero"))
    nodes = [helper.make_node("QuantizeLinear", ["input", "dead.scale", "dead.zero"], [f"dead.{number}"]) for number in range(9)]
    put(lenet, "model.onnx", changed(lenet, "model.onnx", beside(*nodes, tensors=tensors)))
    edit(lenet, lambda document: document["variants"][0].update(precision="int8"))
    assert failing(lenet)["precision"] == f"float32 is said to be int8, {NOT_MOSTLY}"


class HalfOutputs(nn.Sequential):
    """A network that computes in float32 and gives float16, of which a bundle is float16."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x).half()  # type: ignore[no-untyped-call]  # torch has not typed it


def half_outputs() -> nn.Module:
    torch.manual_seed(0)
    return HalfOutputs(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))


def test_a_float32_network_with_float16_outputs_is_a_float16_bundle_that_passes(tmp_path: Path) -> None:
    options = ExportOptions(input_shapes=("1x3x6x6",))
    export("tests.parity.test_precision_claims:half_outputs", tmp_path / "bundle", options)
    assert open_bundle(tmp_path / "bundle").variant().precision == "float16"
    assert verify(tmp_path / "bundle", ORT).passed
    edit(tmp_path / "bundle", lambda document: document["variants"][0]["allowance"]["tolerance"].update(rtol=2e-2))
    said = failing(tmp_path / "bundle")["tolerance"]
    assert said.startswith("the bundle asks for a wider bar for float16 than its recorded outputs support: 0.02 rtol instead of")


def test_an_error_that_nothing_recorded_shows_buys_a_float16_file_no_wider_bar(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    export("tests.parity.test_precision_claims:half_outputs", root, ExportOptions(input_shapes=("1x3x6x6",)))
    assert failing(root) == {}
    with np.load(root / "evidence.npz") as content:
        arrays = {name: content[name] for name in content.files if name != "error"}
    put(root, "evidence.npz", npz(arrays))
    assert list(failing(root)) == ["errors"]
    assert failing(root)["errors"] == "evidence.npz has not the file's error, which edgekit export records there"

    def claimed(document: dict[str, Any]) -> None:
        document["variants"][0].update(error=0.0025)
        document["variants"][0]["allowance"]["tolerance"].update(rtol=2e-2)
        document["fold"].update(error_exported=0.0025)

    edit(root, claimed)
    assert set(failing(root)) == {"errors", "tolerance"}
    put(root, "evidence.npz", npz({**arrays, "error": np.array([0.0025])}))
    assert list(failing(root)) == ["tolerance"]  # by the original's own error, which the golden arrays show
    put(root, "evidence.npz", npz({**arrays, "error": np.zeros(0)}))
    with pytest.raises(BundleError, match="its error is 0 numbers, not 1"):
        open_bundle(root).evidence()


def stack(*, dtype: str = "float32") -> onnx.ModelProto:
    """Twelve products and nonlinearities."""
    nodes, stored_weights = list[onnx.NodeProto](), []
    for place in range(12):
        before, after = ("x" if place == 0 else f"a{place}"), ("y" if place == 11 else f"a{place + 1}")
        nodes += [
            node("MatMul", [before, f"w{place}"], f"m{place}", f"product{place}"),
            node("Tanh", [f"m{place}"], after, f"tanh{place}"),
        ]
        stored_weights.append(tensor(f"w{place}", 16, 16, dtype=dtype))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = model_of(nodes, stored_weights, shape=("batch", 16), rank=2, kind=kind)
    model.graph.output[0].type.tensor_type.elem_type = kind
    return model


def one_activation_in_steps() -> onnx.ModelProto:
    model = stack()
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(1 / 127), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
    )
    for place, name in enumerate(("QuantizeLinear", "DequantizeLinear")):
        inputs = ["a6" if place == 0 else "codes", "scale", "zero"]
        model.graph.node.insert(12 + place, helper.make_node(name, inputs, [("codes", "read")[place]], name))
    next(each for each in model.graph.node if each.name == "product6").input[0] = "read"
    return model


def weights_as_constants() -> onnx.ModelProto:
    model = stack(dtype="float16")
    constants = [helper.make_node("Constant", [], [each.name], value=each) for each in model.graph.initializer]
    del model.graph.initializer[:]
    for constant in constants:
        model.graph.node.insert(0, constant)
    return model


def weights_behind_casts() -> onnx.ModelProto:
    model = stack(dtype="float16")
    for place in range(12):
        model.graph.initializer[place].CopyFrom(tensor(f"w{place}", 16, 16))
        next(each for each in model.graph.node if each.name == f"product{place}").input[1] = f"w{place}.half"
        model.graph.node.insert(0, helper.make_node("Cast", [f"w{place}"], [f"w{place}.half"], to=TensorProto.FLOAT16))
    return model


def stored_in_half() -> onnx.ModelProto:
    """Weights of 16 bits that are computed with in float32."""
    model = stack()
    for place in range(12):
        model.graph.initializer[place].CopyFrom(tensor(f"w{place}", 16, 16, dtype="float16"))
        next(each for each in model.graph.node if each.name == f"product{place}").input[1] = f"w{place}.wide"
        model.graph.node.insert(0, helper.make_node("Cast", [f"w{place}"], [f"w{place}.wide"], to=TensorProto.FLOAT))
    return model


@pytest.mark.parametrize(
    ("make", "precision"),
    [
        (stack, "float32"),
        (one_activation_in_steps, "int8"),
        (weights_as_constants, "float16"),
        (weights_behind_casts, "float16"),
        (stored_in_half, "float32"),
    ],
)
def test_a_fresh_bundle_of_a_file_is_of_the_precision_that_verify_finds(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], precision: str
) -> None:
    onnx.save(make(), tmp_path / "net.onnx")
    export(str(tmp_path / "net.onnx"), tmp_path / "bundle")
    assert open_bundle(tmp_path / "bundle").variant().precision == precision
    assert failing(tmp_path / "bundle") == {}
    other = "float16" if precision != "float16" else "float32"
    edit(tmp_path / "bundle", lambda document: document["variants"][0].update(precision=other))
    assert "precision" in failing(tmp_path / "bundle")


@pytest.mark.parametrize(("to", "wanted"), [("int8", Wanted(calibrate="random")), ("float16", Wanted())])
def test_a_conversion_that_keeps_all_layers_but_one_is_of_its_precision(tmp_path: Path, to: str, wanted: Wanted) -> None:
    onnx.save(stack(), tmp_path / "net.onnx")
    export(str(tmp_path / "net.onnx"), tmp_path / "bundle")
    layers = [each.name for each in onnx.load(tmp_path / "bundle" / "model.onnx").graph.node if each.op_type == "MatMul"]
    quantize(tmp_path / "bundle", to, msgspec.structs.replace(wanted, keep=tuple(layers[1:])))
    assert failing(tmp_path / "bundle") == {}
    edit(tmp_path / "bundle", lambda document: document["variants"][1]["conversion"].update(converted=40, kept=[]))
    assert set(failing(tmp_path / "bundle")) == {"conversion"}
