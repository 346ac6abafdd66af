"""Tables of layers: shapes, parameters, multiply-accumulates and operators, from ONNX files and from modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.commands.export import export as export_bundle
from edgekit.commands.inspect import inspect
from edgekit.errors import BundleError, ModelError, UsageError
from edgekit.reports.inspect import InspectReport, Layer
from edgekit.sources import ExportOptions
from tests.command_line import Command
from tests.converted import convert, copied

LENET_MACS = 6 * 24 * 24 * 25 + 16 * 8 * 8 * 6 * 25 + 256 * 120 + 120 * 84 + 84 * 10
LENET_WEIGHTS = (6 * 25 + 6) + (16 * 6 * 25 + 16) + (256 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
LENET_NORMS = 2 * (6 + 16 + 120 + 84)


@pytest.fixture(scope="module")
def unfolded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("unfolded") / "bundle"
    export_bundle("lenet", root, ExportOptions(fold_bn=False))
    return root


def shape_of(report: InspectReport, name: str) -> tuple[int | str, ...]:
    return next(layer.output_shape for layer in report.layers if layer.name == name)


def test_a_folded_bundle_holds_no_batch_norm_and_its_counts_are_the_formulas(bundle: Path) -> None:
    report = inspect(str(bundle))
    assert report.batch_norms == 0
    assert (report.parameters, report.macs) == (LENET_WEIGHTS, LENET_MACS)
    assert report.ops == {"Conv": 2, "Gemm": 3, "MaxPool": 2, "Reshape": 1, "Sigmoid": 4}
    assert report.inputs == {"input": "float32 batch x 1 x 28 x 28"}
    assert report.outputs == {"output": "float32 batch x 10"}
    assert report.facts["opset"] == "20"
    assert report.facts["edgekit.source"] == "lenet"


def test_an_unfolded_bundle_counts_as_the_module_it_came_from(unfolded: Path) -> None:
    onnx_side, torch_side = inspect(str(unfolded)), inspect("lenet")
    assert onnx_side.batch_norms == torch_side.batch_norms == 4
    assert onnx_side.ops["BatchNormalization"] == 4
    assert onnx_side.parameters == torch_side.parameters == LENET_WEIGHTS + LENET_NORMS
    assert onnx_side.macs == torch_side.macs == LENET_MACS
    assert onnx_side.inputs == torch_side.inputs
    assert onnx_side.outputs == torch_side.outputs
    shapes = [[layer.output_shape for layer in side.layers if layer.macs] for side in (onnx_side, torch_side)]
    assert shapes[0] == shapes[1]


def test_the_layers_add_up_to_the_totals(unfolded: Path, bundle: Path) -> None:
    for target in (str(unfolded), str(bundle), "lenet"):
        report = inspect(target)
        assert sum(layer.parameters for layer in report.layers) == report.parameters
        assert sum(layer.macs for layer in report.layers) == report.macs


def test_a_file_is_read_like_its_bundle(bundle: Path) -> None:
    from_bundle, from_file = inspect(str(bundle)), inspect(str(bundle / "model.onnx"))
    assert from_file.origin == {}
    assert from_file == msgspec.structs.replace(from_bundle, origin={})


@pytest.mark.parametrize("name", ["NET.ONNX", "net.Onnx"])
def test_a_file_of_a_name_in_capitals_is_read_as_an_onnx_file(bundle: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((bundle / "model.onnx").read_bytes())
    report, same = inspect(str(tmp_path / name)), inspect(str(bundle / "model.onnx"))
    assert (report.parameters, report.macs, report.ops) == (same.parameters, same.macs, same.ops)


def test_a_report_goes_to_json_and_back(bundle: Path) -> None:
    report = inspect(str(bundle))
    assert InspectReport.from_json(report.to_json()) == report


def test_lenet_has_the_shapes_of_its_definition() -> None:
    report = inspect("lenet")
    assert [layer.output_shape[1:] for layer in report.layers] == [
        (6, 24, 24), (6, 24, 24), (6, 24, 24), (6, 12, 12),
        (16, 8, 8), (16, 8, 8), (16, 8, 8), (16, 4, 4), (256,),
        (120,), (120,), (120,), (84,), (84,), (84,), (10,),
    ]  # fmt: skip


def test_resnet18_at_224_has_the_stages_of_its_definition() -> None:
    report = inspect("resnet18", input_shapes=("1x1x224x224",))
    stages = {f"stage{number}": shape_of(report, f"stage{number}") for number in (1, 2, 3, 4)}
    assert stages == {
        "stage1": ("batch", 64, 56, 56),
        "stage2": ("batch", 128, 28, 28),
        "stage3": ("batch", 256, 14, 14),
        "stage4": ("batch", 512, 7, 7),
    }
    assert shape_of(report, "stem") == ("batch", 64, 56, 56)
    assert report.outputs == {"output": "float32 batch x 10"}
    assert report.batch_norms == 17


def test_densenet_at_96_has_the_channels_of_its_definition() -> None:
    report = inspect("densenet", input_shapes=("1x1x96x96",))
    assert [layer.output_shape[1] for layer in report.layers if layer.output_shape[1:] == (248, 3, 3)]
    assert report.outputs == {"output": "float32 batch x 10"}


def test_torchvisions_resnet18_by_its_import_path_counts_as_published() -> None:
    def block(inside: int, outside: int, side: int) -> int:
        shortcut = inside * outside * side**2 if inside != outside else 0
        return (inside * outside + outside * outside) * 9 * side**2 + shortcut + 2 * outside * outside * 9 * side**2

    macs = 3 * 64 * 49 * 112**2 + sum(block(*stage) for stage in ((64, 64, 56), (64, 128, 28), (128, 256, 14), (256, 512, 7)))
    report = inspect("torchvision.models:resnet18", input_shapes=("1x3x224x224",))
    assert report.parameters == 11_689_512
    assert report.macs == macs + 512 * 1000 == 1_814_073_344
    assert report.batch_norms == 20


def one_node(op: str, x: tuple[int, ...], weight: tuple[int, ...], y: tuple[int, ...], **attributes: Any) -> Layer:
    """The row of a model with a single node and a free batch axis."""
    tensor = numpy_helper.from_array(np.zeros(weight, np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name, shape in (("x", x), ("y", y))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], "node", **attributes)], "g", values[:1], values[1:], [tensor]
    )
    path = Path("one.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    (layer,) = inspect(str(path)).layers
    return layer


@pytest.mark.parametrize(
    ("op", "x", "weight", "y", "attributes", "macs"),
    [
        ("Conv", (4, 8, 8), (6, 4, 3, 3), (6, 6, 6), {}, 6 * 36 * 4 * 9),
        ("Conv", (4, 8, 8), (4, 1, 3, 3), (4, 6, 6), {"group": 4}, 4 * 36 * 9),
        ("Conv", (4, 9, 9), (6, 4, 3, 3), (6, 4, 4), {"strides": [2, 2]}, 6 * 16 * 4 * 9),
        ("ConvTranspose", (4, 8, 8), (4, 5, 2, 2), (5, 16, 16), {"strides": [2, 2]}, 4 * 64 * 5 * 4),
        ("Gemm", (7,), (3, 7), (3,), {"transB": 1}, 21),
        ("Gemm", (7,), (7, 3), (3,), {}, 21),
        ("MatMul", (5, 7), (7, 3), (5, 3), {}, 5 * 7 * 3),
    ],
)
def test_multiply_accumulates_follow_the_formula_of_each_operator(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    op: str,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    y: tuple[int, ...],
    attributes: dict[str, object],
    macs: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    layer = one_node(op, x, weight, y, **attributes)
    assert layer == Layer("node", op, ("batch", *y), int(np.prod(weight)), macs)


def test_a_file_whose_numbers_lie_beside_it_can_be_described(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    report = inspect(str(tmp_path / "m.onnx"))
    assert (report.parameters, report.batch_norms) == (LENET_WEIGHTS, 0)


def valid(bundle: Path) -> bytes:
    return (bundle / "model.onnx").read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "zeros", "missing", "folder", "cyclic"])
def test_a_file_that_is_no_onnx_file_is_refused_in_one_sentence_that_names_it(bundle: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.onnx"
    content = {
        "truncated": valid(bundle)[:-1000],
        "empty": b"",
        "text": b"# a text file\n" * 20,
        "zeros": bytes(5000),
    }
    if damage in content:
        path.write_bytes(content[damage])
    elif damage == "folder":
        path.mkdir()
    elif damage == "cyclic":
        model = onnx.load_model_from_string(valid(bundle))
        model.graph.node.reverse()
        path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"model\.onnx") as caught:
        inspect(str(path))
    assert "\n" not in str(caught.value)


def test_a_damaged_bundle_is_refused_before_it_is_read(bundle: Path) -> None:
    (bundle / "golden.npz").unlink()
    with pytest.raises(BundleError, match=r"lacks golden\.npz"):
        inspect(str(bundle))


def test_a_word_that_is_no_target_is_refused_with_the_kinds_of_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'lennet' is neither .*lenet"):
        inspect("lennet")
    with pytest.raises(BundleError, match=r"is not a bundle"):
        inspect(str(tmp_path))
    with pytest.raises(UsageError, match="needs the shape of its input"):
        inspect("torchvision.models:resnet18")


def test_an_input_of_the_wrong_shape_names_it() -> None:
    with pytest.raises(ModelError, match="30x30"):
        inspect("lenet", input_shapes=("1x1x30x30",))
    with pytest.raises(ModelError, match="32x32"):
        inspect("densenet", input_shapes=("1x1x28x28",))


def test_a_bundle_says_where_it_comes_from_and_that_its_signature_is_not_checked(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, run: Command
) -> None:
    """Whoever deploys it reads nothing else; the report has the same."""
    assert inspect(str(bundle)).origin["licence"] == "not recorded"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    export_bundle("lenet", "named", ExportOptions(license="Apache-2.0", author="A. Maker"))
    Path("named", "manifest.json.sig").write_text("whatever")
    manifest = msgspec.json.decode(Path("named", "manifest.json").read_bytes())
    hashes = {"data": {"name": "photos", "sha256": "1" * 64}, "commit": "2" * 40, "changed": True}
    training = {"epochs": 3, "seed": 7, "initial_sha256": "3" * 64, "commit": "4" * 40, "versions": {"torch": "2.11.0"}}
    manifest["provenance"] |= hashes | {"training": training}
    Path("named", "manifest.json").write_bytes(msgspec.json.encode(manifest))
    origin = inspect("named").origin
    assert origin == {
        "licence": "Apache-2.0",
        "author": "A. Maker",
        "created": "2026-01-01T00:00:00+00:00",
        "exported at commit": f"{'2' * 40}, from which tracked files differed",
        "data set": f"photos, {'1' * 64}",
        "training": "3 epochs, seed 7",
        "trained at commit": "4" * 40,
        "trained with": "torch 2.11.0",
        "sha256 of the weights before training": "3" * 64,
        "sha256 of the weights": manifest["source"]["weights_sha256"],
        "made with": ", ".join(f"{name} {version}" for name, version in manifest["tools"].items()),
        "signature": "manifest.json.sig, not checked here: edgekit verify named --public-key FILE checks by whom it is",
    }
    assert run("inspect", "named", "--json").document["origin"] == origin
    for shown in (run("inspect", "named").out, run("report", "named", "--format", "md").out):
        text = " ".join(shown.split())
        assert all(fact in text for fact in ("Apache-2.0", "A. Maker", "2026-01-01", "1" * 64, "3 epochs", "manifest.json.sig"))
    assert inspect(str(bundle)).origin["signature"] == "none"


def test_the_files_of_a_bundle_that_has_several_are_listed(repository: Path, tmp_path: Path) -> None:
    assert inspect(repository / "exported" / "lenet").variants == ()
    bundle = convert(copied(repository, tmp_path), "int8")
    report = inspect(bundle.root, variant="int8")
    assert report.source.endswith("int8.onnx")
    first, int8 = report.variants
    share = bundle.manifest.test_accuracy
    assert share is not None
    assert (first.name, first.accuracy, first.converted, first.calibrated) == ("float32", share, None, None)
    assert first.interval is not None
    assert first.interval[0] < share < first.interval[1]
    assert first.interval[1] - first.interval[0] == pytest.approx(2 * 1.96 * (share * (1 - share) / 10_000) ** 0.5, rel=0.01)
    assert (int8.converted, int8.kept, int8.calibrated, int8.accuracy) == (5, 0, True, None)
    assert int8.bytes == (bundle.root / "int8.onnx").stat().st_size
    assert int8.error == bundle.variant("int8").error
