"""Names that nothing in an ONNX graph has yet."""

from __future__ import annotations


def fresh_name(name: str, taken: set[str]) -> str:
    """``name``, or with a number behind it where it is ``taken``; from here on it is."""
    fresh, number = name, 1
    while fresh in taken:
        fresh, number = f"{name}.{number}", number + 1
    taken.add(fresh)
    return fresh
