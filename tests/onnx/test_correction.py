"""Bias correction takes exactly the mean error of rounded weights from the bias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgekit.onnx.calibration import limits_of, observe, values_of
from edgekit.onnx.correction import corrected_biases
from edgekit.onnx.placing import Graph, placed
from edgekit.onnx.qdq import codes_of_layers
from edgekit.onnx.run import open_unoptimised
from edgekit.tensors import Array, Feed
from tests.onnx.crafted import model_of, node, tensor


def run_with(model: onnx.ModelProto, feed: Feed, weight: Array, bias: Array | None = None) -> NDArray[np.float64]:
    """The outputs of the float network with other numbers in it."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for item in changed.graph.initializer:
        array = {"w": weight, "b": bias}.get(item.name)
        if array is not None:
            item.CopyFrom(numpy_helper.from_array(array.astype(np.float32), item.name))
    return open_unoptimised(changed, Path("m"))(feed)["y"].astype(np.float64)


CASES: list[tuple[str, tuple[Any, ...], tuple[int, ...], dict[str, Any]]] = [
    ("Conv", ("batch", 16, 5, 5), (24, 16, 1, 1), {}),
    ("Conv", ("batch", 16, 7), (24, 16, 1), {}),
    ("Conv", ("batch", 32, 5, 5), (48, 16, 1, 1), {"group": 2}),
    ("Conv", ("batch", 16, 5, 5), (16, 1, 3, 3), {"group": 16}),
    ("Gemm", ("batch", 16), (24, 16), {"transB": 1}),
    ("Gemm", ("batch", 16), (16, 24), {}),
]


@pytest.mark.parametrize(("operator", "shape", "weight", "attributes"), CASES)
def test_the_mean_error_of_every_channel_is_gone(
    operator: str, shape: tuple[Any, ...], weight: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    outputs = weight[1] if operator == "Gemm" and not attributes else weight[0]
    stored = [tensor("w", *weight), tensor("b", outputs)]
    model = model_of([node(operator, ["x", "w", "b"], "y", "layer", **attributes)], stored, shape=shape, rank=len(shape))
    channels = np.arange(shape[1]).reshape([-1 if place == 1 else 1 for place in range(len(shape))])  # each has its own mean
    levels = np.random.default_rng(0).random((40, shape[1], *(1 for _ in shape[2:]))) + channels
    feed = {"x": np.broadcast_to(levels, (40, *shape[1:])).astype(np.float32)}
    placement = placed(Graph(model), {})
    observed = observe(placement, values_of(model, {"x"}, feed))
    limits = limits_of(placement, observed, "minmax")
    graph = Graph(model)
    rounded = codes_of_layers(graph, placement, limits)["layer"].values
    bias, plain = graph.array("b"), graph.array("w")
    assert bias is not None
    assert plain is not None
    biases = corrected_biases(graph, placement, limits, observed.means)
    assert biases["layer"].shape == (outputs,)
    reference = run_with(model, feed, plain)

    def mean_error(own: Array) -> float:
        errors = run_with(model, feed, rounded, own) - reference
        return float(np.abs(errors.mean(axis=tuple(place for place in range(errors.ndim) if place != 1))).max())

    before = mean_error(bias)
    assert mean_error(biases["layer"]) < 0.01 * before
    assert mean_error(2 * bias - biases["layer"]) > 1.9 * before  # the partner: the wrong sign doubles it


def test_a_layer_without_a_bias_gets_one_and_a_matmul_does_not() -> None:
    nodes = [node("MatMul", ["x", "w"], "a", "product"), node("Relu", ["a"], "r"), node("Gemm", ["r", "v"], "y", "gemm")]
    model = model_of(nodes, [tensor("w", 16, 16), tensor("v", 16, 16)], shape=("batch", 16), rank=2)
    placement = placed(Graph(model), {})
    feed = {"x": np.random.default_rng(0).random((8, 16), np.float32)}
    observed = observe(placement, values_of(model, set(placement.groups), feed))
    biases = corrected_biases(Graph(model), placement, limits_of(placement, observed, "minmax"), observed.means)
    assert set(biases) == {"gemm"}
    assert biases["gemm"].any()
