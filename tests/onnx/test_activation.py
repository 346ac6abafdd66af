"""Whether the outputs of an ONNX file are probabilities already."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.onnx.activation import final_activation

X, Y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")


def content(*nodes: onnx.NodeProto, functions: tuple[onnx.FunctionProto, ...] = ()) -> bytes:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    graph = helper.make_graph(list(nodes), "graph", [X], [Y])
    return bytes(helper.make_model(graph, opset_imports=opsets, functions=functions).SerializeToString())


def chain(*operators: str) -> list[onnx.NodeProto]:
    names = ["x", *(f"t{place}" for place in range(len(operators) - 1)), "y"]
    return [helper.make_node(operator, [names[place]], [names[place + 1]]) for place, operator in enumerate(operators)]


CALL = helper.make_node("Head", ["x"], ["y"], domain="mine")


def function(*operators: str) -> onnx.FunctionProto:
    return helper.make_function("mine", "Head", ["x"], ["y"], chain(*operators), [helper.make_opsetid("", 18)])


@pytest.mark.parametrize(
    ("model", "activation"),
    [
        (content(*chain("Softmax")), "Softmax"),
        (content(*chain("Relu", "Sigmoid")), "Sigmoid"),
        (content(*chain("Softmax", "Flatten", "Identity", "Cast")), "Softmax"),
        (content(*chain("Sigmoid", "QuantizeLinear", "DequantizeLinear")), "Sigmoid"),
        (content(*chain("Softmax", "Relu")), None),
        (content(*chain("Sigmoid", "Neg")), None),
        (content(*chain("LogSoftmax")), None),
        (content(helper.make_node("Softmax", ["x"], ["y"], domain="mine")), None),
        (content(helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["s", "x"], ["y"])), None),
        (content(CALL, functions=(function("Relu", "Softmax"),)), "Softmax"),
        (content(CALL, functions=(function("Softmax", "Relu"),)), None),
        (content(helper.make_node("Identity", ["y"], ["y"])), None),
        (content(), None),
    ],
)
def test_the_operator_that_computes_the_output_decides(model: bytes, activation: str | None) -> None:
    assert final_activation(model, "y") == activation


def test_a_function_that_calls_itself_has_no_end() -> None:
    call = helper.make_function("mine", "Head", ["x"], ["y"], [CALL], [helper.make_opsetid("mine", 1)])
    assert final_activation(content(CALL, functions=(call,)), "y") is None


def test_another_output_is_not_the_one_that_counts() -> None:
    model = content(helper.make_node("Softmax", ["x"], ["z"]), helper.make_node("Relu", ["x"], ["y"]))
    assert final_activation(model, "y") is None
    assert final_activation(model, "z") == "Softmax"


def test_what_is_no_onnx_file_is_refused() -> None:
    with pytest.raises(ValueError, match="field"):
        final_activation(b"\x3a\xff\x01", "y")
