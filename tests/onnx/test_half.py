"""A file in float16 computes nearly the same, callers keep float32, and what float16 would harm stays float32."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgekit.errors import ModelError
from edgekit.onnx.half import Halved, to_half
from edgekit.onnx.run import open_unoptimised
from edgekit.tensors import Array, normalised_error
from tests.networks import file_of, network
from tests.onnx_files import image_spec

NOISE = 4e-3  # of scale: what float16 may do to a few layers
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def node(kind: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node whose values are named in two texts; ``-`` is an input left out."""
    names = ["" if each == "-" else each for each in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), name or kind.lower(), **attributes)


def value(name: str, *shape: int | str, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape) or None)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    stored: Mapping[str, Any],
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of one float32 input x of batch x 4 x 8 x 8 and one output y of any size, unless told otherwise."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(
        list(nodes), "graph", list(inputs) or [value("x", "batch", 4, 8, 8)], list(outputs) or [value("y", *"abcd")], tensors
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("my", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def floats(values: Any) -> Array:
    return np.asarray(values, np.float32)


def integers(values: Any) -> Array:
    return np.asarray(values, np.int64)


def numbers(name: str, *shape: int, scale: float = 0.5) -> Array:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.normal(0, scale, shape).astype(np.float32)


def pictures(samples: int = 3, *shape: int) -> Array:
    return np.random.default_rng(7).normal(0, 1, (samples, *(shape or (4, 8, 8)))).astype(np.float32)


def run(model: onnx.ModelProto, feed: Mapping[str, Array]) -> dict[str, Array]:
    return open_unoptimised(model, Path("half.onnx"))(feed)


def halved(
    model: onnx.ModelProto, feed: Mapping[str, Array] | None = None, keep: Mapping[str, str] | None = None, noise: float = NOISE
) -> Halved:
    """The model in float16: valid, the same when made again, without Casts in a row, and nearly equal on ``feed``."""
    feed = {"x": pictures()} if feed is None else feed
    onnx.checker.check_model(model, full_check=True)
    before = model.SerializeToString(deterministic=True)
    half = to_half(model, keep or {})
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(half.model, full_check=True)
    assert half.model.SerializeToString(deterministic=True) == to_half(model, keep or {}).model.SerializeToString(
        deterministic=True
    )
    ours = {each.output[0] for each in casts(half)}
    assert not any(each.input[0] in ours for each in casts(half))
    for sides in ("input", "output"):
        given, was = (
            {each.name: each.type.tensor_type.elem_type for each in getattr(each_model.graph, sides)}
            for each_model in (half.model, model)
        )
        assert all(was[name] == kind for name, kind in given.items())
    expected = run(model, feed)
    outputs = run(half.model, feed)
    assert list(outputs) == list(expected)
    for name, array in expected.items():
        assert (outputs[name].dtype, outputs[name].shape) == (array.dtype, array.shape)
        assert normalised_error(outputs[name], array) <= noise, name
    return half


def casts(half: Halved) -> list[onnx.NodeProto]:
    return [each for each in half.model.graph.node if each.op_type == "Cast"]


def types(half: Halved) -> dict[str, int]:
    """Element types of all values, as ONNX infers them."""
    graph = onnx.shape_inference.infer_shapes(half.model, strict_mode=True).graph
    known = {each.name: each.type.tensor_type.elem_type for each in (*graph.input, *graph.value_info, *graph.output)}
    return known | {tensor.name: tensor.data_type for tensor in half.model.graph.initializer}


def node_of(half: Halved, name: str) -> onnx.NodeProto:
    named: onnx.NodeProto
    (named,) = [each for each in half.model.graph.node if each.name == name]
    return named


def kinds(half: Halved, name: str) -> list[int]:
    """The element types of what a node reads and gives."""
    known, named = types(half), node_of(half, name)
    return [known[each] for each in (*named.input, *named.output) if each]


def reasons(half: Halved) -> dict[str, str]:
    return {kept.node: kept.reason for kept in half.kept}


class Residual(nn.Module):
    """A residual addition, a concatenation and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(x) + x)
        return self.head(torch.cat([y, torch.sigmoid(self.second(y))], 1).mean((2, 3)))  # type: ignore[no-any-return]


def residual() -> onnx.ModelProto:
    torch.manual_seed(0)
    return onnx.load_from_string(file_of(Residual().eval(), image_spec(4, 8))[0].content)


def test_a_network_is_float16_throughout_between_two_casts() -> None:
    half = halved(residual(), {"input": pictures()})
    assert half.kept == ()
    assert len(casts(half)) == 2
    assert {tensor.data_type for tensor in half.model.graph.initializer} - {TensorProto.INT64} == {HALF}
    assert [name for name, kind in types(half).items() if kind == FLOAT] == ["input", "output"]
    assert half.converted == len([each for each in half.model.graph.node if each.op_type != "Cast"])


def test_stored_numbers_are_rounded_to_nearest() -> None:
    model = model_of([node("Mul", "x w", "y")], {"w": floats([1 + 0.9 / 1024, 65519, 3e-5, 7e-8]).reshape(4, 1, 1)})
    (tensor,) = halved(model).model.graph.initializer
    assert numpy_helper.to_array(tensor).ravel().tolist() == [1 + 1 / 1024, 65504, np.float16(3e-5), 2.0**-24]


@pytest.mark.parametrize("name", ["lenet", "resnet18"])
def test_shipped_networks_are_converted_whole(name: str) -> None:
    model = onnx.load_from_string(file_of(network(name), image_spec())[0].content)
    half = halved(model, {"input": pictures(2, 1, 28, 28)}, noise=2e-2)
    assert half.kept == ()
    assert len(half.model.SerializeToString()) < 0.55 * len(model.SerializeToString())


def test_kept_neighbours_share_casts() -> None:
    """Two kept nodes in a row, the second of which reads the first, and both the input of the first."""
    model = model_of(
        [
            node("Mul", "x w", "a"), node("Add", "a w", "b", "kept1"), node("Sub", "b a", "c", "kept2"),
            node("Mul", "c b", "d", "after"), node("Relu", "d", "y"),
        ],
        {"w": numbers("w", 4, 1, 1)},
    )  # fmt: skip
    half = halved(model, keep={"kept1": "by name", "kept2": "by name"})
    assert reasons(half) == {"kept1": "by name", "kept2": "by name"}
    assert {(each.input[0], each.output[0]) for each in casts(half)} == {
        ("x", "x_float16"), ("a", "a_float32"), ("c", "c_float16"), ("b", "b_float16"), ("y_float16", "y"),
    }  # fmt: skip
    assert kinds(half, "kept2") == [FLOAT] * 3
    assert half.converted == 3


def test_weights_of_kept_and_converted_nodes_are_stored_in_both_types() -> None:
    model = model_of([node("Mul", "x w", "a"), node("Add", "a w", "y", "kept")], {"w": numbers("w", 4, 1, 1)})
    half = halved(model, keep={"kept": "by name"})
    assert {tensor.name: tensor.data_type for tensor in half.model.graph.initializer} == {"w": HALF, "w_float32": FLOAT}
    kept = numpy_helper.to_array(half.model.graph.initializer[0])
    assert np.array_equal(kept, numbers("w", 4, 1, 1))


def test_an_output_of_a_kept_node_needs_no_cast() -> None:
    half = halved(model_of([node("Relu", "x", "a"), node("Neg", "a", "y", "kept")], {}), keep={"kept": "by name"})
    assert [(each.input[0], each.output[0]) for each in casts(half)] == [("x", "x_float16"), ("a", "a_float32")]


def test_nothing_is_cast_where_everything_is_kept() -> None:
    half = halved(model_of([node("Neg", "x", "y", "kept")], {}), keep={"kept": "by name"}, noise=0)
    assert (half.converted, casts(half)) == (0, [])


def test_an_output_that_inner_nodes_read_too() -> None:
    outputs = [value("y", *"abcd"), value("z", *"abcd")]
    nodes = [node("Mul", "x w", "y"), node("Exp", "y", "z")]
    model = model_of(nodes, {"w": numbers("w", 4, 1, 1)}, outputs=outputs)
    half = halved(model)
    assert node_of(half, "exp").input == ["y_float16"]
    assert len(casts(half)) == 3


def test_a_stored_tensor_and_an_input_that_are_outputs_stay_as_they_are() -> None:
    outputs = [value("y", *"abcd"), value("w", 4, 1, 1), value("x", "batch", 4, 8, 8)]
    half = halved(model_of([node("Mul", "x w", "y")], {"w": numbers("w", 4, 1, 1)}, outputs=outputs))
    assert {tensor.name: tensor.data_type for tensor in half.model.graph.initializer} == {"w": FLOAT, "w_float16": HALF}


def test_a_name_that_is_taken_is_not_taken_again() -> None:
    model = model_of(
        [node("Mul", "x w", "x_float16"), node("Exp", "x_float16", "y", "y_to_float32")], {"w": numbers("w", 4, 1, 1)}
    )
    assert {each.name for each in casts(halved(model))} == {"x_to_float16", "y_to_float32.1"}


@pytest.mark.parametrize("spelling", ["value", "value_float", "value_floats"])
def test_constants_are_stored_in_float16(spelling: str) -> None:
    given: Any = {"value": numpy_helper.from_array(floats([0.3])), "value_float": 0.3, "value_floats": [0.3]}[spelling]
    constant = node("Constant", "", "c", **{spelling: given})
    half = halved(model_of([constant, node("Mul", "x c", "y")], {}))
    assert [(tensor.name, tensor.data_type) for tensor in half.model.graph.initializer] == [("c", HALF)]


def test_bounds_of_a_clip_follow_it() -> None:
    stored = {"low": np.float32(-0.5), "high": np.float32(0.7)}
    half = halved(
        model_of([node("Clip", "x low high", "a"), node("Clip", "a - high", "y", "kept")], stored), keep={"kept": "named"}
    )
    assert kinds(half, "clip") == [HALF] * 4
    assert kinds(half, "kept") == [FLOAT] * 3


def test_a_bound_beyond_float16_keeps_its_clip_and_nothing_else() -> None:
    stored = {"low": np.float32(0), "high": np.float32(3.4e38)}
    half = halved(model_of([node("Clip", "x low high", "a"), node("Exp", "a", "y")], stored))
    assert reasons(half) == {"clip": "its weights exceed float16: they reach 3.4e+38, beyond 65504"}
    assert kinds(half, "exp") == [HALF] * 2


@pytest.mark.parametrize(("share", "kept"), [(0.05, False), (0.25, True), (1.0, True)])
def test_weights_that_vanish_keep_their_node_if_they_are_many(share: float, kept: bool) -> None:
    weights = np.ones((4, 5, 4), np.float32)
    weights.reshape(-1)[: round(share * weights.size)] = 1e-8
    model = model_of([node("Mul", "x w", "y")], {"w": weights}, inputs=[value("x", "batch", 4, 5, 4)])
    half = halved(model, {"x": pictures(3, 4, 5, 4)})
    assert bool(half.kept) == kept
    assert all(reason.startswith("its weights vanish in float16") for reason in reasons(half).values())


def test_what_is_not_zero_does_not_become_a_divisor_of_zero() -> None:
    model = model_of([node("Add", "x e", "a"), node("Div", "a a", "y")], {"e": floats([1e-12])})
    assert reasons(halved(model)) == {"add": "its weights vanish in float16: 1 of 1 are below 6e-8"}


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [13, 18])
def test_scales_of_a_resize_stay_float32(mode: str, opset: int) -> None:
    nodes = [node("Relu", "x", "a"), node("Resize", "a - scales", "y", mode=mode)]
    half = halved(model_of(nodes, {"scales": floats([1, 1, 1.7, 2])}, opset=opset))
    assert kinds(half, "resize") == [HALF, FLOAT, HALF]
    assert half.kept == ()


def test_a_quantiser_takes_float16_where_its_opset_has_it() -> None:
    nodes = [
        node("Relu", "x", "a"),
        node("QuantizeLinear", "a s z", "q"),
        node("DequantizeLinear", "q s z", "b"),
        node("Exp", "b", "y"),
    ]
    stored = {"s": np.float32(2.0**-5), "z": np.int8(0)}
    old, new = (halved(model_of(nodes, stored, opset=opset), noise=2e-2) for opset in (13, 19))
    assert reasons(old) == {name: f"ONNX has no float16 {kind} in opset 13" for name, kind in
                            (("quantizelinear", "QuantizeLinear"), ("dequantizelinear", "DequantizeLinear"))}  # fmt: skip
    assert new.kept == ()
    assert kinds(new, "quantizelinear")[:2] == [HALF, HALF]


@pytest.mark.parametrize("opset", [13, 14, 15])
def test_a_norm_is_converted_with_all_its_statistics(opset: int) -> None:
    stored = {name: np.abs(numbers(name, 4)) + 0.5 for name in "sbmv"}
    half = halved(model_of([node("BatchNormalization", "x s b m v", "y", "norm")], stored, opset=opset))
    assert kinds(half, "norm") == [HALF] * 6


def test_a_result_that_is_float32_by_definition_stays_so() -> None:
    outputs = [value("y", *"abcd"), value("mean", *"abcd")]
    nodes = [node("LayerNormalization", "x s", "y mean", axis=-1)]
    half = halved(model_of(nodes, {"s": numbers("s", 8)}, outputs=outputs))
    assert types(half)["mean"] == FLOAT
    assert half.converted == 1


@pytest.mark.skipif(not onnx.defs.has("LinearAttention"), reason="this onnx has no LinearAttention")
def test_an_output_is_float16_where_onnx_infers_so_from_other_inputs() -> None:
    """The state has a type of its own, which follows the query's where no state is given."""
    nodes = [node("LinearAttention", "x x x", "y state", "attention", kv_num_heads=4, q_num_heads=4, update_rule="linear")]
    outputs = [value("y", "batch", 1, 32), value("state", "batch", 4, 8, 8)]
    model = model_of(nodes, {}, [value("x", "batch", 1, 32)], outputs, opset=27)
    model.ir_version = 13
    half = to_half(model)
    onnx.checker.check_model(half.model, full_check=True)
    assert kinds(half, "attention") == [HALF] * 5


def test_a_graph_inside_a_node_keeps_it_float32_as_a_whole() -> None:
    """The branches read a stored tensor and a computed value of the graph around them."""
    branches = [
        helper.make_graph([node(kind, "a w", f"{kind}_out", kind)], kind, [], [value(f"{kind}_out", *"abcd")])
        for kind in ("Add", "Sub")
    ]
    model = model_of(
        [
            node("Relu", "x", "a"), node("ReduceMax", "x", "m", keepdims=0), node("Greater", "m zero", "on"),
            node("If", "on", "c", then_branch=branches[0], else_branch=branches[1]), node("Mul", "c w", "y"),
        ],
        {"w": numbers("w", 4, 1, 1), "zero": np.float32(0)},
    )  # fmt: skip
    half = halved(model)
    assert reasons(half) == {"if": "If holds a graph of its own"}
    assert {tensor.name: tensor.data_type for tensor in half.model.graph.initializer if tensor.name != "zero"} == {
        "w": FLOAT, "w_float16": HALF,
    }  # fmt: skip
    assert kinds(half, "mul") == [HALF] * 3
    halved(model, {"x": -np.abs(pictures()) - 1})


def test_a_loop_is_kept_as_a_whole() -> None:
    body = helper.make_graph(
        [node("Mul", "before w", "after"), node("Identity", "on", "go")],
        "body",
        [value("i", kind=TensorProto.INT64), value("on", kind=TensorProto.BOOL), value("before", *"abcd")],
        [value("go", kind=TensorProto.BOOL), value("after", *"abcd")],
    )
    for inner in body.input[:2]:
        inner.type.tensor_type.shape.SetInParent()
    body.output[0].type.tensor_type.shape.SetInParent()
    model = model_of(
        [node("Exp", "x", "a"), node("Loop", "n - a", "b", body=body), node("Neg", "b", "y")],
        {"n": np.int64(3), "w": numbers("w", 4, 1, 1)},
    )
    assert reasons(halved(model)) == {"loop": "Loop holds a graph of its own"}


def test_sizes_are_computed_in_float32() -> None:
    """Twice a size of 3001 is no number of float16."""
    model = model_of(
        [
            node("Shape", "x", "all"), node("Constant", "", "axes", value_ints=[0, 1, 2, 3]),
            node("Gather", "all axes", "shape"), node("Cast", "shape", "f", "up", to=FLOAT), node("Mul", "f two", "g"),
            node("Cast", "g", "size", "down", to=TensorProto.INT64), node("Resize", "x - - size", "y", mode="nearest"),
        ],
        {"two": floats([1, 1, 1, 2])},
        inputs=[value("x", "batch", 1, 1, 3001)],
    )  # fmt: skip
    half = halved(model, {"x": pictures(1, 1, 1, 3001)})
    assert reasons(half) == {"mul": "it computes sizes, and float16 has no odd numbers beyond 2048"}
    assert kinds(half, "resize")[0] == HALF


def test_attributes_that_name_a_type_name_float16() -> None:
    filled = helper.make_node("ConstantOfShape", ["n"], ["c"], "filled", value=numpy_helper.from_array(floats([0.5])))
    nodes = [
        node("Cast", "k", "a", "cast", to=FLOAT), filled, node("ConstantOfShape", "n", "zeros", "zeros"),
        node("Mul", "a c", "d"), node("Add", "d zeros", "y"),
    ]  # fmt: skip
    stored = {"n": integers([8, 8])}
    model = model_of(
        nodes, stored, inputs=[value("k", "batch", 8, 8, kind=TensorProto.UINT8)], outputs=[value("y", "batch", 8, 8)]
    )
    half = halved(model, {"k": np.random.default_rng(0).integers(0, 255, (2, 8, 8), np.uint8)})
    known = types(half)
    assert [known[name] for name in ("a", "c", "zeros")] == [HALF] * 3
    assert {each.name for each in casts(half)} == {"cast", "y_to_float32"}


@pytest.mark.parametrize(
    "made",
    [node("EyeLike", "square", "m", dtype=FLOAT), node("RandomNormal", "", "m", shape=[8, 8])],
    ids=lambda made: made.op_type,
)
def test_a_type_is_stated_by_operators_that_onnx_runtime_has_only_in_float32(made: onnx.NodeProto) -> None:
    half = to_half(model_of([made, node("MatMul", "x m", "y")], {"square": np.zeros((8, 8), np.int64)}))
    assert types(half)["m"] == HALF


def test_a_filled_tensor_beyond_float16_stays_float32() -> None:
    filled = helper.make_node("ConstantOfShape", ["n"], ["c"], "filled", value=numpy_helper.from_array(floats([1e9])))
    half = halved(model_of([filled, node("Min", "x c", "y")], {"n": integers([8])}))
    assert "beyond 65504" in reasons(half)["filled"]


def test_a_cast_gives_float32_where_its_readers_take_that() -> None:
    """A label of 2049 is no number of float16, and no float arithmetic touches it."""
    inputs = [value("x", "batch", 4, 8, 8), value("ids", "batch", kind=TensorProto.INT64)]
    outputs = [value("y", *"abcd"), value("label", "batch")]
    model = model_of([node("Exp", "x", "y"), node("Cast", "ids", "label", to=FLOAT)], {}, inputs, outputs)
    feed = {"x": pictures(), "ids": integers([2049, 5, 4097])}
    half = halved(model, feed)
    assert np.array_equal(run(half.model, feed)["label"], feed["ids"])
    assert (half.converted, half.kept) == (1, ())


def test_integers_pass_as_they_are() -> None:
    inputs = [value("x", "batch", 4, 8, 8), value("ids", "batch", 2, kind=TensorProto.INT64)]
    outputs = [value("y", "batch", 2, 8), value("best", "batch", kind=TensorProto.INT64)]
    nodes = [
        node("Gather", "table ids", "rows"), node("ReduceMean", "x", "m", axes=[1, 2], keepdims=0),
        node("Unsqueeze", "m one", "n"), node("Add", "rows n", "y"), node("ArgMax", "m", "best", axis=1, keepdims=0),
    ]  # fmt: skip
    stored = {"table": numbers("table", 6, 8), "one": integers([1])}
    half = halved(model_of(nodes, stored, inputs, outputs), {"x": pictures(), "ids": integers([[0, 5], [1, 2], [3, 3]])})
    assert kinds(half, "gather") == [HALF, TensorProto.INT64, HALF]


def test_an_operator_without_float16_is_kept_with_the_opset() -> None:
    nodes = [node("Range", "a b c", "r"), node("Mul", "x r", "y")]
    half = halved(model_of(nodes, {"a": np.float32(0), "b": np.float32(8), "c": np.float32(1)}))
    assert reasons(half) == {"range": "ONNX has no float16 Range in opset 17"}


def test_an_operator_from_elsewhere_is_kept() -> None:
    own = helper.make_node("Own", ["a"], ["b"], "own", domain="my")
    model = model_of([node("Exp", "x", "a"), own, node("Neg", "b", "c"), node("Relu", "a", "y")], {})
    half = to_half(model)
    onnx.checker.check_model(half.model, full_check=True)
    assert reasons(half) == {"own": "it is no operator of ONNX's own", "neg": "ONNX infers no type for its value 'b'"}
    assert node_of(half, "own").input == ["a_float32"]


def test_functions_are_inlined() -> None:
    model = model_of([helper.make_node("Twice", ["x"], ["y"], "call", domain="my")], {})
    body = [node("Add", "p p", "q")]
    model.functions.append(helper.make_function("my", "Twice", ["p"], ["q"], body, [helper.make_opsetid("", 17)]))
    half = halved(model)
    assert [each.op_type for each in half.model.graph.node] == ["Cast", "Add", "Cast"]


def test_initializers_among_the_inputs_are_no_inputs() -> None:
    model = model_of([node("Mul", "x w", "y")], {"w": numbers("w", 4, 1, 1)}, [value("x", "n", 4, 8, 8), value("w", 4, 1, 1)])
    half = halved(model)
    assert [each.name for each in half.model.graph.input] == ["x"]


def test_types_that_the_file_states_are_those_it_has_now() -> None:
    model = onnx.shape_inference.infer_shapes(
        model_of([node("Exp", "x", "a"), node("Neg", "a", "b"), node("Exp", "b", "y", "last")], {})
    )
    half = halved(model, keep={"neg": "named"})
    stated = {each.name: each.type.tensor_type.elem_type for each in half.model.graph.value_info}
    assert stated == {"a": HALF, "b": FLOAT}


def test_a_file_that_is_float16_already_is_left_alone() -> None:
    model = halved(residual(), {"input": pictures()}).model
    assert to_half(model).converted == 0


@pytest.mark.parametrize(
    ("opset", "keep", "message"),
    [
        (12, {}, r"the file has opset 12, and a float16 file is made from opset 13 on; export it with a newer opset"),
        (17, {"mull": "named"}, r"the file has no node 'mull' to keep in float32; check the name \(did you mean 'mul'\?\)"),
    ],
)
def test_what_cannot_be_converted_is_one_sentence(opset: int, keep: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        to_half(model_of([node("Mul", "x x", "y")], {}, opset=opset), keep)
