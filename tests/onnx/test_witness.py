"""ONNX Runtime as the witness of the float64 values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference.op_run import OpRun

from edgekit.bundle.folder import open_bundle
from edgekit.errors import ModelError
from edgekit.onnx import evaluator
from edgekit.onnx import exact as onnx_exact
from edgekit.onnx.exact import Inexact, run_file_exact
from edgekit.onnx.kernels import KERNELS
from edgekit.onnx.run import open_unoptimised
from edgekit.onnx.witness import RuntimeWitness, error_of_scale
from edgekit.sources import onnx_file
from tests.onnx.crafted import conv, export, model_of, node, norm, statistics, tensor

FEED = {"x": np.random.default_rng(0).standard_normal((3, 4, 8, 8)).astype(np.float32)}
ALPHA = 0.05


class Relu(OpRun):
    """A Relu that is wrong by a thousandth."""

    op_domain = ""

    def _run(self, x: Any) -> Any:
        return (np.maximum(x, 0) * 1.001,)


def with_lrn(**form: Any) -> onnx.ModelProto:
    lrn = node("LRN", ["n"], "l", "squeeze", size=3, alpha=ALPHA)
    nodes = [conv(), norm("c", "n"), lrn, node("Relu", ["l"], "y")]
    return model_of(nodes, [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)], **form)


def lrn_of_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_exact, "KERNELS", [kernel for kernel in KERNELS if kernel.__name__ != "LRN"])


def witnessed(model: onnx.ModelProto, feed: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, int]]:
    witness = RuntimeWitness(model, Path("net.onnx"))
    return run_file_exact(model, feed or FEED, witness=witness), witness.kernels


def test_lrn_of_onnxs_evaluator_is_caught_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert witnessed(with_lrn())[1] == {}
    lrn_of_onnx(monkeypatch)
    with pytest.raises(Inexact, match=r"^node 'squeeze' \(LRN\) differs from ONNX Runtime by \d\.\de-0\d of its scale"):
        witnessed(with_lrn())


def test_the_note_names_the_node_and_the_reference_is_the_file_in_its_own_dtype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lrn_of_onnx(monkeypatch)
    report = export(tmp_path, with_lrn())
    assert report.original_error is None
    assert "node 'squeeze' (LRN) differs from ONNX Runtime" in report.notes[0]
    assert open_bundle(tmp_path / "bundle").manifest.golden.reference == onnx_file.ITSELF


def test_the_recorded_truth_of_lrn_is_that_of_pytorch(tmp_path: Path) -> None:
    model = with_lrn()
    report = export(tmp_path, model)
    golden = open_bundle(tmp_path / "bundle").golden()
    weights = {each.name: torch.from_numpy(numpy_helper.to_array(each).astype(np.float64)) for each in model.graph.initializer}
    x = torch.from_numpy(golden.inputs["x"].astype(np.float64))
    mean, var, scale, shift = (weights[f"bn.{part}"] for part in "mvsb")
    y = torch.nn.functional.batch_norm(torch.conv2d(x, weights["w"]), mean, var, scale, shift, eps=float(np.float32(1e-5)))
    y = torch.nn.functional.local_response_norm(y, 3, float(np.float32(ALPHA)), 0.75, 1.0).relu()
    assert np.abs(golden.float64["y"] - y.numpy()).max() < 1e-13
    assert report.notes[0] == "the reference is the original ONNX file in float64"
    assert open_bundle(tmp_path / "bundle").variant().allowance.tolerance.rtol == 2e-5


def test_a_wrong_kernel_is_replaced_by_the_next_for_the_folded_copy_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, _ = witnessed(with_lrn())
    monkeypatch.setattr(onnx_exact, "KERNELS", [Relu, *KERNELS])
    outputs, kernels = witnessed(with_lrn())
    assert kernels == {"y": 1}
    assert np.array_equal(outputs["y"], right["y"])
    assert not np.array_equal(run_file_exact(with_lrn(), FEED)["y"], right["y"])  # without a witness the wrong one is believed
    report = export(tmp_path, with_lrn())
    assert report.fold.error_float64 is not None
    assert report.notes[0] == "the reference is the original ONNX file in float64"


def test_a_node_is_judged_by_its_own_inputs_where_a_file_amplifies_rounding() -> None:
    grow = numpy_helper.from_array(np.float32(3e4), "grow")
    nodes = [conv(), node("Mul", ["c", "grow"], "m"), node("Sin", ["m"], "s"), node("Exp", ["s"], "y")]
    model = model_of(nodes, [tensor("w", 6, 4, 3, 3), grow])
    outputs, kernels = witnessed(model)
    theirs = RuntimeWitness(model, Path("net.onnx"))
    assert kernels == {}
    assert error_of_scale(outputs["y"], onnx_outputs(model)) > 1e-4
    assert theirs.samples == 2


def onnx_outputs(model: onnx.ModelProto) -> Any:
    return open_unoptimised(model, Path("net.onnx"))(FEED)["y"]


def test_a_kernel_that_gives_another_shape_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flatten(OpRun):
        op_domain = ""

        def _run(self, x: Any, axis: int = 1) -> Any:
            return (x.reshape(len(x), 2, -1),)

    monkeypatch.setattr(onnx_exact, "KERNELS", [Flatten, *KERNELS])
    model = model_of([node("Flatten", ["x"], "y")], [], rank=2)
    assert witnessed(model)[1] == {"y": 1}
    monkeypatch.setattr(evaluator, "_onnx_kernel", lambda *args: Flatten)
    with pytest.raises(Inexact, match=r"node 'flatten' \(Flatten\) gives other integers, infinities or shapes"):
        witnessed(model)


def test_cancellation_is_explained_by_the_last_place_of_the_inputs() -> None:
    stored = [numpy_helper.from_array(np.ones(4, np.float32), "s"), numpy_helper.from_array(np.zeros(4, np.float32), "b")]
    model = model_of([node("InstanceNormalization", ["x", "s", "b"], "y", epsilon=1e-20)], stored)
    feed = {"x": np.full((2, 4, 8, 8), 0.1, np.float32) + np.linspace(0, 1e-6, 64, dtype=np.float32).reshape(8, 8)}
    outputs, kernels = witnessed(model, feed)
    assert kernels == {}
    assert error_of_scale(outputs["y"], open_unoptimised(model, Path("net.onnx"))(feed)["y"]) > 2e-5


def test_an_output_that_nobody_reads_is_not_compared() -> None:
    dropout = onnx.helper.make_node("Dropout", ["x"], ["y", "mask"])  # of opset 7, whose mask is undefined
    assert np.array_equal(witnessed(model_of([dropout], [], opset=7))[0]["y"], FEED["x"])


def test_a_file_of_which_onnx_runtime_shows_no_node_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise ModelError("no such operator")

    monkeypatch.setattr("edgekit.onnx.witness.open_every_value", refuse)
    with pytest.raises(Inexact, match="no node can be compared: no such operator"):
        witnessed(with_lrn())


@pytest.mark.parametrize(
    ("ours", "theirs", "error"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 2.5], np.float32), 0.2),
        (np.array([1.0, np.inf]), np.array([1.0, np.inf], np.float32), 0.0),
        (np.array([1.0, np.inf]), np.array([1.0, -np.inf], np.float32), np.inf),
        (np.array([1.0, 2.0]), np.array([1.0, np.nan], np.float32), np.inf),
        (np.array([np.nan, 2.0]), np.array([np.nan, 4.0], np.float32), 0.5),
        (np.array([1e-60]), np.array([0.0], np.float32), 0.0),
        (np.array([1e-6]), np.array([0.0], np.float32), np.inf),
        (np.array([1.0]), np.array([[1.0]], np.float32), np.inf),
        (np.array([1, 2]), np.array([1, 2]), 0.0),
        (np.array([1, 2]), np.array([1, 3]), np.inf),
        (np.array(1.5), np.array(1.0, np.float32), 0.5),
        ([np.array(1.5)], np.array(1.0, np.float32), np.inf),
    ],
)
def test_the_error_of_scale_counts_finite_places(ours: Any, theirs: Any, error: float) -> None:
    assert error_of_scale(ours, theirs) == error


def test_a_kernel_that_is_wrong_on_large_values_alone_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal inputs, which come first, do not reach where it is wrong."""

    class Softplus(OpRun):
        op_domain = ""

        def _run(self, x: Any) -> Any:
            return (np.logaddexp(0, x) * np.where(x > 8, 1 + 2e-4, 1.0),)

    monkeypatch.setattr(onnx_exact, "KERNELS", [*KERNELS, Softplus])
    export(tmp_path, model_of([node("Softplus", ["x"], "y", "soft")], []))
    golden = open_bundle(tmp_path / "bundle").golden()
    assert len(golden.inputs["x"]) == 80  # no sample that shows it was left out
    truth = np.logaddexp(0, golden.inputs["x"].astype(np.float64))
    np.testing.assert_allclose(golden.float64["y"], truth, rtol=1e-9)


def test_values_that_overflow_on_extreme_inputs_leave_the_float64_reference(tmp_path: Path) -> None:
    report = export(
        tmp_path, model_of([conv(), norm("c", "n"), node("Exp", ["n"], "y")], [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)])
    )
    assert report.original_error is not None
    assert len(report.fold.folded) == 1


def test_a_branch_that_no_compared_sample_takes_is_not_believed() -> None:
    def branch(name: str, kind: str) -> onnx.GraphProto:
        value = onnx.helper.make_tensor_value_info("b", 1, None)
        return onnx.helper.make_graph([node(kind, ["x"], "b", name)], name, [], [value])

    large = numpy_helper.from_array(np.float32(50), "large")
    nodes = [
        node("ReduceMax", ["x"], "m", keepdims=0),
        node("Greater", ["m", "large"], "g"),
        onnx.helper.make_node("If", ["g"], ["y"], then_branch=branch("far", "Tanh"), else_branch=branch("near", "Relu")),
    ]
    model, feed = model_of(nodes, [large]), {"x": np.repeat(FEED["x"][:1], 5, axis=0)}
    assert (witnessed(model, feed)[0]["y"] >= 0).all()
    feed["x"][4] += 100
    with pytest.raises(Inexact, match=r"node 'far' \(Tanh\) is in a branch that no sample took which was compared"):
        witnessed(model, feed)
    feed["x"][1] += 100  # the second sample is compared too
    assert np.array_equal(witnessed(model, feed)[0]["y"][4], np.tanh(feed["x"][4].astype(np.float64)))
