"""What a report shows: lines, tables and charts as data, for a terminal, a web page or a log to draw each in its own way."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

# what a terminal would obey, or shows in another order than it is written; lines may end
_UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

Tone: TypeAlias = Literal["", "good", "bad", "warn", "dim", "bold"]


class Span(msgspec.Struct, frozen=True):
    """A piece of text in one tone. It is text and never markup: whoever draws it escapes it."""

    text: str
    tone: Tone = ""


Cell: TypeAlias = "str | Span | tuple[str | Span, ...]"
"""Plain text, one span, or several in a row."""


class Column(msgspec.Struct, frozen=True):
    """A column's heading, and how its cells are laid out.

    ``number``: they align right. ``prose``: they are sentences, which may be wrapped between words; other cells stay in one line.
    ``rank``: where the table is too wide, the columns of the highest rank are left out first; those of rank 0 never are.
    ``elides``: before any is left out, its cells lose their middle, as long names of nodes can.
    """

    heading: str
    number: bool = False
    prose: bool = False
    rank: int = 0
    elides: bool = False


class Table(msgspec.Struct, frozen=True):
    """Rows under headings; every row has a cell for each column, and an empty title is none.

    ``long``: there may be thousands of rows; those that do not fit a terminal's height are for readers who asked for more.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    long: bool = False


class Line(msgspec.Struct, frozen=True):
    """A line of text; ``when`` says who sees it: readers who asked for more are shown ``verbose`` in place of ``brief``."""

    content: Cell
    when: Literal["always", "brief", "verbose"] = "always"


class Heading(msgspec.Struct, frozen=True):
    """What follows is about ``text``, up to the next heading."""

    text: str


class Tile(msgspec.Struct, frozen=True):
    """A figure that is read first: what it is, the figure, and a few words about it."""

    name: str
    figure: Span
    about: str = ""


class Tiles(msgspec.Struct, frozen=True):
    """The figures that are read first."""

    tiles: tuple[Tile, ...]


class Code(msgspec.Struct, frozen=True):
    """Lines to copy: commands, or a program."""

    title: str
    text: str


class Picture(msgspec.Struct, frozen=True):
    """A small picture: the bytes of a PNG or JPEG file, and what it shows."""

    content: bytes
    name: str
    caption: Cell


class Pictures(msgspec.Struct, frozen=True):
    """Small pictures in a row."""

    title: str
    pictures: tuple[Picture, ...]


class Counts(msgspec.Struct, frozen=True):
    """How often each size occurs in one row of ``Histograms``.

    ``counts`` has one entry more than there are bounds: below the first, between each two, from the last on. ``marks``: named
    sizes on the axis, such as the median.
    """

    name: str
    counts: tuple[int, ...]
    marks: tuple[tuple[str, float], ...] = ()


class Histograms(msgspec.Struct, frozen=True):
    """Distributions on one logarithmic axis, in units of ``axis``; ``bounds`` ascend and are above 0."""

    title: str
    axis: str
    bounds: tuple[float, ...]
    rows: tuple[Counts, ...]


class Share(msgspec.Struct, frozen=True):
    """A share of 1 with its interval."""

    name: str
    value: float
    low: float
    high: float


class Shares(msgspec.Struct, frozen=True):
    """Shares of 1 under each other, on one axis."""

    title: str
    rows: tuple[Share, ...]


class Matrix(msgspec.Struct, frozen=True):
    """Counts by two names: ``counts[i][j]`` of ``names[i]`` (a ``row``) and ``names[j]`` (a ``column``)."""

    title: str
    row: str
    column: str
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class Point(msgspec.Struct, frozen=True):
    """One candidate: no other is better in x and in y where it is ``on_front``."""

    label: str
    x: float
    y: float
    on_front: bool = False


class Scatter(msgspec.Struct, frozen=True):
    """Candidates by two figures, and which of them no other beats in both."""

    title: str
    x_axis: str
    y_axis: str
    points: tuple[Point, ...]


Chart: TypeAlias = "Histograms | Shares | Matrix | Scatter"
Item: TypeAlias = "Line | Table | Heading | Tiles | Code | Pictures | Chart"
Page: TypeAlias = "tuple[Item, ...]"


def columns(
    *headings: str, numbers: Sequence[str] = (), prose: Sequence[str] = (), ranks: Mapping[str, int] | None = None
) -> tuple[Column, ...]:
    """Columns by their headings; ``numbers``, ``prose`` and ``ranks`` name those that are so."""
    rank = ranks or {}
    return tuple(Column(heading, heading in numbers, heading in prose, rank.get(heading, 0)) for heading in headings)


def without_empty(table: Table) -> Table:
    """The table without the columns that no row has a text in."""
    kept = [place for place in range(len(table.columns)) if any(span.text for row in table.rows for span in spans(row[place]))]
    rows = tuple(tuple(row[place] for place in kept) for row in table.rows)
    return msgspec.structs.replace(table, columns=tuple(table.columns[place] for place in kept), rows=rows)


def facts_table(title: str, facts: Mapping[str, str]) -> Table:
    """Facts as rows of a name and its words."""
    return Table(title, (Column(""), Column("", prose=True)), tuple(facts.items()))


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


def visible_json(content: bytes) -> bytes:
    """A JSON document in which what ``visible`` writes out stands as ``\\u009b``: it means the same, and no terminal obeys it."""
    text = content.decode()
    if text.isascii():  # controls below 0x20 are escaped already
        return content
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}" if ord(match[0]) >= 0x7F else match[0], text).encode()
