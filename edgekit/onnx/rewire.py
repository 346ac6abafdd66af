"""Change what an ONNX file shows and reads, on protobuf's wire format: a board that only runs files has no onnx package."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import numpy as np

from edgekit.onnx.bodies import bodies
from edgekit.onnx.wire import Value, fields
from edgekit.tensors import Array

ELEMENT_TYPES: Final = {"float32": 1, "uint8": 2, "int8": 3, "float16": 10, "float64": 11}
"""ONNX's numbers of the types of activations that numpy has: floats, and what quantised layers read."""
EXACT = "exact "
"""What stands before the name of a value that is given instead of computed."""
_VARINT, _LENGTH = 0, 2
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_INPUT, _GRAPH_OUTPUT, _NODE_INPUT = 7, 1, 5, 11, 12, 1


def with_outputs(content: bytes, names: Iterable[str]) -> bytes:
    """The model with further outputs: values that its main graph computes. Nothing else in it changes."""
    return _with_graph(content, lambda graph: bytes(graph) + _outputs(names))


def _outputs(names: Iterable[str]) -> bytes:
    """Fields of a graph that make ``names`` outputs, whose types are inferred."""
    return b"".join(_message(_GRAPH_OUTPUT, _message(1, name.encode())) for name in names)


def _with_graph(content: bytes, change: Callable[[memoryview], bytes]) -> bytes:
    """The model whose graph is what ``change`` makes of it."""
    return b"".join(
        _message(number, change(value)) if number == _MODEL_GRAPH and isinstance(value, memoryview) else _field(number, value)
        for number, value in fields(memoryview(content))
    )


def node_by_node(content: bytes, values: Mapping[str, Array]) -> tuple[bytes, dict[str, Array]]:
    """The model in which every node of the main graph reads ``values`` instead of what the nodes before it compute.

    ``values``: value -> samples x ...; those that no node computes or reads, and those of other dtypes than ``ELEMENT_TYPES``,
    stay as they are. The second result is what the model takes beside its own inputs. Bodies of If and Loop read what the nodes
    compute. Raises ValueError for a malformed message.
    """
    computed = bodies(content)[0].producers
    inner = {name for node in computed.values() for name in node.inputs} & set(computed)
    given = {name: array for name, array in values.items() if name in inner and str(array.dtype) in ELEMENT_TYPES}
    inputs = b"".join(_message(_GRAPH_INPUT, _typed(EXACT + name, array)) for name, array in given.items())
    return _with_graph(content, lambda graph: _cut(graph, given) + inputs), {EXACT + name: array for name, array in given.items()}


def alone(content: bytes, names: Collection[str]) -> bytes:
    """A model that computes the values ``names`` of the main graph, which no input changes, and nothing else.

    Raises ValueError for a malformed message.
    """
    producers = bodies(content)[0].producers
    needed, open_names = {*names}, [*names]
    while open_names:
        node = producers.get(open_names.pop())
        further = {name for name in (*node.inputs, *node.outputs) if name} - needed if node else set()
        needed |= further
        open_names += further
    return _with_graph(content, lambda graph: _only(graph, needed) + _outputs(names))


_NAMES: Final = {_GRAPH_NODE: 2, _GRAPH_TENSOR: 8, _GRAPH_INPUT: 1}
"""Fields of a graph that are kept where they are needed -> their own field with the names by which they are."""
_OF_OTHERS: Final = frozenset({_GRAPH_OUTPUT, 13, 14, 15})
"""Fields of a graph that tell of values that may be gone: outputs, types, annotations of steps, sparse tensors."""


def _only(graph: memoryview, needed: set[str]) -> bytes:
    """The graph without outputs whose nodes, stored tensors and inputs are those of ``needed`` names."""
    return b"".join(
        _field(number, value)
        for number, value in fields(graph)
        if number not in _OF_OTHERS and (number not in _NAMES or needed & _texts(value, _NAMES[number]))
    )


def _texts(message: Value, wanted: int) -> set[str]:
    """The strings of a message's field ``wanted``."""
    inner = () if isinstance(message, int) else fields(message)
    return {_text(value) for number, value in inner if number == wanted and isinstance(value, memoryview)}


def _text(value: memoryview) -> str:
    return bytes(value).decode(errors="replace")


def _cut(graph: memoryview, given: Mapping[str, Array]) -> bytes:
    """The graph whose nodes read the given values by their other names."""
    return b"".join(
        _message(number, _renamed(value, given))
        if number == _GRAPH_NODE and isinstance(value, memoryview)
        else _field(number, value)
        for number, value in fields(graph)
    )


def _renamed(node: memoryview, given: Mapping[str, Array]) -> bytes:
    parts = []
    for number, value in fields(node):
        name = _text(value) if number == _NODE_INPUT and isinstance(value, memoryview) else ""
        parts.append(_message(number, (EXACT + name).encode()) if name in given else _field(number, value))
    return b"".join(parts)


def _typed(name: str, array: Array) -> bytes:
    """A ValueInfoProto of the array's dtype and shape, the first axis free."""
    batch, *sizes = array.shape or (1,)
    axes = [_message(2, b"batch") if array.ndim else _number(1, batch), *(_number(1, size) for size in sizes)]
    shape = _message(2, b"".join(_message(1, axis) for axis in axes if array.ndim))
    return _message(1, name.encode()) + _message(2, _message(1, _number(1, ELEMENT_TYPES[str(np.dtype(array.dtype))]) + shape))


def _field(number: int, value: Value) -> bytes:
    return _number(number, value) if isinstance(value, int) else _message(number, bytes(value))


def _message(number: int, body: bytes) -> bytes:
    return _written(number << 3 | _LENGTH) + _written(len(body)) + body


def _number(number: int, value: int) -> bytes:
    return _written(number << 3 | _VARINT) + _written(value)


def _written(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
