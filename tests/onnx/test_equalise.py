"""Equalisation changes no number that the network computes, and gives neighbouring channels one range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

from edgekit.onnx.equalise import equalise
from edgekit.onnx.exact import ExactFile
from edgekit.tensors import Array
from tests.onnx.crafted import model_of, node, tensor


def inverted(activation: str, spread: float = 1.0, seed: int = 0, bias: bool = True, **attributes: Any) -> onnx.ModelProto:
    """1x1, depthwise, 1x1: the channels between them have ranges that differ by ``spread`` powers of e."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (24, 8, 1, 1), "w2": (24, 1, 3, 3), "w3": (8, 24, 1, 1)}
    stored = []
    for name, shape in shapes.items():
        scale = np.exp(spread * rng.standard_normal((shape[0], 1, 1, 1)))
        stored.append(numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name))
        stored.append(numpy_helper.from_array(rng.standard_normal(shape[0]).astype(np.float32), f"{name}.b"))
    if activation == "Clip":
        stored += [numpy_helper.from_array(np.float32(bound), name) for name, bound in (("low", 0), ("high", 6))]
    bounds = ["low", "high"] if activation == "Clip" else []
    nodes, value = list[onnx.NodeProto](), "x"
    for place, (name, shape) in enumerate(shapes.items()):
        inputs, group = [value, name, *([f"{name}.b"] if bias else [])], 24 if shape[1] == 1 else 1
        pads = [shape[2] // 2] * 4
        nodes.append(node("Conv", inputs, "y" if place == 2 else f"c{place}", f"conv{place}", group=group, pads=pads))
        if place < 2:
            nodes.append(node(activation, [f"c{place}", *bounds], f"a{place}", f"act{place}", **attributes))
            value = f"a{place}"
    return model_of(nodes, [item for item in stored if bias or not item.name.endswith(".b")], shape=("batch", 8, 6, 6))


def float64_outputs(model: onnx.ModelProto) -> Array:
    feed = {"x": np.random.default_rng(9).standard_normal((3, 8, 6, 6))}
    return np.asarray(ExactFile(model).whole(feed)["y"])


def ranges(model: onnx.ModelProto, name: str, axis: int) -> Array:
    weight = next(numpy_helper.to_array(item) for item in model.graph.initializer if item.name == name)
    return np.asarray(np.abs(weight).max(axis=tuple(other for other in range(4) if other != axis)))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["Relu", "LeakyRelu", "Identity"]), st.floats(0, 4), st.integers(0, 2**32 - 1), st.booleans()
)  # fmt: skip
def test_the_network_computes_the_same_to_the_last_bit(activation: str, spread: float, seed: int, bias: bool) -> None:
    model = inverted(activation, spread, seed, bias)
    before = float64_outputs(model)
    equalise(model)
    assert np.array_equal(float64_outputs(model), before)


def test_channels_on_both_sides_have_one_range_but_for_a_power_of_two() -> None:
    model = inverted("Relu", 2.0)
    assert equalise(model) == ("conv0", "conv1")
    first, depthwise, last = ranges(model, "w1", 0), ranges(model, "w2", 0), ranges(model, "w3", 1)
    for one, other in ((first, depthwise), (depthwise, last)):
        assert np.abs(np.log2(one / other)).max() < 2
    assert np.abs(np.log2(ranges(inverted("Relu", 2.0), "w1", 0) / ranges(inverted("Relu", 2.0), "w2", 0))).max() > 4


@pytest.mark.parametrize("activation", ["Clip", "HardSwish", "Sigmoid", "Tanh"])
def test_what_is_not_homogeneous_is_left_as_it_is(activation: str) -> None:
    model = inverted(activation)
    before = model.SerializeToString()
    assert equalise(model) == ()
    assert model.SerializeToString() == before


def test_to_scale_around_a_relu6_would_change_the_network() -> None:
    """The partner of the test above."""
    model, before = inverted("Clip"), float64_outputs(inverted("Clip"))
    for item in model.graph.initializer:
        factor = {"w1": 0.25, "w1.b": 0.25, "w2": 4.0}.get(item.name)
        if factor is not None:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * np.float32(factor), item.name))
    assert not np.allclose(float64_outputs(model), before)


def pair(between: Sequence[onnx.NodeProto], **form: Any) -> onnx.ModelProto:
    group = form.get("group", 1)
    nodes = [
        node("Conv", ["x", "w", "b"], "c", "first"), node("Relu", ["c"], "r"), *between,
        node("Conv", [form.get("source", "r"), form.get("weight", "v"), "b2"], "y", "second", group=group),
    ]  # fmt: skip
    stored = [tensor("w", 8, 8, 1, 1, low=-9, high=9), tensor("v", 8, 8 // group, 1, 1), tensor("b", 8), tensor("b2", 8)]
    return model_of(nodes, stored, shape=("batch", 8, 6, 6))


def test_pairs_whose_numbers_others_read_too_are_left_as_they_are() -> None:
    assert equalise(pair([])) == ("first",)
    assert equalise(pair([node("Add", ["r", "c"], "s")], source="s")) == ()  # the value between them has another reader
    assert equalise(pair([], weight="w")) == ()
    assert equalise(pair([], group=2)) == ()
    shown = pair([])
    shown.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, [None] * 4))
    assert equalise(shown) == ()


def test_a_channel_of_zeros_is_left_as_it_is() -> None:
    model = pair([])
    for item in model.graph.initializer:
        if item.name == "w":
            weight = numpy_helper.to_array(item).copy()
            weight[3] = 0
            item.CopyFrom(numpy_helper.from_array(weight, "w"))
    before = float64_outputs(model)
    assert equalise(model) == ("first",)
    assert np.array_equal(float64_outputs(model), before)
