"""uint8 steps become int8 ones of the same numbers, or the file is refused by the node that has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.onnx.signed import Unsigned, float_weights, signed_codes, unsigned_steps
from edgekit.tensors import Array
from tests.onnx_files import reference_outputs

PICTURE = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 16)


def steps(name: str, value: str, zero: str, *, scale: str = "scale", **more: Any) -> list[onnx.NodeProto]:
    parts = [scale, zero] if zero else [scale]
    return [
        helper.make_node("QuantizeLinear", [value, *parts], [f"{name}.codes"], f"{name}.quantise", **more),
        helper.make_node("DequantizeLinear", [f"{name}.codes", *parts], [name], f"{name}.dequantise"),
    ]


def file_of(
    nodes: list[onnx.NodeProto], opset: int = 20, kind: int = TensorProto.FLOAT, rank: int = 2, **stored: Any
) -> onnx.ModelProto:
    arrays = {"scale": np.float32(1 / 127), "u": np.uint8(0), "z": np.int8(0), **stored}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", kind, [1, 16])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, list("ab")[:rank])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def portable(scale: float = 1 / 127) -> onnx.ModelProto:
    """A value of both signs in int8, and one that is never negative in uint8."""
    nodes = [*steps("signed", "input", "z"), helper.make_node("Relu", ["signed"], ["relu"], "relu")]
    return file_of([*nodes, *steps("output", "relu", "u", scale="least")], least=np.float32(scale))


def output(model: onnx.ModelProto) -> Array:
    onnx.checker.check_model(model, full_check=True)
    return reference_outputs(model, {"input": PICTURE})[0]


def types(model: onnx.ModelProto) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer}


def test_a_portable_file_computes_the_same_in_int8() -> None:
    model = portable()
    before = model.SerializeToString()
    signed = signed_codes(model)
    np.testing.assert_array_equal(output(signed), output(model))
    assert types(signed) == {TensorProto.FLOAT, TensorProto.INT8}  # not even an unread tensor is uint8
    assert [node.name for node in signed.graph.node] == [node.name for node in model.graph.node]
    assert model.SerializeToString() == before


def test_a_file_whose_scale_is_meant_for_255_does_not() -> None:
    """The partner of the test above: what is told of as clipped really is."""
    model = portable(scale=1 / 255)
    assert output(model).max() == pytest.approx(1)
    assert output(signed_codes(model)).max() == pytest.approx(127 / 255)


def test_zero_points_in_a_constant_node_and_for_each_channel_are_zero_too() -> None:
    constant = helper.make_node("Constant", [], ["zero"], "constant", value=numpy_helper.from_array(np.zeros(16, np.uint8)))
    scales = np.linspace(1 / 127, 2 / 127, 16, dtype=np.float32)
    relu = helper.make_node("Relu", ["input"], ["relu"], "relu")
    nodes = [constant, relu, *steps("output", "relu", "zero", scale="scales")]
    model = file_of(nodes, scales=scales)
    signed = signed_codes(model)
    np.testing.assert_array_equal(output(signed), output(model))
    assert not any(node.op_type == "Constant" for node in signed.graph.node)
    assert types(signed) == {TensorProto.FLOAT, TensorProto.INT8}


def test_a_branch_reads_the_zero_points_around_it() -> None:
    relu = helper.make_node("Relu", ["input"], ["relu"], "relu")
    branch = helper.make_graph(
        steps("inner", "relu", "u"), "b", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["a", "b"])]
    )
    choice = helper.make_node("If", ["yes"], ["output"], "if", then_branch=branch, else_branch=branch)
    model = file_of([relu, choice], yes=np.array(True))
    signed = signed_codes(model)
    np.testing.assert_array_equal(output(signed), output(model))
    assert unsigned_steps(model) == ("inner.quantise", "inner.quantise")
    assert unsigned_steps(signed) == ()


def test_a_type_that_is_an_attribute_is_signed_as_well() -> None:
    relu = helper.make_node("Relu", ["input"], ["relu"], "relu")
    model = file_of([relu, *steps("output", "relu", "", output_dtype=TensorProto.UINT8)], opset=21)
    assert unsigned_steps(model) == ("output.quantise",)
    assert unsigned_steps(signed_codes(model)) == ()


@pytest.mark.parametrize(("largest", "fits"), [(127, True), (128, False)])
def test_stored_codes_are_int8_as_far_as_int8_goes(largest: int, fits: bool) -> None:
    node = helper.make_node("DequantizeLinear", ["codes", "scale", "u"], ["output"], "dequantise")
    model = file_of([node], rank=1, codes=np.array([0, largest], np.uint8))
    if fits:
        np.testing.assert_array_equal(output(signed_codes(model)), output(model))
    else:
        with pytest.raises(Unsigned, match=r"^dequantise has the uint8 stored code 128$"):
            signed_codes(model)


def test_another_zero_point_is_refused_by_its_node() -> None:
    with pytest.raises(Unsigned, match=r"^output.quantise has the uint8 zero point 128$"):
        signed_codes(file_of(steps("output", "input", "middle"), middle=np.uint8(128)))
    # an int8 one is for the runtime to judge
    assert signed_codes(file_of(steps("output", "input", "middle"), middle=np.int8(3))).graph.initializer


def test_codes_that_the_caller_gives_are_refused_by_their_node() -> None:
    node = helper.make_node("DequantizeLinear", ["input", "scale", "u"], ["output"], "dequantise")
    with pytest.raises(Unsigned, match=r"^dequantise reads the uint8 input input$"):
        signed_codes(file_of([node], kind=TensorProto.UINT8))


def test_nodes_that_give_uint8_are_named_and_no_others() -> None:
    assert unsigned_steps(portable()) == ("output.quantise",)
    nameless = file_of(steps("output", "input", ""))  # without a zero point ONNX means uint8
    nameless.graph.node[0].name = ""
    assert unsigned_steps(nameless) == ("output.codes",)
    assert unsigned_steps(file_of(steps("output", "input", "z"))) == ()


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_weights_in_floats_give_the_codes_that_were_stored(axis: int | None) -> None:
    """Every code of 8 bits, with scales that no power of two makes exact."""
    codes = np.arange(-128, 128, dtype=np.int8).reshape(8, 32)
    count = 1 if axis is None else codes.shape[axis]
    scales = np.random.default_rng(0).uniform(1e-4, 3, count).astype(np.float32)
    more: dict[str, Any] = {} if axis is None else {"axis": axis}
    shape = () if axis is None else (count,)
    node = helper.make_node("DequantizeLinear", ["codes", "scales", "zeros"], ["output"], "dequantise", **more)
    model = file_of([node], codes=codes, scales=scales.reshape(shape), zeros=np.zeros(shape, np.int8))
    wide = float_weights(model)
    assert [node.op_type for node in wide.graph.node] == ["QuantizeLinear", "DequantizeLinear"]
    assert "codes" not in {tensor.name for tensor in wide.graph.initializer}
    np.testing.assert_array_equal(output(wide), output(model))
    assert np.unique(output(model)).size > 100


def test_codes_that_a_node_computes_stay() -> None:
    assert float_weights(portable()) == portable()
