"""Whether one ONNX file holds all nodes and stored tensors of another, read from protobuf's wire format."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

from edgekit.onnx.bodies import GRAPH_NODE, MODEL_FUNCTION, MODEL_GRAPH, node_of
from edgekit.onnx.declared import initializers, of_tensor, opsets
from edgekit.onnx.wire import fields, inside


def first_lacking(whole: bytes, part: bytes) -> str:
    """The first node or stored tensor of the main graph of ``part`` that that of ``whole`` has not, or not so; empty if none.

    Nodes are the same where their messages are: operator, attributes, names of inputs and outputs. No two nodes of a valid graph
    give one value, so that what is computed of the same values is the same, where operators mean the same: both files must have
    the same opset imports, and the same functions, which give operators another meaning. Raises ValueError for a malformed
    message.
    """
    if opsets(whole) != opsets(part):
        return "the same opset imports"
    if _functions(whole) != _functions(part):
        return "the same functions"
    known = dict(_members(whole))
    return next((name for name, digest in _members(part) if known.get(name) != digest), "")


def _functions(content: bytes) -> Counter[bytes]:
    """The messages of the file's functions."""
    return Counter(
        bytes(value)
        for number, value in fields(memoryview(content))
        if number == MODEL_FUNCTION and isinstance(value, memoryview)
    )


def _members(content: bytes) -> Iterator[tuple[str, bytes]]:
    """(a name for people, its message's sha256) of each node and stored tensor; nodes go by the first value that they give."""
    for tensor in initializers(content):
        yield f"the tensor {of_tensor(tensor)[2]!r}", hashlib.sha256(tensor).digest()
    for number, graph in fields(memoryview(content)):
        if number == MODEL_GRAPH and isinstance(graph, memoryview):
            for message in inside(graph, GRAPH_NODE):
                node = node_of(message)
                yield f"the node {node.operator[1]} of {next(filter(None, node.outputs), '')!r}", hashlib.sha256(message).digest()
