"""What an ONNX file says of itself, read from protobuf's wire format: opset, metadata, tensors, and nodes by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from edgekit.onnx.bodies import MODEL_FUNCTION, MODEL_GRAPH, value_name
from edgekit.onnx.wire import decoded, fields, inside, operator_counts, packed

_MODEL_OPSET, _MODEL_METADATA = 8, 14
_GRAPH_TENSOR, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE = 5, 11, 12, 13


class Declared(NamedTuple):
    """What a file says of itself: ONNX's opset (0: none), its metadata, its tensors, and its nodes by operator.

    ``inputs`` and ``outputs``: name -> element type and shape, None where the file gives none; an axis is a size, or None if it
    is free. ``stored``: element type -> elements of the initializers. Nodes of branches, loops and ``functions`` count too.
    """

    opset: int
    metadata: Mapping[str, str]
    inputs: Mapping[str, tuple[int, tuple[int | None, ...] | None]]
    outputs: Mapping[str, tuple[int, tuple[int | None, ...] | None]]
    stored: Mapping[int, int]
    operators: Mapping[str, int]
    functions: int = 0


def declared(content: bytes) -> Declared:
    """Read what a file says of itself; raises ValueError for a malformed message."""
    opset, metadata, graph, functions = 0, dict[str, str](), memoryview(b""), 0
    for number, value in fields(memoryview(content)):
        if isinstance(value, int):
            continue
        if number == MODEL_GRAPH:
            graph = value
        elif number == MODEL_FUNCTION:
            functions += 1
        elif number == _MODEL_METADATA:
            texts = {key: decoded(text) for key, text in fields(value)}
            metadata[texts.get(1, "")] = texts.get(2, "")
        elif number == _MODEL_OPSET:
            parts = dict(fields(value))
            if decoded(parts.get(1, 0)) in ("", "ai.onnx"):
                opset = max(opset, int(parts[2]) if isinstance(parts.get(2), int) else 0)
    tensors = {_GRAPH_INPUT: dict[str, Any](), _GRAPH_OUTPUT: dict[str, Any]()}
    stored: Counter[int] = Counter()
    names = set()
    for number, value in fields(graph):
        if isinstance(value, int):
            continue
        if number in tensors:
            tensors[number][value_name(value)] = _tensor_type(value)
        elif number == _GRAPH_TENSOR:
            kind, elements, name = of_tensor(value)
            stored[kind] += elements
            names.add(name)
    inputs = {name: kind for name, kind in tensors[_GRAPH_INPUT].items() if name not in names}
    return Declared(opset, metadata, inputs, tensors[_GRAPH_OUTPUT], stored, operator_counts(content), functions)


def opsets(content: bytes) -> Counter[tuple[str, int]]:
    """The (domain, version) of each opset import, ONNX's own domain as ""; raises ValueError for a malformed message."""
    found = Counter[tuple[str, int]]()
    for entry in inside(memoryview(content), _MODEL_OPSET):
        parts = dict(fields(entry))
        domain, version = decoded(parts.get(1, 0)), parts.get(2)
        found["" if domain == "ai.onnx" else domain, version if isinstance(version, int) else 0] += 1
    return found


def element_types(content: bytes) -> dict[str, int]:
    """Value of the main graph -> its element type, as far as the file says it; raises ValueError for a malformed message."""
    types = {name: kind for kind, _, name in map(of_tensor, initializers(content))}
    for number, graph in fields(memoryview(content)):
        if number == MODEL_GRAPH and isinstance(graph, memoryview):
            for described in (_GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE):
                types.update((value_name(value), _tensor_type(value)[0]) for value in inside(graph, described))
    return {name: kind for name, kind in types.items() if kind}


def _tensor_type(value_info: memoryview) -> tuple[int, tuple[int | None, ...] | None]:
    """The element type (0: not given) and the shape of a ValueInfoProto."""
    kind, shape = 0, None
    for tensor in inside(value_info, 2, 1):
        for number, value in fields(tensor):
            if number == 1 and isinstance(value, int):
                kind = value
            elif number == 2 and isinstance(value, memoryview):
                axes = [dict(fields(axis)).get(1) for axis in inside(value, 1)]
                shape = tuple(size if isinstance(size, int) else None for size in axes)
    return kind, shape


def initializers(content: bytes | bytearray) -> Iterator[memoryview]:
    """The initializers of the main graph, in the memory of ``content``."""
    for number, value in fields(memoryview(content)):
        if number == MODEL_GRAPH and isinstance(value, memoryview):
            yield from inside(value, _GRAPH_TENSOR)


def of_tensor(tensor: memoryview) -> tuple[int, int, str]:
    """The element type, the number of elements and the name of a TensorProto."""
    kind, elements, name = 0, 1, ""
    for number, value in fields(tensor):
        if number == 1:
            for size in (value,) if isinstance(value, int) else packed(value):
                elements *= size
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = decoded(value)
    return kind, elements, name
