"""Draws a page as one HTML file that needs nothing else: no script, no network, no other file.

Every text is somebody else's: jinja2 escapes it, and ``edgekit.reports.svg`` what stands in charts. The content security policy
allows the one style sheet in the page, by its hash, and pictures that are in the page; nothing can be fetched or run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from edgekit.errors import printable
from edgekit.reports.page import (
    Cell,
    Chart,
    Code,
    Column,
    Heading,
    Histograms,
    Item,
    Line,
    Matrix,
    Page,
    Pictures,
    Scatter,
    Shares,
    Span,
    Table,
    Tiles,
    spans,
    visible,
)
from edgekit.reports.plain import numbers
from edgekit.reports.svg import can_draw, svg
from edgekit.version import __version__

HERE = Path(__file__).parent
LARGEST = 300_000
"""Bytes that a page stays below."""
TOO_LARGE = f"larger than {LARGEST // 1000} kB: see --format json"
"""Short enough to be shown whole where texts are cut most."""
KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}
"""How the files of pictures begin."""
LARGEST_PICTURE = 8192
MOST_SHARES = 60
BARS_A_ROW = 10
"""A histogram takes the room of so many rows of a table."""


class _Limits(NamedTuple):
    """How many rows of a table, lines in a row and letters of a text a page shows; ``drawn``: charts and pictures too."""

    rows: int
    letters: int
    drawn: bool = True


LIMITS = (
    _Limits(400, 2000),
    _Limits(120, 600),
    _Limits(40, 300),
    _Limits(12, 120),
    _Limits(12, 120, False),
    _Limits(3, 40, False),
)
"""From the most that is shown to what fits whatever a bundle holds."""


def html(page: Page, title: str) -> bytes:
    """``page`` under ``title``, below ``LARGEST`` bytes: long tables and texts are cut until it fits, and say so.

    A page of so many parts that it does not fit even so says that it is larger.
    """
    page = tuple(map(_drawable, page))
    for limits in LIMITS:
        document = _Drawing(limits).document(page, title)
        if len(document) < LARGEST:
            return document
    return _Drawing(LIMITS[-1]).document((Line(Span(TOO_LARGE, "warn")), *page), title)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")


def _drawable(item: Item) -> Item:
    """A chart with nothing to draw, or too much, as its table."""
    if isinstance(item, (Histograms, Shares, Matrix, Scatter)) and not can_draw(item):
        return numbers(item)
    return item


class _Drawing:
    """A page with its limits; names of sections and of regions that scroll are told apart by their numbers."""

    def __init__(self, limits: _Limits) -> None:
        self.limits = limits

    def document(self, page: Page, title: str) -> bytes:
        style = (HERE / "page.css").read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        sections = list(self._sections(page))
        text = _template().render(
            title=self.shown(title),
            style=Markup(style),
            digest=digest,
            sections=sections,
            version=__version__,
        )
        return text.encode()

    def shown(self, text: str) -> str:
        """``text`` without anything a browser would obey or show in another order, and not longer than the limit."""
        seen = visible(printable(text[: self.limits.letters]))
        return seen if len(text) <= self.limits.letters else f"{seen}…"

    def _sections(self, page: Page) -> Iterator[dict[str, Any]]:
        """What stands before the first heading, and each heading with what follows it."""
        section: dict[str, Any] = {"heading": "", "anchor": "top", "items": []}
        for item in self._within(page):
            if isinstance(item, Heading):
                yield section
                anchor = re.sub("[^a-z0-9]+", "-", item.text.lower()).strip("-")
                section = {"heading": self.shown(item.text), "anchor": anchor, "items": []}
            else:
                section["items"].append(self._item(item))
        yield section

    def _within(self, page: Page) -> Iterator[Item]:
        """The items; of many lines in a row the first, and how many there are more."""
        run = 0
        for item in page:
            if isinstance(item, Line) and item.when == "brief":
                continue
            run = run + 1 if isinstance(item, Line) else 0
            if run <= self.limits.rows:
                yield item
            elif run == self.limits.rows + 1:
                yield Line(Span("more lines are in the JSON (--format json)", "dim"))

    def _item(self, item: Item) -> dict[str, Any]:
        """What the template draws: its ``kind``, and what that takes."""
        drawings: dict[type, Callable[[Any], dict[str, Any]]] = {
            Line: self._line,
            Table: self._table,
            Tiles: self._tiles,
            Code: self._code,
            Pictures: self._pictures,
        }
        drawing: Callable[[Any], dict[str, Any]] = drawings.get(type(item), self._chart)
        return drawing(item)

    def _line(self, line: Line) -> dict[str, Any]:
        return {"kind": "line", "spans": self._spans(line.content)}

    def _tiles(self, item: Tiles) -> dict[str, Any]:
        tiles = [
            {"name": self.shown(tile.name), "figure": self._spans(tile.figure)[0], "about": self.shown(tile.about)}
            for tile in item.tiles
        ]
        return {"kind": "tiles", "tiles": tiles}

    def _code(self, item: Code) -> dict[str, Any]:
        lines = [self.shown(line) for line in item.text.splitlines()]
        return {"kind": "code", "title": self.shown(item.title), "text": "\n".join(lines[: self.limits.rows])}

    def _chart(self, chart: Chart) -> dict[str, Any]:
        if not self.limits.drawn:
            return self._table(numbers(chart))
        cut = self._short(chart)
        hidden = len(_rows(chart)) - len(_rows(cut))
        more = f"{hidden:,} more are in the JSON (--format json)" if hidden else ""
        return {"kind": "chart", "title": cut.title, "svg": Markup(svg(cut)), "hidden": more}

    def _short(self, chart: Chart) -> Chart:
        """The chart with no more rows than are shown, and with texts of their longest."""
        if isinstance(chart, Matrix):
            cut: Chart = chart
        elif isinstance(chart, Scatter):
            cut = msgspec.structs.replace(chart, points=chart.points[: self.limits.rows])
        else:
            most = min(self.limits.rows, MOST_SHARES) if isinstance(chart, Shares) else -(-self.limits.rows // BARS_A_ROW)
            cut = msgspec.structs.replace(chart, rows=chart.rows[:most])
        clipped: Chart = self._clipped(cut)
        return clipped

    def _clipped(self, value: Any) -> Any:
        """A value with every text in it as ``shown``."""
        if isinstance(value, str):
            return self.shown(value)
        if isinstance(value, tuple):
            return tuple(map(self._clipped, value))
        if not isinstance(value, msgspec.Struct):
            return value
        return type(value)(*(self._clipped(getattr(value, name)) for name in value.__struct_fields__))

    def _table(self, table: Table) -> dict[str, Any]:
        rows = [[self._spans(cell) for cell in row] for row in table.rows[: self.limits.rows]]
        hidden = len(table.rows) - len(rows)
        return {
            "kind": "table",
            "title": self.shown(table.title),
            "columns": [{"heading": self.shown(column.heading), "kind": _column(column)} for column in table.columns],
            "rows": rows,
            "hidden": f"{hidden:,} more rows are in the JSON (--format json)" if hidden else "",
        }

    def _spans(self, content: Cell) -> list[dict[str, str]]:
        return [{"text": self.shown(span.text), "tone": span.tone} for span in spans(content)]

    def _pictures(self, item: Pictures) -> dict[str, Any]:
        pictures = [
            {"source": source, "name": self.shown(picture.name), "caption": self._spans(picture.caption)}
            for picture in item.pictures
            for source in _source(picture.content)
            if self.limits.drawn
        ]
        return {"kind": "pictures", "title": self.shown(item.title), "pictures": pictures}


def _rows(chart: Chart) -> Sequence[object]:
    if isinstance(chart, Matrix):
        return chart.names
    return chart.points if isinstance(chart, Scatter) else chart.rows


def _source(content: bytes) -> Iterator[str]:
    """The address of a picture that is in the page; nothing for what is no small picture."""
    kind = next((kind for start, kind in KINDS.items() if content.startswith(start)), None)
    if kind is not None and len(content) <= LARGEST_PICTURE:
        yield f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _column(column: Column) -> str:
    return "number" if column.number else "prose" if column.prose else "name" if column.elides else ""
