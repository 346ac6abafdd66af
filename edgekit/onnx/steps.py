"""Find operators of an ONNX file whose results are no smooth function of the inputs: steps, and random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from edgekit.onnx.read import is_standard
from edgekit.onnx.widen import inlined, subgraphs, types_of

_STEPS = frozenset({"Round", "Floor", "Ceil"})
_ABOUT_SHAPES = frozenset({"Shape", "Size"})
_INTEGERS = frozenset(
    getattr(onnx.TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (4, 8, 16, 32, 64)
)  # types that cut the digits behind the point


def rounding_node(model: onnx.ModelProto) -> str:
    """The first node of the main graph that rounds what depends on the inputs' values to steps; empty if none does."""
    graph = inlined(model).graph
    stored = {tensor.name for tensor in graph.initializer}
    moving = {value.name for value in graph.input} - stored
    integers = {value.name for value in graph.input if value.type.tensor_type.elem_type in (*_INTEGERS, onnx.TensorProto.BOOL)}
    for node in graph.node:
        if node.op_type in _ABOUT_SHAPES or not moving.intersection(node.input):
            continue
        if node.op_type in _STEPS or _cuts(node, integers):
            return named(node)
        moving.update(node.output)
        if node.op_type in _WITH_INTEGERS or (node.op_type in _PASSING and node.input[0] in integers):
            integers.update(node.output)
    return ""


_WITH_INTEGERS = frozenset(
    {"ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor", "IsNaN", "IsInf",
     "NonZero", "NonMaxSuppression"}
)  # fmt: skip
_PASSING = frozenset(
    {"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Gather", "Slice", "Concat", "Flatten", "Expand", "Cast", "Add",
     "Sub", "Mul", "Where"}
)  # fmt: skip


def _cuts(node: onnx.NodeProto, integers: set[str]) -> bool:
    """Whether the node is a Cast of floats to integers."""
    if node.op_type != "Cast" or node.input[0] in integers:
        return False
    return any(attribute.name == "to" and attribute.i in _INTEGERS for attribute in node.attribute)


def narrowing_node(model: onnx.ModelProto) -> str:
    """The first Cast of the main graph that rounds what depends on the inputs to a float narrower than the file's own."""
    copy = inlined(model)
    types = types_of(copy, {tensor.name: tensor.data_type for tensor in copy.graph.initializer})
    moving = (node for node in copy.graph.node if not types.constant.issuperset(node.input))
    return next((named(node) for node in moving if types.narrowed(node)), "")


RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"})
"""Operators that draw random numbers, whatever their attributes."""


def random_node(model: onnx.ModelProto) -> str:
    """The first node that draws random numbers on which an output depends, also in a branch or a function; empty if none does."""
    graph = inlined(model).graph
    switches: dict[str, Any] = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if not tensor.dims
    }
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            switches[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    for node in _needed(graph):
        random = next((each for each in (node, *_inner(node)) if _draws(each, switches)), None)
        if random is not None:
            return named(random)
    return ""


def _needed(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes on which an output depends, in order."""
    wanted, needed = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            needed.append(node)
            wanted.update(node.input, *(inner.input for inner in _inner(node)))
            wanted.update(value.name for branch in subgraphs(node) for value in branch.output)
    return needed[::-1]


def _inner(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The nodes of the branches and bodies inside ``node``."""
    for graph in subgraphs(node):
        for inner in graph.node:
            yield inner
            yield from _inner(inner)


def _draws(node: onnx.NodeProto, switches: Mapping[str, Any]) -> bool:
    """Whether the node draws random numbers; a Dropout does so in training, unless its ratio is zero."""
    if not is_standard(node.domain):
        return False
    if node.op_type != "Dropout":
        return node.op_type in RANDOM
    if any(attribute.name == "is_test" for attribute in node.attribute):
        return any(attribute.name == "is_test" and not attribute.i for attribute in node.attribute)
    if len(node.input) < 3 or not node.input[2]:
        return False
    return _may_be(switches, node.input[2]) and _may_be(switches, node.input[1], default=True)


def _may_be(switches: Mapping[str, Any], name: str, *, default: bool = True) -> bool:
    """Whether a stored number is not zero; ``default`` where it is not stored, or left out."""
    return bool(switches[name]) if name in switches else default


def named(node: onnx.NodeProto) -> str:
    """The node's operator and name."""
    return f"{node.op_type} {node.name or next(iter(node.output), '')}".strip()
