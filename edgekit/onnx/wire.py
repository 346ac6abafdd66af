"""Read an ONNX file's fields from protobuf's wire format: a board that only runs files has no onnx package.

A message is a sequence of fields. A field is a key (field number times 8 plus wire type) and a value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeAlias

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
    return set(operator_counts(content))


def operator_counts(content: bytes) -> Counter[str]:
    """Operator -> the number of its nodes, including branches, loops and functions; raises ValueError as ``operators`` does."""
    return Counter(decoded(value) for kind, value in _leaves(content) if kind == "operator" and isinstance(value, memoryview))


def tensor_elsewhere(content: bytes) -> str | None:
    """The name of a tensor stored in another file, in any graph or function; None if all numbers are inside.

    A tensor without a name gives an empty text. Raises ValueError for a malformed message.
    """
    name, elsewhere = "", False
    for kind, value in _leaves(content):
        if kind == "its name":
            name = decoded(value)
        elif kind == "its file" or (kind == "elsewhere" and value != 0):
            elsewhere = True
        elif kind == _END_OF_TENSOR and elsewhere:
            return name
        elif kind == _END_OF_TENSOR:
            name = ""
    return None


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
    return ((number, value) for number, wire_type, value in _typed(message) if wire_type in (_VARINT, _LENGTH))


def singles(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, its four bytes) of each field that holds a float32 number by itself."""
    for number, wire_type, value in _typed(message):
        if wire_type == _FOUR_BYTES and isinstance(value, memoryview):
            yield number, value


def _typed(message: memoryview) -> Iterator[tuple[int, int, Value]]:
    """(number, wire type, value) of each field."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        number, wire_type, size = (key & 0xFFFFFFFF) >> 3, key & 7, 0  # protobuf ignores bits beyond 32
        if number == 0:
            raise ValueError("a field has the number 0")
        if wire_type == _VARINT:
            value, place = _varint(message, place)
            yield number, wire_type, value
        elif wire_type == _LENGTH:
            size, place = _varint(message, place)
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire_type == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field has the wire type {wire_type}")
        if place + size > end:
            raise ValueError("a field ends behind its message")
        if wire_type != _VARINT:
            yield number, wire_type, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number written in groups of 7 bits, the lowest first, and the position behind it."""
    value = 0
    for index, byte in enumerate(message[place : place + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("a number has no end")


def packed(message: memoryview) -> Iterator[int]:
    """The whole numbers of a packed field."""
    place = 0
    while place < len(message):
        value, place = _varint(message, place)
        yield value


def inside(message: memoryview, *path: int) -> Iterator[memoryview]:
    """The messages below ``message`` along field numbers."""
    for number, value in fields(message):
        if number == path[0] and isinstance(value, memoryview):
            if len(path) == 1:
                yield value
            else:
                yield from inside(value, *path[1:])


def last(texts: Sequence[memoryview]) -> str:
    """The last value of a field; protobuf lets it override earlier ones."""
    return decoded(texts[-1]) if texts else ""


def decoded(value: Value) -> str:
    """The value as a text; empty for a number."""
    return bytes(value).decode(errors="replace") if isinstance(value, memoryview) else ""
