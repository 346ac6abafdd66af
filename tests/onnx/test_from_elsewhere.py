"""ONNX files as other tools write them: what they leave out is found, and what cannot be bundled is named in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle.folder import open_bundle
from edgekit.errors import ModelError
from tests.onnx.crafted import conv, export, model_of, node, norm, plain, statistics, tensor


def test_outputs_without_a_shape_are_run_to_find_it(tmp_path: Path) -> None:
    model = plain()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert len(export(tmp_path, model).fold.folded) == 1
    assert open_bundle(tmp_path / "bundle").manifest.outputs[0].shape == ("batch", 6, 6, 6)


def test_texts_are_refused_by_name(tmp_path: Path) -> None:
    model = model_of([node("Identity", ["x"], "y")], [], shape=("batch", 3), rank=2, kind=TensorProto.STRING)
    with pytest.raises(ModelError, match=r"input .x. of .* holds texts"):
        export(tmp_path, model)


def test_an_output_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    model = plain()
    model.graph.output.append(model.graph.output[0])
    with pytest.raises(ModelError, match="names the output 'y' twice"):
        export(tmp_path, model)


@pytest.mark.parametrize("kind", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_operators_are_named(tmp_path: Path, kind: str) -> None:
    model = model_of([node("Sigmoid", ["x"], "p"), node(kind, ["p"], "r", "noise"), node("Add", ["x", "r"], "y")], [])
    with pytest.raises(ModelError, match=f"depend on random numbers, which {kind} noise draws"):
        export(tmp_path, model)


def test_a_dropout_that_trains_is_named(tmp_path: Path) -> None:
    stored = [numpy_helper.from_array(np.float32(0.5), "ratio"), numpy_helper.from_array(np.array(True), "training")]
    model = model_of([node("Dropout", ["x", "ratio", "training"], "y", "drop")], stored, opset=13)
    with pytest.raises(ModelError, match="depend on random numbers, which Dropout drop draws"):
        export(tmp_path, model)


def test_of_two_opsets_the_manifest_has_the_files_own(tmp_path: Path) -> None:
    model = plain()
    model.opset_import.append(helper.make_opsetid("", 13))
    export(tmp_path, model)  # which verifies
    bundle = open_bundle(tmp_path / "bundle")
    assert [entry.version for entry in onnx.load(bundle.onnx_of()).opset_import if not entry.domain] == [bundle.manifest.opset]


def test_a_file_that_edgekit_wrote_can_be_exported_again(tmp_path: Path) -> None:
    export(tmp_path, model_of([conv(), norm("c", "y")], [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)]))
    again = onnx.load(tmp_path / "bundle" / "model.onnx")
    report = export(tmp_path, again)
    assert report.fold.before == 0
