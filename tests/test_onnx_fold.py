"""An ONNX file from elsewhere: folded by onnxscript's rules, held against the original, bundled."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from torch import nn

from edgekit import onnx_fold
from edgekit.bundle import open_bundle
from edgekit.commands import verify_bundle
from edgekit.errors import BundleError, EdgekitError, ModelError, UsageError
from edgekit.export import export_onnx
from edgekit.fold import fold
from edgekit.models.trace import output_specs
from edgekit.onnx_count import batch_norms
from edgekit.pack import ExportOptions, export_source
from tests.networks import randomise_norms
from tests.test_fold import spec


def unfolded(path: Path, *layers: nn.Module) -> Path:
    """A file that nobody has folded."""
    inputs = spec(4, 8, 8)
    graph, report = fold(randomise_norms(nn.Sequential(*layers)), inputs, fold_bn=False)
    path.write_bytes(export_onnx(graph, report, inputs, output_specs(graph, inputs)))
    return path


def network(path: Path) -> Path:
    return unfolded(
        path,
        nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, groups=2),
        nn.BatchNorm2d(6), nn.Tanh(), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(384, 5), nn.BatchNorm1d(5),
    )  # fmt: skip


def test_a_file_is_folded_and_its_bundle_verifies(tmp_path: Path) -> None:
    report = export_source(str(network(tmp_path / "net.onnx")), ExportOptions(output=tmp_path / "bundle"))
    assert (len(report.fold.folded), len(report.fold.kept)) == (3, 1)
    assert report.fold.kept[0].obstacles[0].code == "between"
    assert "but Tanh" in report.fold.kept[0].reason
    assert report.exported_error <= 1e-6
    bundle = open_bundle(tmp_path / "bundle")
    assert batch_norms(onnx.load(bundle.onnx)) == 1
    assert bundle.manifest.source.model == "net.onnx"
    checked = verify_bundle(tmp_path / "bundle")
    assert checked.passed
    assert checked.parities[0].reference.startswith("the original ONNX file")


def test_without_folding_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    report = export_source(str(path), ExportOptions(output=tmp_path / "bundle", fold_bn=False))
    assert len(report.fold.kept) == 4
    assert report.exported_error == 0


def test_a_shared_output_and_a_shared_weight_say_so(tmp_path: Path) -> None:
    path = unfolded(tmp_path / "net.onnx", nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    model = onnx.load(path)
    (conv,) = [node for node in model.graph.node if node.op_type == "Conv"]
    other = onnx.helper.make_node("Conv", [model.graph.input[0].name, *conv.input[1:]], ["second"], "second_conv")
    model.graph.node.append(other)
    model.graph.output.append(onnx.helper.make_tensor_value_info("second", 1, ["batch", 4, 6, 6]))
    _, report = onnx_fold.fold_onnx(model)
    assert [kept.obstacles[0].code for kept in report.kept] == ["shared-weight"]
    model.graph.node[-1].CopyFrom(onnx.helper.make_node("Relu", [conv.output[0]], ["second"], "second_relu"))
    _, report = onnx_fold.fold_onnx(model)
    assert [kept.obstacles[0].code for kept in report.kept] == ["other-users"]
    assert "second_relu" in report.kept[0].reason


def test_a_fold_that_is_wrong_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_fold.fold_onnx

    def wrong(model: onnx.ModelProto, *, fold_bn: bool = True) -> object:
        folded, report = right(model, fold_bn=fold_bn)
        tensor = folded.graph.initializer[0]
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 1.01, tensor.name))
        return folded, report

    monkeypatch.setattr("edgekit.pack_onnx.fold_onnx", wrong)
    with pytest.raises(ModelError, match=r"changed its outputs by .*--no-fold-bn"):
        export_source(str(network(tmp_path / "net.onnx")), ExportOptions(output=tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_a_miscounted_report_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.onnx_count.batch_norms", lambda proto: 7)
    with pytest.raises(ModelError, match="7 BatchNormalization nodes where the report says 1"):
        onnx_fold.fold_onnx(onnx.load(network(tmp_path / "net.onnx")))


def test_weights_beside_the_file_come_along_and_not_from_elsewhere(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    outside = tmp_path / "split" / "net.onnx"
    outside.parent.mkdir()
    onnx.save(onnx.load(path), outside, save_as_external_data=True, location="net.data", size_threshold=0)
    report = export_source(str(outside), ExportOptions(output=tmp_path / "bundle"))
    assert len(report.fold.folded) == 3
    (outside.parent / "net.data").rename(tmp_path / "net.data")
    with pytest.raises(BundleError, match="is not a whole ONNX file"):
        export_source(str(outside), ExportOptions(output=tmp_path / "again"))


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(network(path).read_bytes()[:600] if content is None else content)
    with pytest.raises(BundleError, match="is not a whole ONNX file") as caught:
        export_source(str(path), ExportOptions(output=tmp_path / "bundle"))
    assert "\n" not in str(caught.value)


def test_an_operator_nobody_knows_and_a_fixed_batch_are_refused(tmp_path: Path) -> None:
    model = onnx.load(network(tmp_path / "net.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(ModelError, match="free first axis"):
        export_source(str(tmp_path / "fixed.onnx"), ExportOptions(output=tmp_path / "bundle"))
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.node[0].domain = "nowhere"
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    onnx.save(model, tmp_path / "unknown.onnx")
    with pytest.raises(EdgekitError, match="ONNX Runtime refuses"):
        export_source(str(tmp_path / "unknown.onnx"), ExportOptions(output=tmp_path / "bundle"))


def test_options_that_the_file_decides_are_refused(tmp_path: Path) -> None:
    path = str(network(tmp_path / "net.onnx"))
    for options in (ExportOptions(opset=20), ExportOptions(input_shapes=("1x4x8x8",)), ExportOptions(weights=Path("w.pt"))):
        with pytest.raises(UsageError, match="does not go with an ONNX file"):
            export_source(path, options)
