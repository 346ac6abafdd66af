"""The operators in an ONNX file, read off protobuf's wire format: a board that only runs files has no onnx package.

A message is fields: a key (the field's number times 8, plus how its value is written) and the value.
"""

from __future__ import annotations

from collections.abc import Iterator

# from the model to its nodes, and from a node to the branches and bodies in its attributes: field number -> what lies there
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node"},
    "function": {7: "node", 11: "attribute"},
    "node": {4: "operator", 5: "attribute"},
    "attribute": {6: "graph", 11: "graph"},
}
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def operators(content: bytes) -> set[str]:
    """The operators of all nodes, also in branches, loops and functions; raises ValueError for what is no such message."""
    found: set[str] = set()
    left = [("model", memoryview(content))]
    while left:
        kind, message = left.pop()
        for number, value in _fields(message):
            inside = _INSIDE[kind].get(number, "")
            if inside == "operator":
                found.add(bytes(value).decode(errors="replace"))
            elif inside:
                left.append((inside, value))
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, value) of the fields that have a length; the others hold numbers."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        written, size = key & 7, 0
        if written == _VARINT:
            _, place = _varint(message, place)
        elif written == _LENGTH:
            size, place = _varint(message, place)
        elif written in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if written == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field is written in the way {written}")
        if place + size > end:
            raise ValueError("a field ends behind its message")
        if written == _LENGTH:
            yield (key & 0xFFFFFFFF) >> 3, message[place : place + size]  # protobuf drops what goes beyond 32 bits
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number in groups of 7 bits, the lowest first, and the place behind it."""
    value = 0
    for index, byte in enumerate(message[place : place + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("a number has no end")
