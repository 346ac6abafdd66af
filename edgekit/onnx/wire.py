"""Read what an ONNX file says of itself from protobuf's wire format: a board that only runs files has no onnx package.

A message is a sequence of fields. A field is a key (field number times 8 plus wire type) and a value.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

# message -> field number -> kind of the value: from the model to its nodes, and from a node to the graphs in its attributes
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {4: "operator", 5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {8: "its name", 13: "its file", 14: "elsewhere"},
}
DEEPEST = 100  # protobuf's own limit for messages in messages
# the numbers of the fields that `bodies` and `declared` read
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA, _MODEL_FUNCTION = 7, 8, 14, 25
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_FUNCTION_NAME, _FUNCTION_OUTPUT, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 5, 7, 10
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_DOMAIN = 1, 2, 3, 4, 7
_TENSOR_FLOATS, _TENSOR_RAW = 4, 9
ELEMENT_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64",
    12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
"""ONNX's numbers of element types, by the names that numpy has for them."""
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_END_OF_TENSOR = "end of a tensor"  # a tensor's name may follow its location
Value: TypeAlias = "memoryview | int"


def operators(content: bytes) -> set[str]:
    """The operators of all nodes, including branches, loops and functions; raises ValueError for a malformed message."""
    return {_decoded(value) for kind, value in _leaves(content) if kind == "operator" and isinstance(value, memoryview)}


def tensor_elsewhere(content: bytes) -> str | None:
    """The name of a tensor stored in another file, in any graph or function; None if all numbers are inside.

    A tensor without a name gives an empty text. Raises ValueError for a malformed message.
    """
    name, elsewhere = "", False
    for kind, value in _leaves(content):
        if kind == "its name":
            name = _decoded(value)
        elif kind == "its file" or (kind == "elsewhere" and value != 0):
            elsewhere = True
        elif kind == _END_OF_TENSOR and elsewhere:
            return name
        elif kind == _END_OF_TENSOR:
            name = ""
    return None


class Node(NamedTuple):
    """A node's operator with its domain, the names of its inputs and outputs, and its own name."""

    operator: tuple[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str = ""


class Body(NamedTuple):
    """The nodes of the graph or of a function, by the names of their outputs, and the names of its own outputs."""

    producers: Mapping[str, Node]
    outputs: tuple[str, ...]


def bodies(content: bytes) -> tuple[Body, dict[tuple[str, str], Body]]:
    """The main graph, and the functions by their domain and name; raises ValueError for what is no such message."""
    graph: Body = Body({}, ())
    functions: dict[tuple[str, str], Body] = {}
    for number, value in fields(memoryview(content)):
        if isinstance(value, int):
            continue
        if number == _MODEL_GRAPH:
            texts, nodes = _members(value, _GRAPH_NODE, (_GRAPH_OUTPUT,))
            outputs = tuple(_name(output) for output in texts[_GRAPH_OUTPUT])
            graph = Body({name: node for node in nodes for name in node.outputs}, outputs)
        elif number == _MODEL_FUNCTION:
            texts, nodes = _members(value, _FUNCTION_NODE, (_FUNCTION_NAME, _FUNCTION_OUTPUT, _FUNCTION_DOMAIN))
            identity = (_last(texts[_FUNCTION_DOMAIN]), _last(texts[_FUNCTION_NAME]))
            outputs = tuple(map(_decoded, texts[_FUNCTION_OUTPUT]))
            functions[identity] = Body({name: node for node in nodes for name in node.outputs}, outputs)
    return graph, functions


def has_functions(content: bytes) -> bool:
    """Whether the file has functions of its own; raises ValueError for a malformed message."""
    return any(number == _MODEL_FUNCTION for number, _ in fields(memoryview(content)))


def inlined_nodes(content: bytes) -> int:
    """The number of nodes of the main graph once every call of a function of the file is replaced by the function's nodes.

    Functions that call functions can double it with every line. Raises ValueError for a function that calls itself, and for a
    malformed message.
    """
    graph, functions = bodies(content)
    sizes: dict[tuple[str, str], int] = {}

    def size(body: Body, callers: frozenset[tuple[str, str]]) -> int:
        total = 0
        for node in dict.fromkeys(body.producers.values()):
            called = functions.get(node.operator)
            if called is None:
                total += 1
            elif node.operator in callers:
                raise ValueError(f"function {node.operator[1]} calls itself")
            else:
                if node.operator not in sizes:
                    sizes[node.operator] = size(called, callers | {node.operator})
                total += sizes[node.operator]
        return total

    return size(graph, frozenset())


def check_one_graph(content: bytes) -> None:
    """Raise ValueError for a model whose graph stands there in pieces: Protocol Buffers merge them, and readers here do not."""
    if sum(number == _MODEL_GRAPH for number, _ in fields(memoryview(content))) > 1:
        raise ValueError("its graph is in several pieces")


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
        if number == _MODEL_GRAPH:
            graph = value
        elif number == _MODEL_FUNCTION:
            functions += 1
        elif number == _MODEL_METADATA:
            texts = {key: _decoded(text) for key, text in fields(value)}
            metadata[texts.get(1, "")] = texts.get(2, "")
        elif number == _MODEL_OPSET:
            parts = dict(fields(value))
            if _decoded(parts.get(1, 0)) in ("", "ai.onnx"):
                opset = max(opset, int(parts[2]) if isinstance(parts.get(2), int) else 0)
    tensors = {_GRAPH_INPUT: dict[str, Any](), _GRAPH_OUTPUT: dict[str, Any]()}
    stored: Counter[int] = Counter()
    names = set()
    for number, value in fields(graph):
        if isinstance(value, int):
            continue
        if number in tensors:
            tensors[number][_name(value)] = _tensor_type(value)
        elif number == _GRAPH_TENSOR:
            kind, elements, name = _stored(value)
            stored[kind] += elements
            names.add(name)
    inputs = {name: kind for name, kind in tensors[_GRAPH_INPUT].items() if name not in names}
    counts = Counter(_decoded(value) for kind, value in _leaves(content) if kind == "operator")
    return Declared(opset, metadata, inputs, tensors[_GRAPH_OUTPUT], stored, counts, functions)


class Quantised(NamedTuple):
    """A value that the main graph rounds to steps: its scale, None unless it stores one number, and its zero point's type."""

    value: str
    scale: float | None
    dtype: int


def quantised_values(content: bytes) -> list[Quantised]:
    """The values that the main graph rounds to steps; raises ValueError for a malformed message."""
    body, _ = bodies(content)
    tensors = {_stored(tensor)[2]: tensor for tensor in _tensors(content)}
    found = []
    for node in _alive(body):
        if node.operator == ("", "QuantizeLinear") and len(node.inputs) > 1:
            scale = tensors.get(node.inputs[1])
            zero = tensors.get(node.inputs[2]) if len(node.inputs) > 2 else None
            number = None if scale is None else _one_float(scale)
            found.append(Quantised(node.inputs[0], number, 0 if zero is None else _stored(zero)[0]))
    return found


def node_names(content: bytes) -> dict[str, str]:
    """Name, or first output, of each node that an output depends on -> its operator; ValueError for a malformed message."""
    body, _ = bodies(content)
    return {node.name or next(filter(None, node.outputs), ""): node.operator[1] for node in _alive(body)}


def _tensors(content: bytes) -> Iterator[memoryview]:
    """The initializers of the main graph."""
    for number, value in fields(memoryview(content)):
        if number == _MODEL_GRAPH and isinstance(value, memoryview):
            yield from _inside(value, _GRAPH_TENSOR)


def _one_float(tensor: memoryview) -> float | None:
    """The number of a float32 tensor of one element; None for any other."""
    kind, elements, _ = _stored(tensor)
    raw = next((value for number, value in fields(tensor) if number == _TENSOR_RAW and isinstance(value, memoryview)), b"")
    packed = next((value for number, value in fields(tensor) if number == _TENSOR_FLOATS and isinstance(value, memoryview)), b"")
    numbers = bytes(raw or packed)
    return float(struct.unpack("<f", numbers)[0]) if kind == 1 and elements == 1 and len(numbers) == 4 else None


_READ_THROUGH = ("DequantizeLinear", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")


def weight_types(content: bytes, operators: Collection[str]) -> list[int]:
    """What the main graph's nodes of ``operators`` read as weights, their second inputs: the element type of the stored tensor.

    Nodes that no output depends on do not count. A weight may be stored in steps, which a DequantizeLinear makes floats of, or in
    another shape; 0: none is stored.
    """
    body, _ = bodies(content)
    kinds = {name: kind for kind, _, name in map(_stored, _tensors(content))}
    types = []
    for node in _alive(body):
        if node.operator[1] in operators:
            name = node.inputs[1] if len(node.inputs) > 1 else ""
            passed = set[str]()
            while name not in passed and name in body.producers and _reads_through(body.producers[name]):
                passed.add(name)
                name = body.producers[name].inputs[0]
            types.append(kinds.get(name, 0))
    return types


def _reads_through(node: Node) -> bool:
    """Whether a node gives its first input's numbers in another form."""
    return node.operator[0] in ("", "ai.onnx") and node.operator[1] in _READ_THROUGH and bool(node.inputs)


def _alive(body: Body) -> list[Node]:
    """The nodes that the outputs depend on; all of them where one of these has a branch or a loop, which may read any value."""
    nodes = list(dict.fromkeys(body.producers.values()))
    waiting, alive = list(body.outputs), set[Node]()
    while waiting:
        node = body.producers.get(waiting.pop())
        if node is not None and node not in alive:
            if node.operator[1] in _WITH_GRAPHS:
                return nodes
            alive.add(node)
            waiting += node.inputs
    return [node for node in nodes if node in alive]


_WITH_GRAPHS = ("If", "Loop", "Scan", "SequenceMap")
_IN_STEPS = re.compile(r"^(?:Dynamic)?(?:Quantize|Dequantize)Linear$|^QLinear|Integer$|^QGemm$|^MatMulNBits$")


def in_steps(operator: str) -> bool:
    """Whether an operator computes in integers of 8 bits or fewer, or turns them into floats or back."""
    return _IN_STEPS.search(operator) is not None


def _tensor_type(value_info: memoryview) -> tuple[int, tuple[int | None, ...] | None]:
    """The element type (0: not given) and the shape of a ValueInfoProto."""
    kind, shape = 0, None
    for tensor in _inside(value_info, 2, 1):
        for number, value in fields(tensor):
            if number == 1 and isinstance(value, int):
                kind = value
            elif number == 2 and isinstance(value, memoryview):
                axes = [dict(fields(axis)).get(1) for axis in _inside(value, 1)]
                shape = tuple(size if isinstance(size, int) else None for size in axes)
    return kind, shape


def _stored(tensor: memoryview) -> tuple[int, int, str]:
    """The element type, the number of elements and the name of a TensorProto."""
    kind, elements, name = 0, 1, ""
    for number, value in fields(tensor):
        if number == 1:
            for size in (value,) if isinstance(value, int) else _packed(value):
                elements *= size
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = _decoded(value)
    return kind, elements, name


def _packed(message: memoryview) -> Iterator[int]:
    place = 0
    while place < len(message):
        value, place = _varint(message, place)
        yield value


def _inside(message: memoryview, *path: int) -> Iterator[memoryview]:
    """The messages below ``message`` along field numbers."""
    for number, value in fields(message):
        if number == path[0] and isinstance(value, memoryview):
            if len(path) == 1:
                yield value
            else:
                yield from _inside(value, *path[1:])


def _members(message: memoryview, node_field: int, text_fields: Sequence[int]) -> tuple[dict[int, list[memoryview]], list[Node]]:
    """The fields of a graph or function that are named, and its nodes."""
    texts: dict[int, list[memoryview]] = {number: [] for number in text_fields}
    nodes = []
    for number, value in fields(message):
        if isinstance(value, int):
            continue
        if number in texts:
            texts[number].append(value)
        elif number == node_field:
            nodes.append(_node(value))
    return texts, nodes


def _node(message: memoryview) -> Node:
    texts: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_NAME: [], _NODE_OPERATOR: [], _NODE_DOMAIN: []}
    for number, value in fields(message):
        if number in texts:
            texts[number].append(_decoded(value))
    operator = ("".join(texts[_NODE_DOMAIN][-1:]), "".join(texts[_NODE_OPERATOR][-1:]))
    return Node(operator, tuple(texts[_NODE_INPUT]), tuple(texts[_NODE_OUTPUT]), "".join(texts[_NODE_NAME][-1:]))


def _name(value_info: memoryview) -> str:
    return _last([value for number, value in fields(value_info) if number == 1 and isinstance(value, memoryview)])


def _last(texts: Sequence[memoryview]) -> str:
    """The last value of a field; protobuf lets it override earlier ones."""
    return _decoded(texts[-1]) if texts else ""


def _decoded(value: Value) -> str:
    return bytes(value).decode(errors="replace") if isinstance(value, memoryview) else ""


def _leaves(content: bytes) -> Iterator[tuple[str, Value]]:
    """(kind, value) of every value that ``_INSIDE`` names, and a mark at the end of each tensor.

    Memory holds one path from the model down to a value, whatever the number of messages.
    """
    open_messages = [("model", fields(memoryview(content)))]
    while open_messages:
        kind, message = open_messages[-1]
        number, value = next(message, (0, 0))
        if number == 0:
            open_messages.pop()
            if kind == "tensor":
                yield _END_OF_TENSOR, 0
            continue
        inside = _INSIDE[kind].get(number, "")
        if inside and inside not in _INSIDE:
            yield inside, value
        elif inside and isinstance(value, memoryview):
            if len(open_messages) > DEEPEST:
                raise ValueError(f"messages are nested more than {DEEPEST} deep")
            open_messages.append((inside, fields(value)))


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """(number, value) of each field that holds a message, a text or a whole number."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        number, wire_type, size = (key & 0xFFFFFFFF) >> 3, key & 7, 0  # protobuf ignores bits beyond 32
        if number == 0:
            raise ValueError("a field has the number 0")
        if wire_type == _VARINT:
            value, place = _varint(message, place)
            yield number, value
        elif wire_type == _LENGTH:
            size, place = _varint(message, place)
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire_type == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field has the wire type {wire_type}")
        if place + size > end:
            raise ValueError("a field ends behind its message")
        if wire_type == _LENGTH:
            yield number, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number written in groups of 7 bits, the lowest first, and the position behind it."""
    value = 0
    for index, byte in enumerate(message[place : place + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("a number has no end")
