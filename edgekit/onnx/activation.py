"""Whether an ONNX file ends in Softmax or Sigmoid, so that its outputs are probabilities already. Needs no onnx package."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from edgekit.onnx.wire import Body, bodies

Activation: TypeAlias = Literal["Softmax", "Sigmoid"]
_SHAPE_ONLY = frozenset(
    {
        "Identity", "Cast", "CastLike", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose",
        "QuantizeLinear", "DequantizeLinear",
    }
)  # fmt: skip
"""Operators that hand on the numbers of their first input, but for rounding."""


def final_activation(content: bytes, output: str) -> Activation | None:
    """The activation that computes the graph's output of this name; None where another operator does.

    ``content`` is an ONNX file's. Calls of functions in the file are followed. Raises ValueError for what is no ONNX file.
    """
    graph, functions = bodies(content)
    body, name = graph, output
    # a function that calls itself, or nodes in a circle, have no end
    for _ in range(len(graph.producers) + sum(len(function.producers) for function in functions.values()) + 1):
        node = body.producers.get(name)
        if node is None:
            return None
        function: Body | None = functions.get(node.operator)
        if function is not None:
            place = node.outputs.index(name)
            if place >= len(function.outputs):
                return None
            body, name = function, function.outputs[place]
            continue
        domain, operator = node.operator
        if domain in ("", "ai.onnx") and operator in get_args(Activation):
            return "Softmax" if operator == "Softmax" else "Sigmoid"
        if operator not in _SHAPE_ONLY or not node.inputs:
            return None
        name = node.inputs[0]
    return None
