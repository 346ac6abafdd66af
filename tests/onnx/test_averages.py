"""Means over three axes become means over four, which OpenVINO reads right in 8 bits; no number changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.onnx.averages import average_over_four_axes
from edgekit.onnx.calibration import limits_of, observe, values_of
from edgekit.onnx.placing import Graph, placed
from edgekit.onnx.qdq import CODES, quantised_model
from edgekit.onnx.run import open_unoptimised
from edgekit.tensors import Array, normalised_error
from tests.onnx.crafted import model_of, node, tensor

X = np.random.default_rng(0).standard_normal((40, 16, 12)).astype(np.float32)
"""More samples than channels: where OpenVINO reads beyond the scale's end."""
ROUNDING = 1e-6
"""Of the scale: sums of other kernels have another order."""


def sequence(kind: str, axes: Sequence[int] | None, keepdims: int, opset: int = 17) -> onnx.ModelProto:
    """A convolution of sequences, its Relu, their mean or sum, and a Gemm or a Sin."""
    stored, inputs, attributes = [tensor("w", 16, 16, 3)], ["b"], dict[str, Any](keepdims=keepdims)
    if kind == "GlobalAveragePool":
        attributes = {}
    elif axes is not None and (kind == "ReduceSum" or opset >= 18):
        stored.append(numpy_helper.from_array(np.array(axes, np.int64), "axes"))
        inputs.append("axes")
    elif axes is not None:
        attributes["axes"] = axes
    nodes = [
        node("Conv", ["x", "w"], "a", "conv", pads=[1, 1]), node("Relu", ["a"], "b"),
        node(kind, inputs, "m", "mean", **attributes),
        node("Reshape", ["m", "flat"], "f"), node("Gemm", ["f", "g"], "y", "gemm"),
    ]  # fmt: skip
    stored += [numpy_helper.from_array(np.array([0, -1], np.int64), "flat"), tensor("g", 12 if axes in ([1], [-2]) else 16, 24)]
    model = model_of(nodes, stored, shape=("batch", 16, 12), rank=2, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    return model


def outputs(model: onnx.ModelProto) -> Array:
    return open_unoptimised(model, Path("m.onnx"))({"x": X})["y"]


KINDS = [
    ("GlobalAveragePool", None, 1, 17), ("ReduceMean", [2], 1, 17), ("ReduceMean", [-1], 0, 17), ("ReduceMean", [1], 0, 17),
    ("ReduceMean", [-2], 1, 18), ("ReduceMean", [2], 0, 18), ("ReduceSum", [2], 1, 13), ("ReduceSum", [-1], 0, 17),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "axes", "keepdims", "opset"), KINDS)
def test_the_network_computes_the_same_numbers(kind: str, axes: list[int] | None, keepdims: int, opset: int) -> None:
    model = sequence(kind, axes, keepdims, opset)
    before = outputs(model)
    average_over_four_axes(model)
    onnx.checker.check_model(model, full_check=True)
    assert [item.op_type for item in model.graph.node].count("Unsqueeze") == 1
    assert normalised_error(outputs(model), before) < ROUNDING


def converted(model: onnx.ModelProto) -> onnx.ModelProto:
    placement = placed(Graph(model), {})
    limits = limits_of(placement, observe(placement, values_of(model, set(placement.groups), {"x": X})), "minmax")
    return quantised_model(model, placement, limits, {})


def openvino_outputs(model: onnx.ModelProto) -> Array:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (output,) = compiled({"x": X}).values()
    return np.asarray(output)


@pytest.mark.parametrize(("kind", "axes", "keepdims", "opset"), KINDS)
def test_openvino_reads_the_int8_file_as_it_is_written(kind: str, axes: list[int] | None, keepdims: int, opset: int) -> None:
    model = sequence(kind, axes, keepdims, opset)
    average_over_four_axes(model)
    file = converted(model)
    assert normalised_error(openvino_outputs(file), outputs(file)) < 3 / CODES


@pytest.mark.parametrize(("kind", "axes"), [("ReduceMean", [0, 2]), ("ReduceMean", None), ("ReduceMax", [2])])
def test_other_reductions_stay_or_keep_their_numbers(kind: str, axes: list[int] | None) -> None:
    attributes = {"axes": axes} if axes else {}
    nodes = [node(kind, ["x"], "m", "mean", keepdims=1, **attributes), node("Add", ["x", "m"], "y")]
    model = model_of(nodes, [], shape=("batch", 16, 12), rank=3)
    before = outputs(model)
    average_over_four_axes(model)
    assert normalised_error(outputs(model), before) < ROUNDING
    assert ("Unsqueeze" in [item.op_type for item in model.graph.node]) == (axes == [0, 2])


def test_means_of_pictures_stay_as_they_are() -> None:
    model = model_of([node("GlobalAveragePool", ["x"], "y")], [])
    before = model.SerializeToString()
    average_over_four_axes(model)
    assert model.SerializeToString() == before
