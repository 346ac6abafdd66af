"""Which nodes of a file compute in float16, told from what the file says of its values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.onnx.arithmetic import (
    arithmetic,
    computed_in,
    fixed_values,
    floats_from_steps,
    in_half,
    node_of_each,
    steps_between_floats,
)
from edgekit.onnx.arithmetic import in_steps as computes_in_steps
from edgekit.onnx.half import to_half
from tests.onnx.crafted import model_of, node, tensor


def counts(model: onnx.ModelProto) -> tuple[int, int]:
    found = in_half(model.SerializeToString())
    return len(found.nodes), found.most


def network() -> onnx.ModelProto:
    """Layers, sizes, indices, a comparison and a Cast of its own."""
    nodes = [
        node("Conv", ["x", "w"], "a", "first"), node("Relu", ["a"], "b"), node("Shape", ["b"], "s"),
        node("Reshape", ["b", "s"], "c"), node("Greater", ["c", "zero"], "g"), node("Where", ["g", "c", "zero"], "d"),
        node("Shape", ["d"], "n"), node("Cast", ["n"], "f", to=TensorProto.FLOAT), node("ReduceMax", ["f"], "m", keepdims=0),
        node("Mul", ["d", "m"], "e"), node("Conv", ["e", "v"], "y", "last"),
    ]  # fmt: skip
    stored = [tensor("w", 4, 4, 1, 1), tensor("v", 4, 4, 1, 1), numpy_helper.from_array(np.float32(0), "zero")]
    return model_of(nodes, stored, shape=("batch", 4, 8, 8))


def described(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types of all its values."""
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("keep", [{}, {"last": "asked"}, {"relu": "asked", "first": "asked"}])
def test_as_many_nodes_are_found_as_were_converted(keep: dict[str, str]) -> None:
    halved = to_half(described(network()), keep)
    least, most = counts(described(halved.model))
    assert least <= halved.converted <= most <= least + 1  # ONNX gives no type to what is cast for a caller
    names = {each.key for each in in_half(described(halved.model).SerializeToString()).nodes}
    assert names.isdisjoint(each.node for each in halved.kept)


def test_without_types_the_count_is_between_layers_and_all_nodes() -> None:
    halved = to_half(network())
    del halved.model.graph.value_info[:]
    least, most = counts(halved.model)
    assert 2 <= least <= halved.converted <= most < len(halved.model.graph.node)


def test_a_float32_file_has_none() -> None:
    assert counts(described(network())) == (0, 0)


def test_nodes_that_no_output_depends_on_are_not_sure() -> None:
    model = described(to_half(described(network())).model)
    least, most = counts(model)
    model.graph.node.append(helper.make_node("Relu", ["b"], ["unused"], "unused"))
    assert counts(described(model)) == (least, most + 1)


def test_nodes_whose_type_an_attribute_chooses_may_compute_in_it() -> None:
    nodes = [node("EyeLike", ["square"], "m", "eye", dtype=TensorProto.FLOAT), node("MatMul", ["x", "m"], "y")]
    halved = to_half(model_of(nodes, [numpy_helper.from_array(np.zeros((8, 8), np.int64), "square")]))
    assert halved.converted == 2
    assert counts(halved.model)[1] >= 2


@pytest.mark.parametrize("inside_a_branch", [False, True])
def test_what_no_output_depends_on_counts_only_where_a_branch_may_read_it(inside_a_branch: bool) -> None:
    dead = [node("Cast", ["many"], "dead", to=TensorProto.FLOAT), node("QuantizeLinear", ["x", "scale"], "steps")]
    nodes = [node("Conv", ["x", "w"], "a", "first"), node("Relu", ["a"], "y"), *dead]
    if inside_a_branch:
        branch = helper.make_graph([node("Relu", ["a"], "z")], "branch", [], [helper.make_empty_tensor_value_info("z")])
        nodes[1] = node("If", ["condition"], "y", then_branch=branch, else_branch=branch)
    stored = [
        tensor("w", 4, 4, 1, 1), tensor("many", 100, dtype="float16"), numpy_helper.from_array(np.float32(1), "scale"),
        numpy_helper.from_array(np.array(True), "condition"),
    ]  # fmt: skip
    found = arithmetic(model_of(nodes, stored).SerializeToString(), ("Conv",))
    assert found.layers == (TensorProto.FLOAT,)
    assert found.operators.get("QuantizeLinear", 0) == inside_a_branch
    assert found.stored.get(TensorProto.FLOAT16, 0) == 100 * inside_a_branch
    assert found.stored[TensorProto.FLOAT] == 16 + inside_a_branch


def in_steps(*between: onnx.NodeProto) -> bytes:
    """A pair of steps on the way to the output and one beside it, and nodes ``between`` that read the codes."""
    last = between[-1].output[0] if between else "codes"
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], "codes", "quantise"),
        *between,
        node("DequantizeLinear", [last, "scale", "zero"], "y", "dequantise"),
        node("DequantizeLinear", ["codes", "scale", "zero"], "dead", "beside"),
    ]
    stored = [numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.uint8(0), "zero")]
    return bytes(model_of(nodes, stored).SerializeToString())


def test_steps_are_between_floats_unless_a_node_computes_in_integers() -> None:
    integers = helper.make_node("QLinearSigmoid", ["codes", "scale", "zero", "scale", "zero"], ["more"], domain="com.microsoft")
    assert steps_between_floats(in_steps())
    assert not steps_between_floats(in_steps(integers))
    assert steps_between_floats(model_of([node("Relu", ["x"], "y")], []).SerializeToString())


def test_the_nodes_are_told_that_make_floats_of_steps_on_the_way_to_the_outputs() -> None:
    assert floats_from_steps(in_steps()) == {"y": "DequantizeLinear dequantise"}


def test_values_are_fixed_that_are_stored_numbers_in_another_form() -> None:
    """No sum is among them, nor what rounds: these may come out otherwise on another machine."""
    nodes = [
        node("Constant", [], "given", value_float=0.5),
        node("DequantizeLinear", ["w", "given"], "read"),
        node("Transpose", ["read"], "turned"),
        node("QuantizeLinear", ["turned", "given"], "codes"),
        node("MatMul", ["turned", "turned"], "product"),
        node("Identity", ["x"], "same"),
        node("MatMul", ["same", "turned"], "y"),
    ]
    content = model_of(nodes, [numpy_helper.from_array(np.ones((2, 2), np.int8), "w")]).SerializeToString()
    assert fixed_values(content).keys() == {"read", "turned"}
    assert node_of_each(content)["turned"] == "Transpose transpose"


@pytest.mark.parametrize(("to", "told"), [(TensorProto.FLOAT, True), (TensorProto.INT32, False)])
def test_a_cast_of_what_depends_on_codes_makes_floats_of_them_and_one_of_a_size_does_not(to: int, told: bool) -> None:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], "codes"), node("MaxPool", ["codes"], "most", kernel_shape=[1, 1]),
        node("Cast", ["most"], "floats", "cast", to=to), node("Cast", ["floats"], "f", "again", to=TensorProto.FLOAT),
        node("Size", ["x"], "n"), node("Cast", ["n"], "size", "of-size", to=TensorProto.FLOAT),
    ]  # fmt: skip
    nodes[0].output.extend(["scale", "zero"])
    nodes.append(node("Mul", ["f", "size"], "y"))
    found = floats_from_steps(model_of(nodes, []).SerializeToString())
    assert found == ({"floats": "Cast cast"} if told else {"f": "Cast again"})


@pytest.mark.parametrize(
    "operator",
    ["DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulBnb4", "GatherBlockQuantized", "QAttention", "QGemm", "QMoE",
     "QEmbedLayerNormalization", "QOfTomorrow"],
)  # fmt: skip
def test_a_layer_of_integers_that_gives_floats_is_in_steps_and_named(operator: str) -> None:
    layer = helper.make_node(operator, ["x", "w"], ["y"], "layer", domain="com.microsoft")
    content = model_of([layer], [numpy_helper.from_array(np.zeros((8, 8), np.int8), "w")]).SerializeToString()
    assert computed_in(content) == "int8"
    assert not steps_between_floats(content)
    assert floats_from_steps(content) == {"y": f"{operator} layer"}


@pytest.mark.parametrize(("operator", "kind"), [("QGemm", 0), ("QOfTomorrow", TensorProto.INT8), ("QLinearMatMul", 0)])
def test_a_layer_of_integers_that_gives_codes_is_not_named(operator: str, kind: int) -> None:
    read = ["x", "s", "z", "w", "s", "z", "", "s", "z"]
    layer = helper.make_node(operator, read, ["codes"], "layer", domain="com.microsoft")
    model = model_of([layer, node("DequantizeLinear", ["codes", "s", "z"], "y", "last")], [])
    if kind:
        model.graph.value_info.append(helper.make_tensor_value_info("codes", kind, None))
    assert floats_from_steps(model.SerializeToString()) == {"y": "DequantizeLinear last"}


@pytest.mark.parametrize("operator", ["QuickGelu", "Quantile", "MatMul", "Cast", "Dense", "DynamicSlice"])
def test_other_operators_are_not_in_steps(operator: str) -> None:
    assert not computes_in_steps(operator)


def test_a_cast_like_narrows_weights_as_a_cast_does_and_makes_floats_of_codes() -> None:
    like = numpy_helper.from_array(np.zeros(1, np.float16), "half")
    narrowed = [node("CastLike", ["w", "half"], "n", "narrow"), node("MatMul", ["x", "n"], "y")]
    assert computed_in(model_of(narrowed, [tensor("w", 8, 8), like]).SerializeToString()) == "float16"
    from_codes = [
        node("DynamicQuantizeLinear", ["x"], "codes"), node("CastLike", ["codes", "half"], "y", "floats"),
    ]  # fmt: skip
    from_codes[0].output.extend(["scale", "zero"])
    assert floats_from_steps(model_of(from_codes, [like]).SerializeToString()) == {"y": "CastLike floats"}
