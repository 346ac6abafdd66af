"""What a report shows: lines and tables as data, for a terminal, a web page or a log to draw each in its own way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

# what a terminal would obey, or shows in another order than it is written; lines may end
_UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

Tone: TypeAlias = Literal["", "good", "bad", "warn", "dim", "bold"]


class Span(msgspec.Struct, frozen=True):
    """A piece of text in one tone. It is text and never markup: whoever draws it escapes it."""

    text: str
    tone: Tone = ""


Cell: TypeAlias = "str | Span | tuple[str | Span, ...]"
"""Plain text, one span, or several in a row."""


class Column(msgspec.Struct, frozen=True):
    """A column's heading; ``number``: its cells align right."""

    heading: str
    number: bool = False


class Table(msgspec.Struct, frozen=True):
    """Rows under headings; every row has a cell for each column, and an empty title is none."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Line(msgspec.Struct, frozen=True):
    """A line of text."""

    content: Cell


Page: TypeAlias = "tuple[Line | Table, ...]"


def columns(*headings: str, numbers: Sequence[str] = ()) -> tuple[Column, ...]:
    """Columns by their headings; those in ``numbers`` align right."""
    return tuple(Column(heading, heading in numbers) for heading in headings)


def spans(content: Cell) -> tuple[Span, ...]:
    """A cell as spans."""
    pieces = content if isinstance(content, tuple) else (content,)
    return tuple(piece if isinstance(piece, Span) else Span(piece) for piece in pieces)


def verdict(passed: bool) -> Span:
    """``pass`` or ``FAIL``."""
    return Span("pass", "good") if passed else Span("FAIL", "bad")


def note(text: str) -> Line:
    """A line that says what a reader should know, though nothing failed."""
    return Line((Span("note:", "warn"), f" {text}"))


def visible(text: str) -> str:
    """``text`` with its control characters written out, as ``\\x1b``."""
    return _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], text)
