"""An ONNX file from elsewhere: folded by onnxscript's rules, held against the original, bundled."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

from edgekit.bundle.card import model_card
from edgekit.bundle.folder import open_bundle
from edgekit.cli.app import app
from edgekit.commands.export import export as export_bundle
from edgekit.commands.verify import verify
from edgekit.errors import BundleError, EdgekitError, ModelError, UsageError
from edgekit.fold import fold
from edgekit.graphs.trace import output_specs
from edgekit.graphs.write import export_onnx
from edgekit.onnx import exact as onnx_exact
from edgekit.onnx import fold as onnx_fold
from edgekit.onnx.read import batch_norms
from edgekit.reports.export import ExportReport
from edgekit.sources import ExportOptions
from edgekit.sources import onnx_file as pack_onnx
from edgekit.tensors import TensorSpec, sample_feed
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
    report = export_bundle(str(network(tmp_path / "net.onnx")), tmp_path / "bundle")
    assert (len(report.fold.folded), len(report.fold.kept)) == (3, 1)
    assert report.fold.kept[0].obstacles[0].code == "between"
    assert "but Tanh" in report.fold.kept[0].reason
    assert report.exported_error <= 1e-6
    assert report.fold.error_float64 is not None
    assert report.fold.error_float64 <= 1e-14
    assert report.original_error is not None
    assert 0 < report.original_error <= 1e-6
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
def test_a_file_of_a_name_in_capitals_is_told_as_an_onnx_file(tmp_path: Path, name: str) -> None:
    export_bundle(str(network(tmp_path / name)), tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.source.model == name
    (checked,) = verify(bundle.root, ["ort-cpu"]).parities
    assert checked.reference == "the original ONNX file in float64 (recorded)"
    card = (bundle.root / "README.md").read_text(encoding="utf-8")
    assert "The reference is the original ONNX file in float64 (recorded). In its own dtype the original itself is off by" in card
    assert "PyTorch float64" not in card


def tensor(name: str, *shape: int, low: float = -0.5, high: float = 0.5, dtype: str = "float32") -> onnx.TensorProto:
    rng = np.random.default_rng(sum(name.encode()))
    return numpy_helper.from_array(rng.uniform(low, high, shape).astype(dtype), name)


def statistics(name: str, channels: int, dtype: str = "float32") -> list[onnx.TensorProto]:
    parts = {"s": (0.5, 1.5), "b": (-1, 1), "m": (-1, 1), "v": (0.3, 2)}
    return [tensor(f"{name}.{part}", channels, low=low, high=high, dtype=dtype) for part, (low, high) in parts.items()]


def norm(source: str, output: str, name: str = "bn", extra: Sequence[str] = (), **given: Any) -> onnx.NodeProto:
    inputs = [source, *(f"{name}.{part}" for part in "sbmv")]
    return helper.make_node("BatchNormalization", inputs, [output, *extra], name, **given)


def conv(source: str = "x", output: str = "c", weight: str = "w", name: str = "conv", **given: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [output], name, **given)


def node(kind: str, inputs: Sequence[str], output: str, name: str = "", **given: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], name or kind.lower(), **given)


def made(
    nodes: Sequence[onnx.NodeProto],
    stored: Sequence[onnx.TensorProto],
    *,
    shape: Sequence[int | str | None] = ("batch", 4, 8, 8),
    rank: int = 4,
    opset: int = 17,
    ir: int = 8,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """From x to y."""
    given = helper.make_tensor_value_info("x", kind, list(shape))
    found = helper.make_tensor_value_info("y", kind, [shape[0], *([None] * (rank - 1))])
    graph = helper.make_graph(list(nodes), "graph", [given], [found], list(stored))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def plain(**given: Any) -> onnx.ModelProto:
    """One convolution and its normalisation."""
    return made([conv(), norm("c", "y")], [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)], **given)


def export(tmp_path: Path, model: onnx.ModelProto | bytes, **options: Any) -> ExportReport:
    """Through the file; what is written verifies, and holds the norms that the report says."""
    path = tmp_path / "net.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    report = export_bundle(str(path), tmp_path / "bundle", ExportOptions(**options))
    bundle = open_bundle(tmp_path / "bundle")
    assert batch_norms(onnx.load(bundle.onnx_of())) == len(report.fold.kept)
    assert verify(tmp_path / "bundle", ("ort-cpu",)).passed
    assert report.exported_error <= bundle.variant().allowance.tolerance.atol + bundle.variant().allowance.tolerance.rtol
    if report.original_error is not None and report.fold.folded:
        assert report.fold.error_float64 is not None
        assert report.fold.error_float64 <= 1e-13
    return report


def codes(report: ExportReport) -> dict[str, str]:
    return {kept.norm: kept.obstacles[0].code for kept in report.fold.kept}


def folds(report: ExportReport) -> dict[str, tuple[str, ...]]:
    return {fold.norm: fold.into for fold in report.fold.folded}


def wrong_epsilon(monkeypatch: pytest.MonkeyPatch, epsilon: float) -> None:
    """The fold computes with another epsilon than the file has."""
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
    def refuse(*given: object) -> None:
        raise onnx_exact.Inexact("Something is in the way")

    monkeypatch.setattr(pack_onnx, "run_file_exact", refuse)


def test_without_folding_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    report = export_bundle(str(path), tmp_path / "bundle", ExportOptions(fold_bn=False))
    assert len(report.fold.kept) == 4
    assert report.exported_error == report.original_error
    assert report.fold.error_float64 is None
    assert onnx.load(open_bundle(tmp_path / "bundle").onnx_of()) == onnx.load(path)


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


def test_the_written_file_is_held_to_the_tolerance_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_fold.fold_onnx

    def wrong(model: onnx.ModelProto, *, fold_bn: bool = True) -> onnx_fold.Folding:
        folding = right(model, fold_bn=fold_bn)
        weight = folding.model.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.0001), weight.name))
        return folding

    monkeypatch.setattr(pack_onnx, "fold_onnx", wrong)
    with pytest.raises(ModelError, match=r"folding .* changed output 'y' by .* beyond 2.0e-05"):
        export(tmp_path, plain())


def test_a_float16_file_is_folded_and_held_to_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(
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
    report = export(tmp_path, made([down, conv("h"), norm("c", "n"), up], stored))
    assert folds(report) == {"bn": ("conv",)}
    assert open_bundle(tmp_path / "bundle").variant().precision == "float16"
    kinds = {item.data_type for item in onnx.load(open_bundle(tmp_path / "bundle").onnx_of()).graph.initializer}
    assert kinds == {TensorProto.FLOAT16}


def test_numbers_that_float16_cannot_hold_are_kept(tmp_path: Path) -> None:
    values = statistics("bn", 6, "float16")
    values[3] = numpy_helper.from_array(np.full(6, 1e-7, np.float16), "bn.v")
    values[0] = numpy_helper.from_array(np.full(6, 6e4, np.float16), "bn.s")
    model = made([conv(), norm("c", "y", epsilon=1e-7)], [tensor("w", 6, 4, 3, 3, dtype="float16"), *values], kind=10)
    folding = onnx_fold.fold_onnx(model)
    assert [kept.obstacles[0].code for kept in folding.report.kept] == ["overflow"]
    assert [tensor.data_type for tensor in folding.model.graph.initializer] == [TensorProto.FLOAT16] * len(
        folding.model.graph.initializer
    )
    values[0] = tensor("bn.s", 6, low=0.5, high=1, dtype="float16")
    assert onnx_fold.fold_onnx(made(model.graph.node, [model.graph.initializer[0], *values], kind=10)).report.kept == ()


def test_a_file_in_double_is_its_own_reference(tmp_path: Path) -> None:
    stored = [tensor("w", 256, 6, dtype="float64"), *statistics("bn", 6, "float64")]
    nodes = [node("Flatten", ["x"], "f"), node("Gemm", ["f", "w"], "g"), norm("g", "y")]
    report = export(tmp_path, made(nodes, stored, rank=2, kind=TensorProto.DOUBLE))
    assert open_bundle(tmp_path / "bundle").variant().precision == "float64"
    assert folds(report) == {"bn": ("gemm",)}
    assert report.exported_error <= 1e-14


def test_the_precision_is_that_of_the_weights_not_of_the_first_input(tmp_path: Path) -> None:
    nodes = [node("Gather", ["table", "x"], "e"), node("Transpose", ["e"], "t", perm=[0, 2, 1]), conv("t"), norm("c", "y")]
    model = made(nodes, [tensor("table", 9, 4), tensor("w", 6, 4, 3), *statistics("bn", 6)], shape=("n", 7), rank=3)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    report = export(tmp_path, model)
    assert report.fold.kept == ()
    variant = open_bundle(tmp_path / "bundle").variant()
    assert (variant.name, variant.precision, variant.allowance.tolerance.rtol) == ("float32", "float32", 2e-5)


def test_norm_behind_norm_names_the_layer_that_is_left(tmp_path: Path) -> None:
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), *statistics("bn2", 6)]
    model = made([conv(), norm("c", "n"), norm("n", "y", "bn2", epsilon=0.3)], stored)
    assert folds(export(tmp_path, model)) == {"bn": ("conv",), "bn2": ("conv",)}
    model.graph.node[2].input[0] = "c"  # two norms of one convolution
    model.graph.node.append(node("Add", ["n", "z"], "y"))
    model.graph.node[2].output[0] = "z"
    assert codes(export(tmp_path, model)) == {"bn": "other-users", "bn2": "other-users"}


def test_a_norm_in_training_mode_is_kept_and_the_file_refused(tmp_path: Path) -> None:
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)]
    new = made([conv(), norm("c", "y", extra=("mean", "var"), training_mode=1)], stored)
    old = made([conv(), norm("c", "y", extra=("mean", "var", "saved", "spare"))], stored, opset=9, ir=4)
    for model in (new, old):
        folding = onnx_fold.fold_onnx(model)
        assert [kept.obstacles[0].code for kept in folding.report.kept] == ["training"]
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
    assert [kept.obstacles[0].code for kept in folding.report.kept] == ["not-finite"]
    assert batch_norms(folding.model) == 1


def test_a_weight_that_is_an_input_too_says_so(tmp_path: Path) -> None:
    for name, ir, wanted in (("w", 8, {"bn": "graph-input"}), ("bn.m", 8, {"bn": "graph-input"}), ("w", 3, {})):
        model = plain(ir=ir, opset=9)
        listed = [item for item in model.graph.initializer if ir < 4 or item.name == name]
        model.graph.input.extend(helper.make_tensor_value_info(item.name, 1, list(item.dims)) for item in listed)
        report = export(tmp_path, model)
        assert codes(report) == wanted
        if wanted:
            assert f"{name} " in report.fold.kept[0].reason
            assert "also an input of the model" in report.fold.kept[0].reason


def test_a_shared_output_and_a_shared_weight_say_so(tmp_path: Path) -> None:
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)]
    report = export(tmp_path, made([conv(), norm("c", "n"), conv(output="d", name="twin"), node("Add", ["n", "d"], "y")], stored))
    assert codes(report) == {"bn": "shared-weight"}
    assert "twin" in report.fold.kept[0].reason
    nodes = [conv(), norm("c", "n"), conv("n", "d", "w2", "second"), norm("d", "y", "bn2")]
    for item in (nodes[0], nodes[2]):
        item.input.append("zeros")  # a bias is small enough to have one's own
    more = [tensor("w2", 6, 6, 3, 3), tensor("zeros", 6), *statistics("bn2", 6)]
    assert codes(export(tmp_path, made(nodes, [*stored, *more]))) == {}
    report = export(tmp_path, made([conv(), norm("c", "n"), node("Relu", ["c"], "d"), node("Add", ["n", "d"], "y")], stored))
    assert codes(report) == {"bn": "other-users"}
    assert "relu" in report.fold.kept[0].reason


GEMM = ("Gemm", ["f", "w", "g0"])
HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], Mapping[str, str]]] = {
    "opset 7": (lambda: plain(opset=7, ir=4), {}),
    "opset 9": (lambda: plain(opset=9, ir=4), {}),
    "a name is not ours to take": (
        lambda: made(
            [conv(), norm("c", "n"), node("Add", ["n", "w_bias"], "y")],
            [tensor("w", 6, 4, 3, 3), tensor("w_bias", 1, 6, 1, 1), *statistics("bn", 6)],
        ),
        {},
    ),
    "an empty bias": (
        lambda: made([node("Conv", ["x", "w", ""], "c"), norm("c", "y")], [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)]),
        {},
    ),
    "grouped transposed": (
        lambda: made(
            [node("ConvTranspose", ["x", "w", "b"], "c", group=2, strides=[2, 2], output_padding=[1, 1], pads=[1, 0, 0, 1]),
             norm("c", "y")],
            [tensor("w", 4, 3, 3, 3), tensor("b", 6), *statistics("bn", 6)],
        ),
        {},
    ),
    "gemm, scaled and transposed": (
        lambda: made(
            [node("Flatten", ["x"], "f"), node(*GEMM, "g", transB=1, alpha=0.7, beta=-1.3), norm("g", "y")],
            [tensor("w", 5, 256), tensor("g0", 5), *statistics("bn", 5)], rank=2,
        ),
        {},
    ),
    "gemm with a scalar": (
        lambda: made(
            [node("Flatten", ["x"], "f"), node(*GEMM, "g", transB=0, alpha=2.0, beta=0.5), norm("g", "y")],
            [tensor("w", 256, 5), tensor("g0"), *statistics("bn", 5)], rank=2,
        ),
        {},
    ),
    "matmul and add": (
        lambda: made(
            [node("Flatten", ["x"], "f"), node("MatMul", ["f", "w"], "m"), node("Add", ["m", "b"], "g"), norm("g", "y")],
            [tensor("w", 256, 5), tensor("b", 5), *statistics("bn", 5)], rank=2,
        ),
        {"bn": "between"},
    ),
    "constants instead of initializers": (
        lambda: made(
            [*(node("Constant", [], item.name, item.name, value=item) for item in plain().graph.initializer),
             conv(), norm("c", "y")],
            [],
        ),
        {},
    ),
    "identities between": (
        lambda: made(
            [node("Identity", ["one"], f"bn.{part}", f"copy {part}") for part in "sv"]
            + [node("Identity", ["two"], f"bn.{part}", f"copy {part}") for part in "bm"] + [conv(), norm("c", "y")],
            [tensor("w", 6, 4, 3, 3), tensor("one", 6, low=0.5, high=1), tensor("two", 6)],
        ),
        {},
    ),
    "computed": (
        lambda: made(
            [node("Relu", ["raw"], "w"), conv(), norm("c", "y")], [tensor("raw", 6, 4, 3, 3), *statistics("bn", 6)]
        ),
        {"bn": "computed"},
    ),
    "first of all": (lambda: made([norm("x", "y")], statistics("bn", 4)), {"bn": "between"}),
    "names missing": (
        lambda: made(
            [conv(name=""), helper.make_node("BatchNormalization", ["c", *(f"bn.{part}" for part in "sbmv")], ["y"])],
            [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)],
        ),
        {},
    ),
    "per position": (
        lambda: made(
            [conv(), norm("c", "y", spatial=0)],
            [tensor("w", 6, 4, 3, 3), *(tensor(f"bn.{part}", 6, 6, 6, low=0.5, high=1) for part in "sbmv")], opset=7, ir=4,
        ),
        {"bn": "rule"},
    ),
    "a free axis without a name": (lambda: plain(shape=(None, 4, 8, 8)), {}),
    "a free axis of another name": (lambda: plain(shape=("N", 4, 8, 8)), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_files_of_all_kinds(tmp_path: Path, name: str) -> None:
    build, wanted = HOSTILE[name]
    report = export(tmp_path, build())
    assert codes(report) == wanted
    assert report.fold.before == 1
    there = {item.name for item in onnx.load(open_bundle(tmp_path / "bundle").onnx_of()).graph.node}
    assert all(layer in there for layers in folds(report).values() for layer in layers)


def test_names_that_are_not_unique_give_way_to_the_outputs(tmp_path: Path) -> None:
    model = made(
        [conv(), norm("c", "n"), conv("n", "d", "w2"), norm("d", "y", "bn2")],
        [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), tensor("w2", 5, 6, 3, 3), *statistics("bn2", 5)],
    )
    model.graph.node[3].name = "bn"
    report = onnx_fold.fold_onnx(model).report
    assert {fold.norm: fold.into for fold in report.folded} == {"n": ("c",), "y": ("d",)}
    with contextlib.suppress(ModelError):  # ONNX Runtime takes such files or not, by its version
        export(tmp_path, model)


def test_a_norm_that_nobody_reads_goes_into_nothing(tmp_path: Path) -> None:
    model = plain()
    model.graph.node.insert(0, norm("x", "nowhere", "dead"))
    model.graph.initializer.extend(statistics("dead", 4))
    assert folds(export(tmp_path, model)) == {"bn": ("conv",), "dead": ()}


def branches() -> onnx.ModelProto:
    """If the sum is positive, a convolution and a norm; otherwise the same convolution alone."""
    parts = {
        "then": [conv(output="tc", name="inner"), norm("tc", "ty", "inside")],
        "else": [conv(output="ey", weight="w", name="other")],
    }
    graphs = {
        f"{key}_branch": helper.make_graph(
            nodes, key, [], [helper.make_tensor_value_info(nodes[-1].output[0], 1, [None, 6, 6, 6])], statistics("inside", 6)
        )
        for key, nodes in parts.items()
    }
    test = [node("Constant", [], "yes", value=numpy_helper.from_array(np.array(True))), node("If", ["yes"], "i", **graphs)]
    return made(
        [*test, conv("i", "d", "w2", "last"), norm("d", "y")],
        [tensor("w", 6, 4, 3, 3), tensor("w2", 5, 6, 3, 3), *statistics("bn", 5)],
    )


def test_a_norm_inside_a_branch_is_kept(tmp_path: Path) -> None:
    report = export(tmp_path, branches())
    assert codes(report) == {"inside": "branch"}
    assert folds(report) == {"bn": ("last",)}
    model = branches()  # what a branch reads is read by somebody
    (other,) = [item.g for item in model.graph.node[1].attribute if item.name == "else_branch"]
    other.node[0].CopyFrom(node("Identity", ["c"], "ey", "peek"))
    model.graph.node.insert(0, norm("c", "unread", "outer"))
    model.graph.node.insert(0, conv(weight="w3", name="outer conv"))
    model.graph.initializer.extend([tensor("w3", 6, 4, 3, 3), *statistics("outer", 6)])
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(node("GlobalAveragePool", ["unread"], "u"))
    model.graph.node.append(node("GlobalAveragePool", ["z"], "zz", "pool z"))
    model.graph.node.append(node("Concat", ["u", "zz"], "y", axis=1))
    report = export(tmp_path, model)
    assert codes(report) == {"inside": "branch", "outer": "other-users"}
    assert "peek" in report.fold.kept[-1].reason + report.fold.kept[0].reason


def test_norms_inside_functions_fold_where_they_are_called(tmp_path: Path) -> None:
    model = made(
        [node("BatchNormalization", ["x", "w", *(f"bn.{part}" for part in "sbmv")], "y", domain="own")], plain().graph.initializer
    )
    inside = [conv("a", "c", "k", "conv"), helper.make_node("BatchNormalization", list("cpqrs"), ["z"], "bn")]
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "BatchNormalization", list("akpqrs"), ["z"], inside, imports))
    model.opset_import.append(helper.make_opsetid("own", 1))
    report = export(tmp_path, model)
    assert (report.fold.before, report.fold.kept) == (1, ())
    assert len(export(tmp_path, model, fold_bn=False).fold.kept) == 1


def test_a_miscounted_report_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_fold, "batch_norms", lambda proto: 7)
    with pytest.raises(ModelError, match="7 BatchNormalization nodes where the report says 1"):
        onnx_fold.fold_onnx(onnx.load(network(tmp_path / "net.onnx")))


def test_what_onnxscript_cannot_do_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **more: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(onnx_fold.rewriter, "rewrite", fail)
    with pytest.raises(ModelError, match="onnxscript cannot rewrite the file: first; export with --no-fold-bn"):
        onnx_fold.fold_onnx(plain())


def test_a_fixed_batch_is_freed_when_that_is_proved(tmp_path: Path) -> None:
    for fixed in (1, 3):
        shape = numpy_helper.from_array(np.array([fixed, 2, 3, 6, 6]), "shape")
        back = numpy_helper.from_array(np.array([fixed, -1]), "back")
        model = made(
            [conv(), norm("c", "n"), node("Reshape", ["n", "shape"], "five"), node("Relu", ["five"], "r"),
             node("Reshape", ["r", "back"], "f", "flat"), node("Gemm", ["f", "w2"], "g"), norm("g", "y", "bn2")],
            [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), shape, back, tensor("w2", 216, 5), *statistics("bn2", 5)],
            shape=(fixed, 4, 8, 8), rank=2,
        )  # fmt: skip
        model.graph.value_info.append(helper.make_tensor_value_info("r", 1, [fixed, 2, 3, 6, 6]))
        report = export(tmp_path, model)
        assert folds(report) == {"bn": ("conv",), "bn2": ("gemm",)}
        assert any(f"takes batches of {fixed}; its batch axis was freed" in note for note in report.notes)
        bundle = open_bundle(tmp_path / "bundle")
        assert bundle.manifest.notes == report.notes
        assert [value.type.tensor_type.shape.dim[0].dim_param for value in (*onnx.load(bundle.onnx_of()).graph.input,)] == [
            "batch"
        ]
        assert not [
            value
            for value in onnx.load(bundle.onnx_of()).graph.value_info
            if value.type.tensor_type.shape.dim[0].dim_value == fixed
        ]
        single = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        golden = bundle.golden()
        assert np.abs(single.run(None, {"x": golden.inputs["x"][:fixed]})[0] - golden.float64["y"][:fixed]).max() < 1e-5


def test_shapes_computed_from_constants_are_freed_too(tmp_path: Path) -> None:
    nodes = [
        node("Concat", ["one", "rest"], "shape", axis=0), node("Reshape", ["x", "shape"], "five"),
        node("Transpose", ["five"], "t", perm=[0, 2, 1, 3, 4]), node("Concat", ["one", "four"], "back", "second", axis=0),
        node("Reshape", ["t", "back"], "f", "flat"), conv("f"), norm("c", "y"),
    ]  # fmt: skip
    stored = [
        numpy_helper.from_array(np.array(sizes), name)
        for name, sizes in (("one", [1]), ("rest", [2, 2, 8, 8]), ("four", [4, 8, 8]))
    ]
    model = made(nodes, [*stored, tensor("w", 6, 4, 3, 3), *statistics("bn", 6)], shape=(1, 4, 8, 8))
    assert folds(export(tmp_path, model)) == {"bn": ("conv",)}


def test_a_fixed_batch_that_cannot_be_freed_says_which_operator(tmp_path: Path) -> None:
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), numpy_helper.from_array(np.array([6, 36]), "shape")]
    model = made([conv(), norm("c", "n"), node("Reshape", ["n", "shape"], "y", "mixer")], stored, shape=(1, 4, 8, 8), rank=2)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 6
    with pytest.raises(ModelError, match=r"batch"):
        export(tmp_path, model)
    nodes = [conv(), norm("c", "n"), node("Reshape", ["n", "shape"], "m", "mixer"), node("Reshape", ["m", "back"], "y", "flat")]
    back = numpy_helper.from_array(np.array([1, 216]), "back")
    with pytest.raises(ModelError, match=r"takes batches of 1, and its batch axis cannot be freed: Reshape mixer") as caught:
        export(tmp_path, made(nodes, [*stored, back], shape=(1, 4, 8, 8), rank=2))
    assert "\n" not in str(caught.value)


def test_a_freed_file_that_mixes_its_samples_is_refused(tmp_path: Path) -> None:
    nodes = [
        conv(),
        norm("c", "n"),
        node("ReduceMean", ["n"], "m", axes=[0], keepdims=1),
        node("Sub", ["n", "m"], "d"),
        node("Add", ["d", "n"], "y"),
    ]
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)]
    with pytest.raises(ModelError, match=r"cannot be freed: output 'y' changes by .* of its scale in a batch of 2"):
        export(tmp_path, made(nodes, stored, shape=(1, 4, 8, 8)))
    with pytest.raises(ModelError, match="depend on each other: output 'y' changes by"):
        export(tmp_path, made(nodes, stored))


def branching(cutoff: float, factor: float = -1) -> onnx.ModelProto:
    """Batches whose mean is below ``cutoff`` come out multiplied by ``factor``."""

    def branch(name: str) -> onnx.GraphProto:
        ends = [helper.make_tensor_value_info(f"{name}.o", TensorProto.FLOAT, None)]
        return helper.make_graph([node("Mul", ["n", name], f"{name}.o", name)], name, [], ends)

    nodes = [
        conv(),
        norm("c", "n"),
        node("ReduceMean", ["x"], "mean", keepdims=0),
        node("Less", ["mean", "cutoff"], "below"),
        helper.make_node("If", ["below"], ["y"], "branch", then_branch=branch("factor"), else_branch=branch("one")),
    ]
    numbers = {"cutoff": cutoff, "factor": factor, "one": 1}
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in numbers.items()]
    return made(nodes, [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), *constants])


def apart(which: str) -> float:
    """A cutoff below which of the golden inputs are only these, and none of the few that are tried when a file is opened."""
    specs = (TensorSpec("x", "float32", ("batch", 4, 8, 8)),)
    few, golden = (sample_feed(specs, count)["x"] for count in (3, 8))
    tried = min(few[:count].mean() for count in (1, 2, 3))
    whole, one = golden.mean(), golden.mean((1, 2, 3)).min()
    below, above = (whole, tried) if which == "all together" else (one, min(tried, whole))
    assert below < above
    return float(below + above) / 2


@pytest.mark.parametrize("fold_bn", [True, False])
@pytest.mark.parametrize("which", ["one alone", "all together"])
def test_golden_inputs_that_depend_on_each_other_are_named_as_such(tmp_path: Path, which: str, fold_bn: bool) -> None:
    """No folding and no dtype is to blame for them."""
    with pytest.raises(ModelError, match=r"depend on each other: output 'y' changes by .* when each is run alone; export"):
        export(tmp_path, branching(apart(which)), fold_bn=fold_bn)
    assert not (tmp_path / "bundle").exists()


def test_what_rounding_may_explain_is_not_called_dependence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be verified, use a wider dtype"):
        export(tmp_path, branching(apart("one alone"), factor=1.0003), fold_bn=False)


def test_samples_that_all_take_one_branch_are_exported(tmp_path: Path) -> None:
    assert len(export(tmp_path, branching(-9)).fold.folded) == 1


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
    """It would be looked for in the current folder by ONNX Runtime, and later by whoever opens the bundle."""
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
    with pytest.raises(ModelError, match=r"'scalar' of .* no tensor with a batch axis"):
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


WINDOWS: list[tuple[str, dict[str, Any]]] = [
    ("Conv", {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
    ("Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("Conv", {"auto_pad": "SAME_UPPER", "strides": [3, 2]}),
    ("Conv", {"auto_pad": "VALID"}),
    ("Conv", {"group": 4, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
    ("ConvTranspose", {"group": 2, "strides": [2, 3], "pads": [1, 0, 2, 1], "dilations": [1, 2], "output_padding": [1, 2]}),
    ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "ceil_mode": 1, "dilations": [2, 1]}),
    ("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1], "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    ("AveragePool", {"auto_pad": "SAME_UPPER", "kernel_shape": [3, 3], "strides": [2, 2]}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "given"), WINDOWS)
def test_float64_windows_agree_with_onnx_runtime(kind: str, given: dict[str, Any]) -> None:
    group = given.get("group", 1)
    stored = []
    if kind.startswith("Conv"):
        outputs = 4 if group == 4 else 6
        shape = (outputs, 4 // group) if kind == "Conv" else (4, 6 // group)
        stored = [tensor("w", *shape, 3, 2), tensor("b", outputs)]
    model = made([node(kind, ["x", *(item.name for item in stored)], "y", **given)], stored, shape=("n", 4, 9, 8), opset=19, ir=9)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 4, 9, 8)).astype(np.float32)}
    exact = onnx_exact.run_file_exact(model, feed)["y"]
    found = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
    assert exact.dtype == np.float64
    assert exact.shape == found.shape
    assert 0 < np.abs(exact - found).max() < 1e-6 or kind == "MaxPool"
    assert np.abs(exact - found).max() < 1e-6


def test_float64_is_float64_throughout() -> None:
    constant = node("Constant", [], "k", value_float=0.1)
    cast = node("Cast", ["x"], "c", to=TensorProto.FLOAT)
    fill = node("ConstantOfShape", ["shape"], "z", value=numpy_helper.from_array(np.array([0.1], np.float32)))
    shape = numpy_helper.from_array(np.array([1, 4, 8, 8]), "shape")
    model = made([constant, cast, fill, node("Mul", ["c", "k"], "m"), node("Add", ["m", "z"], "y")], [shape])
    feed = {"x": np.full((3, 4, 8, 8), 1 / 3)}
    exact = onnx_exact.run_file_exact(model, feed)["y"]
    tenth = float(np.float32(0.1))
    assert np.abs(exact - (tenth / 3 + tenth)).max() < 1e-16
    stored = [tensor("t", 1, 2, 3), numpy_helper.from_array(np.array([1, 4, 8, 8]), "size")]
    with pytest.raises(onnx_exact.Inexact, match="AffineGrid computes in float32 only"):
        onnx_exact.run_file_exact(
            made([node("AffineGrid", ["t", "size"], "g"), node("ReduceSum", ["g"], "y")], stored, opset=20), feed
        )
    quantise = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    with pytest.raises(onnx_exact.Inexact, match="DynamicQuantizeLinear jumps"):
        onnx_exact.run_file_exact(made([quantise, node("Mul", ["x", "s"], "y")], []), feed)


def test_float64_gives_up_in_time_and_on_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = {"x": np.zeros((3, 4, 8, 8), np.float32)}
    clock = itertools.count()
    chain = [
        node("Relu", ["x"], "y0"),
        *(node("Relu", [f"y{index}"], f"y{index + 1}") for index in range(7)),
        node("Relu", ["y7"], "y"),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(onnx_exact.time, "monotonic", lambda: float(next(clock)))
        with pytest.raises(onnx_exact.Inexact, match="more than"):  # between two operators of one sample
            onnx_exact.run_file_exact(made(chain, []), {"x": feed["x"][:1]}, 4.0)
        assert next(clock) < 7
    with pytest.raises(onnx_exact.Inexact, match="more than"):
        onnx_exact.run_file_exact(plain(), feed, 0.0)
    with pytest.raises(onnx_exact.Inexact, match="statistics of the batch"):
        onnx_exact.run_file_exact(made([norm("x", "y", extra=("a", "b"), training_mode=1)], statistics("bn", 4)), feed)


def test_a_reference_that_disagrees_with_onnx_runtime_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_exact.run_file_exact
    monkeypatch.setattr(pack_onnx, "run_file_exact", lambda *given: {name: 1.01 * array for name, array in right(*given).items()})
    report = export(tmp_path, plain())
    assert report.original_error is None
    assert "differs from ONNX Runtime by 9.9e-03" in report.notes[0]
