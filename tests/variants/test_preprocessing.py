"""The variant with-preprocessing takes pictures, is a variant like any other, and a wrong file or claim of it fails verify."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import edgekit
from edgekit.bundle.folder import Bundle, open_bundle, write_bundle
from edgekit.bundle.manifest import Variant
from edgekit.commands.bench import bench
from edgekit.commands.bisect import bisect
from edgekit.commands.evaluate import evaluate
from edgekit.commands.export import export
from edgekit.commands.inspect import inspect
from edgekit.commands.predict import predict
from edgekit.commands.quantize import quantize
from edgekit.commands.verify import verify
from edgekit.errors import BundleError, ModelError, UsageError
from edgekit.latency.loop import Timing
from edgekit.latency.search_space import search_space
from edgekit.parity.manifest import check_manifest
from edgekit.ship.onnxruntime_web import WebRuntime
from edgekit.ship.triton import model_of
from edgekit.ship.web import page_files
from edgekit.sources import ExportOptions
from edgekit.variants import Wanted, preprocessing
from tests.onnx.crafted import conv, node, tensor
from tests.onnx.crafted import model_of as model_of_nodes

NAME, FILE = "with-preprocessing", "with-preprocessing.onnx"
SETUP = f"ort-cpu variant={NAME} threads=1"


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).parents[2] / "exported" / "lenet"
    made = tmp_path_factory.mktemp("made") / "lenet"
    quantize(source, NAME, output=made)
    return made


@pytest.fixture
def lenet(_made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_made, tmp_path / "lenet"))


def reseal(root: Path, changed: dict[str, bytes] | None = None, **fields: Any) -> Bundle:
    """The bundle with other files, and with another description of the variant."""
    opened = open_bundle(root)
    contents = {name: (root / name).read_bytes() for name in opened.manifest.files} | (changed or {})
    variant = msgspec.structs.replace(opened.variant(NAME), **fields)
    variants = tuple(variant if other.name == NAME else other for other in opened.manifest.variants)
    return write_bundle(root, msgspec.structs.replace(opened.manifest, variants=variants), contents)


def test_it_passes_verify_and_every_claim_about_it_holds(lenet: Path) -> None:
    report = verify(lenet, SETUP)
    assert report.passed, report
    assert [parity.samples for parity in report.parities] == [32]
    variant = open_bundle(lenet).variant(NAME)
    assert variant.inputs
    assert variant.inputs[0].shape == ("batch", "height", "width", 3)
    assert variant.golden
    assert len(variant.golden.pictures) == 4
    assert variant.made_by["grey_levels_from_pillow"] <= 1
    assert variant.accuracy is None or abs(variant.accuracy - (open_bundle(lenet).manifest.test_accuracy or 0)) <= 2e-4


def weights_of(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        tensor = next(each for each in model.graph.initializer if each.name == f"picture.input.{name}")
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))

    return edit


def without_antialias(model: onnx.ModelProto) -> None:
    """The filter is as wide as when enlarging."""
    for step in model.graph.node:
        if step.name.endswith(".reach"):
            step.input[0] = step.input[0].replace(".wider", ".size")


FAULTS = {
    "mean": weights_of("mean", lambda mean: mean + np.float32(1 / 255)),
    "std": weights_of("std", lambda std: std * np.float32(1.002)),
    "grey": weights_of("grey.weights", lambda weights: weights[::-1].copy() * np.float32(0.99)),
    "rounding": weights_of("round", lambda half: half - np.float32(0.5)),
    "antialias": without_antialias,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_preprocesses_otherwise_fails_verify(lenet: Path, fault: str) -> None:
    model = onnx.load_from_string((lenet / FILE).read_bytes())
    FAULTS[fault](model)
    reseal(lenet, {FILE: model.SerializeToString()})
    report = verify(lenet, SETUP)
    assert not report.passed
    assert all(check.outcome != "fail" for check in report.checks)


@pytest.mark.parametrize("levels", [2.0, 3.0])
def test_a_file_that_resizes_by_more_than_two_levels_otherwise_than_pillow_is_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch, levels: float
) -> None:
    bundle = open_bundle(repository / "exported" / "lenet")
    monkeypatch.setattr(preprocessing, "_apart", lambda *arguments: np.array([0.0, levels]))
    if levels > 2:
        with pytest.raises(ModelError, match="resizes pictures by up to 3 grey levels otherwise than Pillow, 2 are allowed"):
            preprocessing.convert(bundle, Wanted())
    else:
        assert preprocessing.convert(bundle, Wanted()).draft.variant.made_by["grey_levels_from_pillow"] == 2


def test_a_golden_picture_that_gets_another_label_than_behind_pillow_is_refused(lenet: Path) -> None:
    bundle, scores = open_bundle(lenet), np.eye(4)
    preprocessing._check_labels(bundle, {"y": scores}, {"y": scores * 2}, ())
    with pytest.raises(ModelError, match="has another label behind this resizing than behind Pillow's"):
        preprocessing._check_labels(bundle, {"y": scores}, {"y": scores[[0, 1, 3, 2]]}, ())


def one_weight(model: onnx.ModelProto) -> None:
    tensor = next(each for each in model.graph.initializer if each.name == "15.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[2, 5] *= np.float32(1.1)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def other_stride(model: onnx.ModelProto) -> None:
    conv = next(step for step in model.graph.node if step.op_type == "Conv")
    next(each for each in conv.attribute if each.name == "dilations").ints[:] = [2, 2]


@pytest.mark.parametrize(("change", "part"), [(one_weight, "the tensor '15.weight'"), (other_stride, "the node Conv of ")])
def test_a_file_of_another_network_fails_although_its_own_reference_is_its_own_too(
    lenet: Path, change: Callable[[onnx.ModelProto], None], part: str
) -> None:
    model = onnx.load_from_string((lenet / FILE).read_bytes())
    change(model)
    reseal(lenet, {FILE: model.SerializeToString()})
    said = failing(lenet)["own-inputs"]
    assert said.startswith(f"{NAME}: it has inputs of its own, and its file has not {part}")
    assert said.endswith("as model.onnx has")


def test_a_reference_of_its_own_that_says_something_else_of_a_golden_picture_fails(lenet: Path) -> None:
    golden = open_bundle(lenet).golden(NAME)
    (name,) = golden.float64
    wide = golden.float64[name].copy()
    wide[1] += 0.05 * np.abs(open_bundle(lenet).golden().float64[name]).max()  # keeps its label
    reseal(lenet, {preprocessing.GOLDEN: msgspec.structs.replace(golden, float64={name: wide}).to_npz()}, error=None)
    assert f"gives {name!r} by its own reference that is" in failing(lenet)["own-inputs"]


def failing(root: Path) -> dict[str, str]:
    bundle = open_bundle(root)
    return {check.code: check.text for check in check_manifest(bundle, bundle.golden(), None) if check.outcome == "fail"}


def other_labels(variant: Variant) -> dict[str, Any]:
    assert variant.golden
    first, second, *others = variant.golden.pictures
    swapped = [msgspec.structs.replace(first, file=second.file), msgspec.structs.replace(second, file=first.file)]
    return {"golden": msgspec.structs.replace(variant.golden, pictures=(*swapped, *others))}


def unknown_picture(variant: Variant) -> dict[str, Any]:
    assert variant.golden
    picture = msgspec.structs.replace(variant.golden.pictures[0], file="other.png")
    return {"golden": msgspec.structs.replace(variant.golden, pictures=(picture,))}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda variant: {"error": 1e-9}, "the manifest says the file's error is 1.0e-09"),
        (other_labels, "has another label by its own reference"),
        (unknown_picture, "other.png is no golden picture"),
    ],
)
def test_a_false_claim_about_it_is_named(lenet: Path, change: Callable[[Variant], dict[str, Any]], part: str) -> None:
    assert "own-inputs" not in failing(lenet)
    reseal(lenet, **change(open_bundle(lenet).variant(NAME)))
    assert part in failing(lenet)["own-inputs"]
    assert failing(lenet)["own-inputs"].startswith(f"{NAME}: ")


def test_inputs_go_with_golden_samples_of_them(lenet: Path) -> None:
    document = json.loads((lenet / "manifest.json").read_text())
    del document["variants"][1]["golden"]
    (lenet / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="has inputs of its own without golden samples"):
        open_bundle(lenet)


def test_another_picture_size_than_that_of_the_golden_file_is_refused(lenet: Path) -> None:
    variant = open_bundle(lenet).variant(NAME)
    assert variant.golden
    with pytest.raises(BundleError, match="is not the golden file its manifest describes"):
        reseal(lenet, golden=msgspec.structs.replace(variant.golden, axes={"height": 42, "width": 43}))


def pictures(folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for place, size in enumerate([(28, 28), (60, 90), (10, 13), (200, 31), (60, 90)]):
        noise = np.random.default_rng(place).integers(0, 255, (*size, 3), np.uint8)
        noise[: size[0] // 2, size[1] // 3 :] = 20 * place
        Image.fromarray(noise).save(folder / f"{place}.png")
    return sorted(folder.glob("*.png"))


def test_predict_labels_pictures_of_any_size_as_the_first_file_does(lenet: Path, tmp_path: Path) -> None:
    paths = [*pictures(tmp_path / "noise"), *sorted(lenet.glob("picture-*.png"))]
    mine, first = (predict(lenet, paths, setup, top=10).predictions for setup in (SETUP, "ort-cpu threads=1"))
    for one, other in zip(mine, first, strict=True):
        assert one.guesses[0].label == other.guesses[0].label
        expected = {guess.label: guess.probability for guess in other.guesses}
        assert {guess.label: guess.probability for guess in one.guesses} == pytest.approx(expected, abs=0.02)


def test_a_program_gives_it_several_pictures_of_several_sizes_at_once(lenet: Path, tmp_path: Path) -> None:
    paths = pictures(tmp_path / "noise")
    with edgekit.load(lenet, SETUP) as model:
        model.warm_up()
        together, alone = model.predict(paths), [model.predict(path) for path in paths]
        assert [one.label for one in together] == [one.label for one in alone]
        assert model(np.zeros((2, 50, 60, 3), np.uint8)).shape == (2, 10)


def test_it_is_timed_evaluated_and_inspected_like_any_other(lenet: Path, tmp_path: Path) -> None:
    assert bench(lenet, SETUP, Timing((1, 2), 0.01)).passed
    labels = open_bundle(lenet).manifest.labels
    for place, path in enumerate(pictures(tmp_path / "noise")):
        (tmp_path / "data" / str(place % 2)).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "data" / str(place % 2) / path.name)
    mine, first = (evaluate(lenet, tmp_path / "data", setup).rows[0] for setup in (SETUP, "ort-cpu"))
    assert mine.top1 == first.top1
    described = inspect(lenet, variant=NAME)
    assert any(layer.op == "Conv" for layer in described.layers)
    assert described.variants[1].name == NAME
    assert len(labels) == 10


def test_tune_does_not_put_it_in_the_place_of_files_that_take_other_inputs(lenet: Path) -> None:
    assert {setup.variant for setup in search_space(open_bundle(lenet)).setups} == {"float32"}


def test_bisect_says_that_no_nodes_of_it_are_recorded(lenet: Path) -> None:
    model = onnx.load_from_string((lenet / FILE).read_bytes())
    FAULTS["mean"](model)
    reseal(lenet, {FILE: model.SerializeToString()})
    with pytest.raises(UsageError, match="has inputs of its own"):
        bisect(lenet, SETUP)


def test_it_is_made_again_in_its_own_place_to_the_same_bytes(lenet: Path) -> None:
    before = (lenet / FILE).read_bytes(), open_bundle(lenet).golden(NAME).to_npz()
    quantize(lenet, NAME)
    after = open_bundle(lenet)
    assert (after.onnx_bytes(NAME), after.golden(NAME).to_npz()) == before
    assert [variant.name for variant in after.manifest.variants] == ["float32", NAME]


def test_golden_samples_that_are_all_there_as_pictures_are_enough(lenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_bundle(lenet)
    pictures, preprocess = opened.manifest.golden.pictures, opened.manifest.preprocess
    assert preprocess is not None
    size = preprocess.height * preprocessing.LARGER[0] // preprocessing.LARGER[1]
    monkeypatch.setattr(preprocessing, "_file", lambda *_: np.zeros((size, size, 3), np.uint8))
    monkeypatch.setattr(preprocessing, "_levels", lambda *_: np.zeros((len(pictures), 28, 28, 3), np.uint8))
    golden = preprocessing.golden_pictures(opened, preprocess)
    assert [(part.kind, part.samples) for part in golden.parts] == [("pictures", len(pictures))]
    assert golden.images.shape == (len(pictures), size, size, 3)


def test_a_bundle_without_golden_picture_files_gets_it_too(bundle: Path) -> None:
    assert not open_bundle(bundle).manifest.golden.pictures
    quantize(bundle, NAME)
    assert verify(bundle, SETUP).passed


def test_a_wish_is_refused_and_so_is_a_bundle_without_preprocessing(bundle: Path) -> None:
    with pytest.raises(UsageError, match="takes no wishes"):
        quantize(bundle, NAME, Wanted(keep=("node_conv2d",)))
    opened = open_bundle(bundle)
    contents = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    write_bundle(bundle, msgspec.structs.replace(opened.manifest, preprocess=None), contents)
    with pytest.raises(BundleError, match="records no preprocessing"):
        quantize(bundle, NAME)


def test_other_forms_of_the_bundle_say_what_it_takes(lenet: Path) -> None:
    bundle = open_bundle(lenet)
    config = model_of(bundle, NAME).files["config.pbtxt"].decode()
    assert "dims: [-1, -1, 3]\n  format: FORMAT_NHWC" in config
    assert "FORMAT_NCHW" in model_of(bundle, "float32").files["config.pbtxt"].decode()
    with pytest.raises(UsageError, match="the page preprocesses them itself"):
        page_files(bundle, NAME, WebRuntime("1.30.0", {}))


def test_a_bundle_of_a_fixed_batch_gets_it_with_that_batch(tmp_path: Path) -> None:
    resize = onnx.helper.make_node("Resize", ["c", "", "", "size"], ["r"], "resize", mode="nearest")  # its batch is stored
    nodes = [conv(), resize, node("GlobalAveragePool", ["r"], "p"), node("Flatten", ["p"], "y")]
    stored = [tensor("w", 6, 3, 3, 3), numpy_helper.from_array(np.array([3, 6, 12, 12]), "size")]
    onnx.save(model_of_nodes(nodes, stored, shape=(3, 3, 8, 8), rank=2), tmp_path / "n.onnx")
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\nf\n")
    options = ExportOptions(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), labels=tmp_path / "labels.txt")
    export(str(tmp_path / "n.onnx"), tmp_path / "bundle", options)
    quantize(tmp_path / "bundle", NAME)
    variant = open_bundle(tmp_path / "bundle").variant(NAME)
    assert variant.inputs
    assert variant.inputs[0].shape == (3, "height", "width", 3)
    assert verify(tmp_path / "bundle", SETUP).passed
    paths = pictures(tmp_path / "noise")
    mine, first = (predict(tmp_path / "bundle", paths, setup).predictions for setup in (SETUP, "ort-cpu"))
    assert [one.guesses[0].label for one in mine] == [one.guesses[0].label for one in first]
