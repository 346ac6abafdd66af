"""An ONNX file made elsewhere becomes a bundle, or is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from typer.testing import CliRunner

from edgekit.bundle.folder import open_bundle
from edgekit.cli.app import app
from edgekit.commands.export import export as export_bundle
from edgekit.commands.verify import verify
from edgekit.errors import BundleError, EdgekitError, ModelError, UsageError
from edgekit.onnx.read import batch_norms
from edgekit.sources import ExportOptions
from tests.onnx.crafted import export, network, plain, tensor


def test_a_file_is_folded_and_its_bundle_verifies(tmp_path: Path) -> None:
    report = export_bundle(str(network(tmp_path / "net.onnx")), tmp_path / "bundle")
    assert (len(report.fold.folded), len(report.fold.kept)) == (3, 1)
    assert report.fold.kept[0].obstacles[0].code == "between"
    assert "but Tanh" in report.fold.kept[0].reason
    assert report.exported_error <= 4e-6
    assert report.fold.error_float64 is not None
    assert report.fold.error_float64 <= 1e-14
    assert report.original_error is not None
    assert 0 < report.original_error <= 4e-6
    bundle = open_bundle(tmp_path / "bundle")
    assert batch_norms(onnx.load(bundle.onnx_of())) == 1
    assert bundle.manifest.source.model == "net.onnx"
    checked = verify(tmp_path / "bundle")
    assert checked.passed
    assert checked.parities[0].reference == "the original ONNX file in float64 (recorded)"
    assert bundle.manifest.golden.original_error == report.original_error
    assert [
        item.name for item in onnx.load(bundle.onnx_of()).graph.node if item.op_type in ("Conv", "ConvTranspose", "Gemm")
    ] == [fold.into[0] for fold in report.fold.folded]


@pytest.mark.parametrize("name", ["NET.ONNX", "net.Onnx"])
def test_a_file_with_a_suffix_in_capitals_is_an_onnx_file(tmp_path: Path, name: str) -> None:
    export_bundle(str(network(tmp_path / name)), tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.source.model == name
    (checked,) = verify(bundle.root, ["ort-cpu"]).parities
    assert checked.reference == "the original ONNX file in float64 (recorded)"
    card = (bundle.root / "README.md").read_text(encoding="utf-8")
    assert "The reference is the original ONNX file in float64 (recorded). In its own dtype the original model is off by" in card
    assert "PyTorch float64" not in card


def test_weights_beside_the_file_come_along_and_not_from_elsewhere(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    outside = tmp_path / "split" / "net.onnx"
    outside.parent.mkdir()
    onnx.save(onnx.load(path), outside, save_as_external_data=True, location="net.data", size_threshold=0)
    report = export_bundle(str(outside), tmp_path / "bundle")
    assert len(report.fold.folded) == 3
    (outside.parent / "net.data").rename(tmp_path / "net.data")
    with pytest.raises(BundleError, match="is not a whole ONNX file"):
        export_bundle(str(outside), tmp_path / "again")
    (outside.parent / "net.data").write_bytes((tmp_path / "net.data").read_bytes()[:-100])
    with pytest.raises(BundleError, match="is not a whole ONNX file"):
        export_bundle(str(outside), tmp_path / "again")


def test_a_sparse_tensor_beside_the_file_is_refused_where_onnx_would_leave_it_there(tmp_path: Path) -> None:
    """ONNX Runtime would look for the tensor in the current folder, and so would every later reader of the bundle."""
    values = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    values.external_data.add(key="location", value="w.bin")
    sparse = onnx.SparseTensorProto(values=values, indices=onnx.numpy_helper.from_array(np.array([0])), dims=[1])
    model = plain()
    model.graph.node.append(helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    with pytest.raises(BundleError, match=r"is not a whole ONNX file: a sparse tensor.*lies in another file"):
        export(tmp_path, model)


def test_weights_beyond_two_gigabytes_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(plain(), path, save_as_external_data=True, location="net.data", size_threshold=0)
    monkeypatch.setattr("edgekit.onnx.read.LARGEST_BYTES", 959)
    (tmp_path / "net.data").unlink()
    assert path.stat().st_size < 959
    with pytest.raises(ModelError, match="GiB, and one ONNX file holds 2"):
        export_bundle(str(path), tmp_path / "bundle")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x89PNG\r\n\x1a\n" + bytes(100), None])
def test_a_damaged_file_is_one_sentence_and_leaves_the_older_bundle(tmp_path: Path, content: bytes | None) -> None:
    export(tmp_path, plain())
    before = {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    path = tmp_path / "other.onnx"
    path.write_bytes(plain().SerializeToString()[:600] if content is None else content)
    ran = CliRunner().invoke(app, ["export", str(path), "--output", str(tmp_path / "bundle")])
    assert ran.exit_code == 2
    assert "is not a whole ONNX file" in " ".join(ran.output.split())
    assert "Traceback" not in ran.output
    assert {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()} == before


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").mkdir()
    with pytest.raises(BundleError, match="is not a regular file"):
        export_bundle(str(tmp_path / "net.onnx"), tmp_path / "bundle")
    with pytest.raises(BundleError, match="does not exist"):
        export_bundle(str(tmp_path / "other.onnx"), tmp_path / "bundle")


def test_files_without_a_batch_or_without_inputs_are_refused(tmp_path: Path) -> None:
    model = plain()
    model.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value")
    with pytest.raises(ModelError, match="make_dynamic_shape_fixed"):
        export(tmp_path, model)
    model = plain()
    model.graph.input.append(helper.make_tensor_value_info("scalar", 1, []))
    with pytest.raises(ModelError, match=r"'scalar' of .* is not a tensor with a batch axis"):
        export(tmp_path, model)
    model = plain()
    model.graph.initializer.append(tensor("x", 2, 4, 8, 8))
    del model.graph.input[:]
    with pytest.raises(ModelError, match="has no inputs"):
        export(tmp_path, model)


def test_an_operator_nobody_knows_is_refused(tmp_path: Path) -> None:
    model = plain()
    model.graph.node[0].domain = "nowhere"
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    with pytest.raises(EdgekitError, match="ONNX Runtime refuses"):
        export(tmp_path, model)


def test_options_that_the_file_decides_are_refused(tmp_path: Path) -> None:
    path = str(network(tmp_path / "net.onnx"))
    for options in (ExportOptions(opset=20), ExportOptions(input_shapes=("1x4x8x8",)), ExportOptions(weights=Path("w.pt"))):
        with pytest.raises(UsageError, match="does not go with an ONNX file"):
            export_bundle(path, tmp_path / "bundle", options)


def test_the_report_says_where_the_errors_were_measured(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(plain().SerializeToString())
    command = ["export", str(tmp_path / "net.onnx"), "--output", str(tmp_path / "bundle")]
    text = " ".join(CliRunner().invoke(app, command).output.split())
    assert "(in ONNX Runtime without optimisations)" in text
    assert "folded against unfolded in float64" in text
    document = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert document["measured_in"] == "ONNX Runtime without optimisations"
    assert document["original_error"] > 0


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("as_node", [True, False])
def test_sparse_weights_are_written_out_and_fold(tmp_path: Path, as_node: bool, linear: bool) -> None:
    places = np.array([[0, 1, 1, 1], [2, 0, 0, 2], [5, 3, 2, 2]])
    flat = np.ravel_multi_index(tuple(places.T), (6, 4, 3, 3))
    sparse = helper.make_sparse_tensor(
        onnx.numpy_helper.from_array(np.array([0.5, 0.25, -1], np.float32), "w"),
        onnx.numpy_helper.from_array(flat if linear else places),
        [6, 4, 3, 3],
    )
    model = plain()
    del model.graph.initializer[0]
    if as_node:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], "w", sparse_value=sparse))
    else:
        model.graph.sparse_initializer.append(sparse)
    report = export(tmp_path, model)
    assert [fold.into for fold in report.fold.folded] == [("conv",)]
    assert report.notes[0] == "the reference is the original ONNX file in float64"
