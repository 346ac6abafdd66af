"""Where 8-bit steps go: what runtimes fuse is rounded, what shares numbers shares a scale, and what stays in float says why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.onnx.placing import MISREAD, Graph, Placement, name_apart, placed
from edgekit.onnx.qdq import quantised_model
from tests.onnx.crafted import model_of, node, tensor

WIDE = ("batch", 16, 8, 8)
KERNEL, TAIL = tensor("w", 16, 16, 3, 3), tensor("v", 16, 16, 3, 3)


def conv(source: str, output: str, weight: str = "w", **attributes: Any) -> onnx.NodeProto:
    return node("Conv", [source, weight], output, f"conv_{output}", pads=[1, 1, 1, 1], **attributes)


def checked(nodes: Sequence[onnx.NodeProto], stored: Sequence[onnx.TensorProto] = (KERNEL, TAIL), **form: Any) -> Placement:
    """The placement of a valid model, whose quantised file is valid too."""
    model = model_of(nodes, stored, **{"shape": WIDE, **form})
    onnx.checker.check_model(model, full_check=True)
    placement = placed(Graph(model), {})
    file = quantised_model(model, placement, dict.fromkeys(placement.groups.values(), 1.0), {})
    onnx.checker.check_model(file, full_check=True)
    return placement


def names(placement: Placement) -> list[str]:
    return [layer.name for layer in placement.layers]


def reasons(placement: Placement) -> dict[str, str]:
    return {kept.name: kept.reason for kept in placement.kept}


def test_a_convolution_is_rounded_behind_its_relu_and_logits_stay_float() -> None:
    placement = checked([conv("x", "a"), node("Relu", ["a"], "b"), conv("b", "y", "v")])
    assert names(placement) == ["conv_a", "conv_y"]
    assert placement.groups == {"x": "x", "b": "b"}  # neither a, which Relu reads alone, nor the logits y
    assert placement.signed == {"x"}


def test_what_relu_does_not_read_alone_is_rounded_itself() -> None:
    nodes = [conv("x", "a"), node("Relu", ["a"], "b"), node("Add", ["a", "b"], "c"), conv("c", "y", "v")]
    assert set(checked(nodes).groups) == {"x", "a", "c"}


@pytest.mark.parametrize("relu", [True, False])
def test_both_terms_and_the_sum_of_a_residual_addition_are_rounded(relu: bool) -> None:
    behind = [node("Relu", ["s"], "r", "relu_s"), conv("r", "y", "v")] if relu else [conv("s", "y", "v")]
    nodes = [conv("x", "a"), node("Relu", ["a"], "b", "relu_a"), conv("b", "c"), node("Add", ["c", "b"], "s"), *behind]
    placement = checked(nodes)
    assert set(placement.groups) == {"x", "b", "c", "r" if relu else "s"}
    assert len(set(placement.groups.values())) == 4
    assert placement.signed == {"x", "c"} | (set() if relu else {"s"})


def test_an_addition_with_a_float_term_stays_float() -> None:
    nodes = [
        conv("x", "a"),
        node("Sigmoid", ["x"], "f"),
        node("Add", ["a", "f"], "s"),
        node("Sin", ["s"], "t"),
        conv("t", "y", "v"),
    ]
    assert set(checked(nodes).groups) == {"x", "a", "t"}


def test_pieces_of_a_concat_share_a_scale_where_a_layer_reads_it() -> None:
    pieces = [conv("x", "a"), node("Relu", ["a"], "b"), conv("x", "c", "v"), node("Concat", ["b", "c"], "d", axis=1)]
    wide = tensor("u", 16, 32, 1, 1)
    pooled = [node("MaxPool", ["d"], "p", kernel_shape=[2, 2]), node("Conv", ["p", "u"], "y", "last")]
    placement = checked([*pieces, *pooled], [KERNEL, TAIL, wide])
    assert len({placement.groups[value] for value in "bcd"}) == 1
    assert placement.groups["x"] != placement.groups["d"]
    assert placement.signed >= {placement.groups["d"]}  # c may be negative
    apart = checked([*pieces, node("Sin", ["d"], "s"), node("Conv", ["s", "u"], "y", "last")], [KERNEL, TAIL, wide])
    assert "d" not in apart.groups
    assert apart.groups["b"] != apart.groups["c"]


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("group", [1, 32])
@pytest.mark.parametrize("between", ["", "Identity", "Mul", "MaxPool"])
def test_a_convolution_of_a_signed_concat_is_kept_where_openvino_would_lose_its_zero_point(
    relu: bool, group: int, between: str
) -> None:
    behind = {
        "Identity": [node("Identity", ["d"], "m")],
        "Mul": [node("Mul", ["d", "two"], "m")],
        "MaxPool": [node("MaxPool", ["d"], "m", kernel_shape=[2, 2])],
    }.get(between, [])
    pieces = [conv("x", "a"), conv("x", "c", "v"), node("Relu", ["a"], "ar", "relu_a"), node("Relu", ["c"], "cr", "relu_c")]
    joined = node("Concat", ["ar", "cr"] if relu else ["a", "c"], "d", axis=1)
    last = node("Conv", ["m" if between else "d", "u"], "y", "last", group=group)
    stored = [KERNEL, TAIL, tensor("u", 32, 32 // group, 1, 1), numpy_helper.from_array(np.float32(2), "two")]
    placement = checked([*pieces, joined, *behind, last], stored)
    misread = not relu and group == 1 and between != "MaxPool"
    assert reasons(placement) == ({"last": MISREAD} if misread else {})


def test_pieces_of_a_split_have_its_scale() -> None:
    halves = helper.make_node("Split", ["b"], ["p", "q"], "split", axis=1)
    nodes = [conv("x", "a"), node("Relu", ["a"], "b"), halves, node("Sin", ["p"], "s"), node("Conv", ["q", "u"], "c", "half")]
    nodes += [node("Conv", ["s", "u"], "e", "other"), node("Add", ["c", "e"], "y")]
    placement = checked(nodes, [KERNEL, tensor("u", 16, 8, 1, 1)])
    assert placement.groups["q"] == placement.groups["b"]  # one scale for what Split only moves
    assert "p" not in placement.groups  # no layer reads it
    assert placement.groups["b"] not in placement.signed


@pytest.mark.parametrize("operator", ["Relu", "MaxPool", "Concat", "Add", "Conv"])
def test_an_operator_of_another_domain_is_none_of_onnx(operator: str) -> None:
    """Its namesake in ONNX would be rounded behind, or through; here nothing is known of what it does to its numbers."""
    kinds: dict[str, tuple[list[str], dict[str, Any]]] = {
        "Conv": (["a", "v"], {}),
        "Add": (["a", "a"], {}),
        "Concat": (["a", "a"], {"axis": 1}),
        "MaxPool": (["a"], {"kernel_shape": [1, 1]}),
    }
    inputs, attributes = kinds.get(operator, (["a"], {}))
    nodes = [conv("x", "a"), helper.make_node(operator, inputs, ["b"], "other", domain="my", **attributes), conv("b", "y", "v")]
    model = model_of(nodes, [KERNEL, TAIL], shape=WIDE)
    model.opset_import.append(helper.make_opsetid("my", 1))
    model.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["batch", 16, 8, 8]))
    placement = placed(Graph(model), {})
    assert names(placement) == ["conv_a", "conv_y"]
    assert placement.groups == {"x": "x", "a": "a", "b": "b"}
    assert placement.signed == {"x", "a", "b"}


def test_what_moves_numbers_has_one_scale() -> None:
    shape = numpy_helper.from_array(np.array([0, 256], np.int64), "shape")
    nodes = [
        conv("x", "a"), node("Relu", ["a"], "b"), node("MaxPool", ["b"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", ["p"], "t", perm=[0, 2, 3, 1]), node("Reshape", ["t", "shape"], "r"), node("Flatten", ["r"], "f"),
        node("Gemm", ["f", "g"], "y", "gemm"),
    ]  # fmt: skip
    placement = checked(nodes, [KERNEL, shape, tensor("g", 256, 16)], rank=2)
    assert {placement.groups[value] for value in "bptrf"} == {placement.groups["f"]}
    assert placement.groups["f"] not in placement.signed


def test_an_average_has_a_scale_of_its_own() -> None:
    nodes = [
        conv("x", "a"), node("Relu", ["a"], "b"), node("GlobalAveragePool", ["b"], "p"), node("Flatten", ["p"], "f"),
        node("Gemm", ["f", "g"], "y", "gemm"),
    ]  # fmt: skip
    placement = checked(nodes, [KERNEL, tensor("g", 16, 16)], rank=2)
    assert placement.groups["b"] != placement.groups["f"] == placement.groups["p"]
    assert placement.signed == {"x"}


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_relu6_clamps_the_convolution_before_it_in_one_group(low: float) -> None:
    bounds = [numpy_helper.from_array(np.float32(bound), name) for name, bound in (("low", low), ("high", 6.0))]
    nodes = [conv("x", "a"), node("Clip", ["a", "low", "high"], "b"), conv("b", "y", "v")]
    placement = checked(nodes, [KERNEL, TAIL, *bounds])
    if low == 0:
        assert placement.groups["a"] == placement.groups["b"]
        assert (set(placement.clamped), set(placement.signed)) == ({"a"}, {"x"})
    else:
        assert placement.groups["a"] != placement.groups["b"]
        assert (set(placement.clamped), set(placement.signed)) == (set(), {"x", "a", "b"})


@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid"])
@pytest.mark.parametrize("other_reader", [False, True])
def test_a_swish_is_rounded_behind_it_only(gate: str, other_reader: bool) -> None:
    nodes = [conv("x", "a"), node(gate, ["a"], "s"), node("Mul", ["s", "a"], "m"), conv("m", "c", "v")]
    nodes += [node("Add", ["c", "a"] if other_reader else ["c", "m"], "y")]
    placement = checked(nodes)
    assert set(placement.groups) == ({"x", "a", "m"} if other_reader else {"x", "m"})
    assert "m" in placement.signed


@pytest.mark.parametrize("second", ["s", "x"])
def test_a_product_with_another_sigmoid_is_no_swish(second: str) -> None:
    """A sigmoid that something else reads, or of another value, is a gate: the value before it has readers of its own."""
    nodes = [conv("x", "a"), node("Sigmoid", ["a"], "s"), node("Mul", ["a", second], "m"), conv("m", "c", "v")]
    nodes += [node("Add", ["c", "s"], "y")]
    assert set(checked(nodes).groups) == {"x", "a", "m"}


def test_logits_and_what_follows_the_last_layer_stay_float() -> None:
    nodes = [
        conv("x", "a"),
        node("Relu", ["a"], "b"),
        node("MaxPool", ["b"], "p", kernel_shape=[2, 2]),
        node("Softmax", ["p"], "y"),
    ]
    assert checked(nodes).groups == {"x": "x"}


@pytest.mark.parametrize("channels", [1, 3, 12])
def test_a_narrow_convolution_is_kept_with_the_reason(channels: int) -> None:
    nodes = [conv("x", "a", "first"), node("Relu", ["a"], "b"), conv("b", "y", "v")]
    placement = checked(nodes, [tensor("first", 16, channels, 3, 3), TAIL], shape=("batch", channels, 8, 8))
    assert names(placement) == ["conv_y"]
    assert reasons(placement) == {"conv_a": f"it has {channels} input channels: below 16 an 8-bit kernel does not pay"}
    assert set(placement.groups) == {"b"}


@pytest.mark.parametrize(("channels", "kernel", "fits"), [(8, (3, 3), True), (8, (1, 3), False), (12, (3, 3), False)])
def test_eight_channels_pay_where_the_kernel_is_square(channels: int, kernel: tuple[int, int], fits: bool) -> None:
    weight = tensor("w", channels, 16, *kernel)
    assert bool(names(checked([node("Conv", ["x", "w"], "y", "only")], [weight]))) == fits


def test_narrow_matrices_are_kept_with_their_shape() -> None:
    nodes = [node("Gemm", ["x", "w"], "a", "in"), node("Gemm", ["a", "v"], "y", "out")]
    placement = checked(nodes, [tensor("w", 16, 32), tensor("v", 32, 10)], shape=("batch", 16), rank=2)
    assert names(placement) == ["in"]
    assert reasons(placement) == {"out": "it is 32x10: below 16 an 8-bit kernel does not pay"}


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"alpha": 0.5}, "its alpha, beta or transA is of no 8-bit kernel"),
        ({"beta": 2.0}, "its alpha, beta or transA is of no 8-bit kernel"),
        ({"transB": 1}, ""),
    ],
)
def test_a_gemm_that_scales_is_kept(attributes: dict[str, Any], reason: str) -> None:
    nodes = [node("Gemm", ["x", "w", "bias"], "y", "gemm", **attributes)]
    placement = checked(nodes, [tensor("w", 16, 16), tensor("bias", 16)], shape=("batch", 16), rank=2)
    assert reasons(placement) == ({"gemm": reason} if reason else {})
    assert [layer.axis for layer in placement.layers] == ([] if reason else [0])


def test_a_gemm_with_another_bias_for_each_row_is_kept() -> None:
    nodes = [node("Gemm", ["x", "w", "bias"], "y", "gemm")]
    rows = checked(nodes, [tensor("w", 16, 16), tensor("bias", 4, 16)], shape=(4, 16), rank=2)
    assert reasons(rows) == {"gemm": "its bias is another for each row"}
    one_row = checked(nodes, [tensor("w", 16, 16), tensor("bias", 1, 16)], shape=(4, 16), rank=2)
    assert names(one_row) == ["gemm"]


@pytest.mark.parametrize("rank", [2, 3])
def test_a_matmul_is_placed_with_its_channels_in_columns(rank: int) -> None:
    shape = {2: ("batch", 16), 3: ("batch", 5, 16)}[rank]
    placement = checked([node("MatMul", ["x", "w"], "y", "product")], [tensor("w", 16, 24)], shape=shape, rank=rank)
    assert [(layer.name, layer.axis, layer.bias) for layer in placement.layers] == [("product", 1, "")]


def test_a_matmul_of_stacked_weights_is_kept() -> None:
    placement = checked([node("MatMul", ["x", "w"], "y", "product")], [tensor("w", 16, 8, 16)], shape=WIDE)
    assert reasons(placement) == {"product": "its weight has not two axes"}


def test_a_transposed_convolution_is_kept() -> None:
    placement = checked([conv("x", "a"), node("ConvTranspose", ["a", "v"], "y", "up")])
    assert (names(placement), reasons(placement)) == (["conv_a"], {"up": "no runtime has an 8-bit kernel for ConvTranspose"})
    assert set(placement.groups) == {"x", "a"}  # it leads to a layer, though to one in float


def test_a_weight_that_the_network_computes_is_kept() -> None:
    placement = checked([node("Mul", ["w", "two"], "d"), conv("x", "y", "d")], [KERNEL, tensor("two", 1)])
    assert reasons(placement) == {"conv_y": "its weight is not stored in the file as float32"}
    assert placement.groups == {}


def test_a_weight_that_is_not_finite_is_kept() -> None:
    weight = numpy_helper.from_array(np.full((16, 16, 1, 1), np.inf, np.float32), "w")
    assert "not finite" in reasons(checked([node("Conv", ["x", "w"], "y", "only")], [weight]))["only"]


def test_a_layer_that_reads_a_stored_value_is_kept() -> None:
    nodes = [node("Gemm", ["table", "w"], "a", "stored"), node("Add", ["x", "a"], "y")]
    placement = checked(nodes, [tensor("table", 1, 16), tensor("w", 16, 16)], shape=("batch", 16), rank=2)
    assert "depends on no input" in reasons(placement)["stored"]


def test_a_weight_in_a_constant_node_is_stored_like_any_other() -> None:
    constant = helper.make_node("Constant", [], ["w"], "weight", value=KERNEL)
    model = model_of([constant, conv("x", "a"), conv("a", "y", "v")], [TAIL], shape=WIDE)
    placement = placed(Graph(model), {})
    assert names(placement) == ["conv_a", "conv_y"]
    file = quantised_model(model, placement, dict.fromkeys(placement.groups.values(), 1.0), {})
    onnx.checker.check_model(file, full_check=True)
    assert "Constant" not in [item.op_type for item in file.graph.node]  # nothing reads the float weight any more


def test_layers_that_share_a_weight_each_round_it_by_their_own_input() -> None:
    model = model_of([conv("x", "a"), node("Relu", ["a"], "b"), conv("b", "y")], [KERNEL], shape=WIDE)
    placement = placed(Graph(model), {})
    assert names(placement) == ["conv_a", "conv_y"]
    file = quantised_model(model, placement, {"x": 1.0, "b": 1.0}, {})
    onnx.checker.check_model(file, full_check=True)
    most = [np.abs(numpy_helper.to_array(item)).max() for item in file.graph.initializer if item.name.endswith("/codes")]
    assert sorted(most) == [63, 127]  # x may be negative, b may not
    assert "w" not in {item.name for item in file.graph.initializer}


def test_an_output_in_the_middle_is_given_as_it_was_and_read_in_steps() -> None:
    model = model_of([conv("x", "a"), node("Relu", ["a"], "b"), conv("b", "y", "v")], [KERNEL, TAIL], shape=WIDE)
    model.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [None] * 4))
    placement = placed(Graph(model), {})
    assert set(placement.groups) == {"x", "b"}
    file = quantised_model(model, placement, {"x": 1.0, "b": 1.0}, {})
    onnx.checker.check_model(file, full_check=True)
    makers = {name: item.op_type for item in file.graph.node for name in item.output}
    last = next(item for item in file.graph.node if item.name == "conv_y")
    assert (makers["b"], makers[last.input[0]]) == ("Relu", "DequantizeLinear")


def test_a_body_reads_the_value_that_is_not_rounded() -> None:
    float_output = helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)
    bodies = {
        name: helper.make_graph([helper.make_node(kind, ["a"], ["inside"])], name, [], [float_output])
        for name, kind in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    yes = numpy_helper.from_array(np.array(True), "yes")
    nodes = [
        conv("x", "a"),
        node("If", ["yes"], "i", **bodies),
        node("Relu", ["a"], "b"),
        node("Add", ["i", "b"], "c"),
        conv("c", "y", "v"),
    ]
    placement = checked(nodes, [KERNEL, TAIL, yes])
    assert "a" in placement.groups  # Relu is not its only reader


def test_nodes_of_one_name_are_told_apart() -> None:
    nodes = [
        node("Conv", ["x", "w"], "a", "same"),
        node("Conv", ["a", "v"], "same.1", ""),
        node("Conv", ["same.1", "v"], "y", "same"),
    ]
    nodes[1].name = ""
    model = model_of(nodes, [KERNEL, TAIL], shape=WIDE)
    name_apart(model)
    placement = placed(Graph(model), {"same": "asked for"})
    assert reasons(placement) == {"same": "asked for"}
    assert names(placement) == ["same.1", "same.2"]
    file = quantised_model(model, placement, dict.fromkeys(placement.groups.values(), 1.0), {})
    onnx.checker.check_model(file, full_check=True)


def test_a_layer_that_is_kept_takes_its_steps_with_it() -> None:
    model = model_of([conv("x", "a"), node("Relu", ["a"], "b"), conv("b", "y", "v")], [KERNEL, TAIL], shape=WIDE)
    placement = placed(Graph(model), {"conv_a": "asked for"})
    assert (names(placement), reasons(placement)) == (["conv_y"], {"conv_a": "asked for"})
    assert set(placement.groups) == {"b"}


def test_operators_of_another_domain_are_left_alone() -> None:
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"], "other", domain="my")], [KERNEL], shape=WIDE)
    model.opset_import.append(helper.make_opsetid("my", 1))
    assert placed(Graph(model), {}) == Placement((), {}, frozenset(), frozenset(), ())
