"""Folding ONNX files: exact results, the precision, and the reasons for norms that stay."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle.card import model_card
from edgekit.bundle.folder import open_bundle
from edgekit.commands.export import export as export_bundle
from edgekit.commands.verify import verify
from edgekit.errors import ModelError
from edgekit.onnx import exact as onnx_exact
from edgekit.onnx import fold as onnx_fold
from edgekit.onnx.read import batch_norms
from edgekit.sources import ExportOptions
from edgekit.sources import onnx_file as pack_onnx
from tests.onnx.crafted import codes, conv, export, folds, model_of, network, node, norm, plain, statistics, tensor


def wrong_epsilon(monkeypatch: pytest.MonkeyPatch, epsilon: float) -> None:
    """Make folding compute with another epsilon than the file's."""
    right = onnx_fold.fold_onnx

    def wrong(model: onnx.ModelProto, *, fold_bn: bool = True) -> onnx_fold.Folding:
        other = onnx.ModelProto()
        other.CopyFrom(model)
        for item in other.graph.node:
            if item.op_type == "BatchNormalization":
                item.attribute.append(helper.make_attribute("epsilon", epsilon))
        return right(other, fold_bn=fold_bn)

    monkeypatch.setattr(pack_onnx, "fold_onnx", wrong)


def no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise onnx_exact.Inexact("Something is in the way")

    monkeypatch.setattr(pack_onnx, "run_file_exact", refuse)


def test_without_folding_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    report = export_bundle(str(path), tmp_path / "bundle", ExportOptions(fold_bn=False))
    assert len(report.fold.kept) == 4
    assert report.exported_error == report.original_error
    assert report.fold.error_float64 is None
    written, original = onnx.load(open_bundle(tmp_path / "bundle").onnx_of()), onnx.load(path)
    for model in (written, original):
        del model.metadata_props[:]  # edgekit's own
    assert written == original


def test_a_fold_that_is_slightly_wrong_is_refused_in_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_epsilon(monkeypatch, 1.0001e-5)
    with pytest.raises(ModelError, match=r"changed its outputs by .* in float64; export with --no-fold-bn"):
        export(tmp_path, plain())
    assert not (tmp_path / "bundle").exists()
    wrong_epsilon(monkeypatch, 1e-5)
    export(tmp_path, plain())


def test_without_float64_the_limit_is_the_tolerance_of_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_float64(monkeypatch)
    wrong_epsilon(monkeypatch, 7e-5)
    with pytest.raises(ModelError, match=r"changed output 'y' by .* beyond 2.0e-05; export with --no-fold-bn") as caught:
        export(tmp_path, plain())
    assert 2e-5 < float(re.findall(r"by (\S+) of its scale", str(caught.value))[0]) < 1e-4
    assert not (tmp_path / "bundle").exists()
    monkeypatch.undo()
    no_float64(monkeypatch)
    report = export(tmp_path, plain())
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert (report.original_error, manifest.golden.original_error, report.fold.error_float64) == (None, None, None)
    assert report.notes[0].endswith("not in float64: Something is in the way")
    itself = "the original ONNX file in its own dtype, unoptimised (recorded)"
    assert verify(tmp_path / "bundle").parities[0].reference == itself
    assert f"The reference is {itself}." in model_card(manifest)


def test_the_written_file_must_keep_to_the_tolerance_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_fold.fold_onnx

    def wrong(model: onnx.ModelProto, *, fold_bn: bool = True) -> onnx_fold.Folding:
        folding = right(model, fold_bn=fold_bn)
        weight = folding.model.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.0001), weight.name))
        return folding

    monkeypatch.setattr(pack_onnx, "fold_onnx", wrong)
    with pytest.raises(ModelError, match=r"folding .* changed output 'y' by .* beyond 2.0e-05"):
        export(tmp_path, plain())


def test_a_float16_file_is_folded_with_the_tolerance_of_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(
        [conv(), norm("c", "n"), node("Relu", ["n"], "r"), conv("r", "d", "w2", "second"), norm("d", "y", "bn2")],
        [tensor("w", 32, 4, 3, 3, dtype="float16"), *statistics("bn", 32, "float16"),
         tensor("w2", 6, 32, 3, 3, dtype="float16"), *statistics("bn2", 6, "float16")],
        kind=TensorProto.FLOAT16,
    )  # fmt: skip
    report = export(tmp_path, model)
    variant = open_bundle(tmp_path / "bundle").variant()
    assert folds(report) == {"bn": ("conv",), "bn2": ("second",)}
    assert (variant.name, variant.precision, variant.allowance.tolerance.atol) == ("float16", "float16", 1e-5)
    assert 1e-3 <= variant.allowance.tolerance.rtol <= 2e-2
    assert report.exported_error > 1e-4
    no_float64(monkeypatch)
    assert export(tmp_path, model).exported_error > 1e-4
    wrong_epsilon(monkeypatch, 0.1)
    with pytest.raises(ModelError, match=r"folding .* changed output 'y'"):
        export(tmp_path, model)


def test_float16_weights_between_float32_inputs_and_norms(tmp_path: Path) -> None:
    down, up = node("Cast", ["x"], "h", to=TensorProto.FLOAT16), node("Cast", ["n"], "y", "up", to=TensorProto.FLOAT)
    stored = [tensor("w", 6, 4, 3, 3, dtype="float16"), *statistics("bn", 6)]
    report = export(tmp_path, model_of([down, conv("h"), norm("c", "n"), up], stored))
    assert folds(report) == {"bn": ("conv",)}
    assert open_bundle(tmp_path / "bundle").variant().precision == "float16"
    kinds = {item.data_type for item in onnx.load(open_bundle(tmp_path / "bundle").onnx_of()).graph.initializer}
    assert kinds == {TensorProto.FLOAT16}


def test_numbers_that_float16_cannot_hold_are_kept(tmp_path: Path) -> None:
    values = statistics("bn", 6, "float16")
    values[3] = numpy_helper.from_array(np.full(6, 1e-7, np.float16), "bn.v")
    values[0] = numpy_helper.from_array(np.full(6, 6e4, np.float16), "bn.s")
    model = model_of([conv(), norm("c", "y", epsilon=1e-7)], [tensor("w", 6, 4, 3, 3, dtype="float16"), *values], kind=10)
    folding = onnx_fold.fold_onnx(model)
    assert [norm.obstacles[0].code for norm in folding.report.kept] == ["overflow"]
    assert [tensor.data_type for tensor in folding.model.graph.initializer] == [TensorProto.FLOAT16] * len(
        folding.model.graph.initializer
    )
    values[0] = tensor("bn.s", 6, low=0.5, high=1, dtype="float16")
    assert onnx_fold.fold_onnx(model_of(model.graph.node, [model.graph.initializer[0], *values], kind=10)).report.kept == ()


def test_a_file_in_double_is_its_own_reference(tmp_path: Path) -> None:
    stored = [tensor("w", 256, 6, dtype="float64"), *statistics("bn", 6, "float64")]
    nodes = [node("Flatten", ["x"], "f"), node("Gemm", ["f", "w"], "g"), norm("g", "y")]
    report = export(tmp_path, model_of(nodes, stored, rank=2, kind=TensorProto.DOUBLE))
    assert open_bundle(tmp_path / "bundle").variant().precision == "float64"
    assert folds(report) == {"bn": ("gemm",)}
    assert report.exported_error <= 1e-14


def test_the_precision_is_that_of_the_weights_not_of_the_first_input(tmp_path: Path) -> None:
    nodes = [node("Gather", ["table", "x"], "e"), node("Transpose", ["e"], "t", perm=[0, 2, 1]), conv("t"), norm("c", "y")]
    model = model_of(nodes, [tensor("table", 9, 4), tensor("w", 6, 4, 3), *statistics("bn", 6)], shape=("n", 7), rank=3)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    report = export(tmp_path, model)
    assert report.fold.kept == ()
    variant = open_bundle(tmp_path / "bundle").variant()
    assert (variant.name, variant.precision, variant.allowance.tolerance.rtol) == ("float32", "float32", 2e-5)


def test_norm_behind_norm_names_the_layer_that_took_both(tmp_path: Path) -> None:
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), *statistics("bn2", 6)]
    model = model_of([conv(), norm("c", "n"), norm("n", "y", "bn2", epsilon=0.3)], stored)
    assert folds(export(tmp_path, model)) == {"bn": ("conv",), "bn2": ("conv",)}
    model.graph.node[2].input[0] = "c"  # two norms of one convolution
    model.graph.node.append(node("Add", ["n", "z"], "y"))
    model.graph.node[2].output[0] = "z"
    assert codes(export(tmp_path, model)) == {"bn": "other-users", "bn2": "other-users"}


def test_a_norm_in_training_mode_is_kept_and_the_file_refused(tmp_path: Path) -> None:
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)]
    new = model_of([conv(), norm("c", "y", extra=("mean", "var"), training_mode=1)], stored)
    old = model_of([conv(), norm("c", "y", extra=("mean", "var", "saved", "spare"))], stored, opset=9, ir=4)
    for model in (new, old):
        folding = onnx_fold.fold_onnx(model)
        assert [norm.obstacles[0].code for norm in folding.report.kept] == ["training"]
        assert batch_norms(folding.model) == 1
        assert len(folding.model.graph.node[1].output) == len(model.graph.node[1].output)
        with pytest.raises(ModelError, match="depend on each other, because bn is a BatchNormalization in training mode"):
            export(tmp_path, model)


@pytest.mark.parametrize(("part", "value"), [(3, -1.0), (2, np.nan), (0, np.inf)])
def test_statistics_that_are_no_numbers_are_kept(part: int, value: float) -> None:
    model = plain()
    model.graph.initializer[1 + part].CopyFrom(
        numpy_helper.from_array(np.full(6, value, np.float32), model.graph.initializer[1 + part].name)
    )
    folding = onnx_fold.fold_onnx(model)
    assert [norm.obstacles[0].code for norm in folding.report.kept] == ["not-finite"]
    assert batch_norms(folding.model) == 1


def test_a_weight_that_is_an_input_too_says_so(tmp_path: Path) -> None:
    for name, ir, expected in (("w", 8, {"bn": "graph-input"}), ("bn.m", 8, {"bn": "graph-input"}), ("w", 3, {})):
        model = plain(ir=ir, opset=9)
        listed = [item for item in model.graph.initializer if ir < 4 or item.name == name]
        model.graph.input.extend(helper.make_tensor_value_info(item.name, 1, list(item.dims)) for item in listed)
        report = export(tmp_path, model)
        assert codes(report) == expected
        if expected:
            assert f"{name} " in report.fold.kept[0].reason
            assert "also an input of the model" in report.fold.kept[0].reason


def test_a_shared_output_and_a_shared_weight_say_so(tmp_path: Path) -> None:
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)]
    report = export(
        tmp_path, model_of([conv(), norm("c", "n"), conv(output="d", name="twin"), node("Add", ["n", "d"], "y")], stored)
    )
    assert codes(report) == {"bn": "shared-weight"}
    assert "twin" in report.fold.kept[0].reason
    nodes = [conv(), norm("c", "n"), conv("n", "d", "w2", "second"), norm("d", "y", "bn2")]
    for item in (nodes[0], nodes[2]):
        item.input.append("zeros")  # a shared bias is copied, because it is small
    more = [tensor("w2", 6, 6, 3, 3), tensor("zeros", 6), *statistics("bn2", 6)]
    assert codes(export(tmp_path, model_of(nodes, [*stored, *more]))) == {}
    report = export(tmp_path, model_of([conv(), norm("c", "n"), node("Relu", ["c"], "d"), node("Add", ["n", "d"], "y")], stored))
    assert codes(report) == {"bn": "other-users"}
    assert "relu" in report.fold.kept[0].reason
