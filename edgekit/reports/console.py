"""Draws the page of a report on a console, and lays out tables that are wider than it.

Where a table does not fit, its sentences go below their rows, and long names lose their middle. If it is still too wide, it loses
the columns of its highest ranks. Where none is left to lose, every cell has a line of its own. A word is broken only where it is
longer than a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from edgekit.reports.page import Cell, Line, Page, Table, Tone, spans, visible
from edgekit.reports.plain import LEVELS, in_lines

_STYLES: dict[Tone, str] = {"": "", "good": "green", "bad": "red", "warn": "yellow", "dim": "dim", "bold": "bold"}
_IN_ASCII = str.maketrans({"≤": "<=", **dict(zip(LEVELS, " .:-=+*#@", strict=True))})
GAP, MARGIN, INDENT = 2, 2, 3
"""Blanks between two columns, at both sides of a table together, and before a sentence below its row."""
AROUND, LEAST_ROWS, ROWS_IN_A_FILE = 8, 12, 108
"""Lines of a terminal that a long table leaves free, the rows that it shows at least, and the lines of what is no terminal."""
LEAST_NAME = 20
"""A name is not made shorter than this."""
LEAST_PROSE = 30
"""A column of sentences is not made narrower than this."""


def draw(page: Page, console: Console, *, verbose: bool = False) -> None:
    """Print ``page``; its text is shown as it is, whatever markup or control characters stand in it."""
    ascii_only = console.options.ascii_only
    for item in in_lines(page):
        if isinstance(item, Line):
            if item.when in ("always", "verbose" if verbose else "brief"):
                console.print(_text(item.content, ascii_only), highlight=False)
            continue
        if item.title:
            console.print(_text(item.title, ascii_only, "bold"), highlight=False)
        table = item if verbose else _cut(item, console)
        for piece in _Layout(table, console.width, ascii_only).pieces():
            console.print(piece, highlight=False)
        if len(table.rows) < len(item.rows):
            console.print(Text(f"{len(item.rows) - len(table.rows)} more rows; -v shows them, --json has all", "dim"))


def _cut(table: Table, console: Console) -> Table:
    """``table`` with those of its rows that fit the console's height, where it may be cut: laying out thousands takes seconds."""
    height = console.height if console.is_terminal else ROWS_IN_A_FILE
    rows = max(height - AROUND, LEAST_ROWS)
    return msgspec.structs.replace(table, rows=table.rows[:rows]) if table.long and len(table.rows) > rows else table


class _Layout:
    """A table with the width of each column, on a console of ``width``."""

    def __init__(self, table: Table, width: int, ascii_only: bool) -> None:
        self.columns, self.width, self.ascii_only = table.columns, width, ascii_only
        self.headings = [_text(column.heading, ascii_only) for column in table.columns]
        self.rows = [[_text(cell, ascii_only) for cell in row] for row in table.rows]
        self._elide()
        stacks = [[heading, *(row[place] for row in self.rows)] for place, heading in enumerate(self.headings)]
        self.natural = [max(map(_width, stack)) for stack in stacks]
        self.least = [
            min(natural, max(LEAST_PROSE, *map(_longest_word, stack))) if column.prose else natural
            for column, natural, stack in zip(self.columns, self.natural, stacks, strict=True)
        ]

    def _elide(self) -> None:
        """Take the middle out of names where the table is too wide, down to ``LEAST_NAME``."""
        widths = [max(map(_width, stack)) for stack in zip(self.headings, *self.rows, strict=True)]
        excess = sum(widths) + GAP * (len(widths) - 1) + MARGIN - self.width
        for place, column in enumerate(self.columns):
            room = max(LEAST_NAME, widths[place] - excess)
            if column.elides and excess > 0 and room < widths[place]:
                for row in self.rows:
                    row[place] = _elided(row[place], room, self.ascii_only)

    def pieces(self) -> Iterator[RenderableType]:
        """What is printed one after the other."""
        shown = everything = tuple(range(len(self.columns)))
        while not self._fits(shown) and not self._fits_below(shown):
            last = max(shown, key=lambda place: (self.columns[place].rank, place))
            if not self.columns[last].rank:
                yield from self._blocks()
                return
            shown = tuple(place for place in shown if place != last)
        yield from [self._grid(shown)] if self._fits(shown) else self._below(shown)
        lost = [self.columns[place].heading for place in everything if place not in shown]
        if lost:
            yield Text(f"left out at this width: {', '.join(lost)}; --json has all", "dim")

    def _fits(self, shown: Sequence[int]) -> bool:
        return sum(self.least[place] for place in shown) + GAP * (len(shown) - 1) + MARGIN <= self.width

    def _fits_below(self, shown: Sequence[int]) -> bool:
        """Whether the columns fit with their sentences below the rows, which the first column has to name."""
        aligned = self._without_prose(shown)
        return 0 in aligned and 1 < len(aligned) < len(shown) and self._fits(aligned)

    def _without_prose(self, shown: Sequence[int]) -> list[int]:
        return [place for place in shown if not self.columns[place].prose]

    def _grid(self, shown: Sequence[int]) -> Grid:
        grid = Grid(box=box.SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False)
        room = self.width - MARGIN - GAP * (len(shown) - 1) - sum(self.least[place] for place in shown)
        for place in shown:
            wider = min(room, self.natural[place] - self.least[place])
            room -= wider
            width = self.least[place] + wider
            grid.add_column(
                self.headings[place], justify="right" if self.columns[place].number else "left", width=width, overflow="fold"
            )
        for row in self.rows:
            grid.add_row(*(row[place] for place in shown))
        return grid

    def _below(self, shown: Sequence[int]) -> Iterator[RenderableType]:
        """Rows of short cells, each followed by its sentences."""
        aligned = self._without_prose(shown)
        yield Text()
        yield self._aligned(self.headings, aligned, "bold")
        total = sum(self.natural[place] for place in aligned) + GAP * (len(aligned) - 1)
        yield Text(f" {('-' if self.ascii_only else '─') * total}")
        for row in self.rows:
            yield self._aligned(row, aligned)
            yield from self._told(row, [place for place in shown if place not in aligned])
        yield Text()

    def _aligned(self, row: Sequence[Text], shown: Sequence[int], style: str = "") -> Text:
        line = Text(" ")
        for place in shown:
            blanks = " " * (self.natural[place] - row[place].cell_len)
            cell = row[place].copy()
            cell.stylize(style)
            line.append_text(Text(blanks).append_text(cell) if self.columns[place].number else cell.append(blanks))
            line.append(" " * GAP)
        line.rstrip()
        return line

    def _blocks(self) -> Iterator[RenderableType]:
        """One block for each row, a line for each cell."""
        yield Text()
        for row in self.rows:
            yield Padding(row[0], (0, 0, 0, 1), expand=False)
            yield from self._told(row, range(1, len(row)))
        yield Text()

    def _told(self, row: Sequence[Text], places: Sequence[int]) -> Iterator[RenderableType]:
        for place in places:
            if row[place].plain:
                heading = self.headings[place].plain
                words = Text(f"{heading}: " if heading else "").append_text(row[place])
                yield Padding(words, (0, 0, 0, INDENT), expand=False)


def _elided(text: Text, room: int, ascii_only: bool) -> Text:
    """The text without its middle, in ``room`` cells."""
    plain, dots = text.plain, ".." if ascii_only else "…"
    if cell_len(plain) <= room or len(plain) != cell_len(plain):
        return text
    end = (room - len(dots)) // 2
    return Text(f"{plain[: room - len(dots) - end]}{dots}{plain[len(plain) - end :]}", text.style)


def _width(text: Text) -> int:
    return max(map(cell_len, text.plain.split("\n")))


def _longest_word(text: Text) -> int:
    return max(map(cell_len, text.plain.split()), default=0)


def _text(content: Cell, ascii_only: bool, style: str = "") -> Text:
    """Written out before rich measures it, so that a table leaves room for it."""
    text = Text(style=style)
    for span in spans(content):
        shown = visible(span.text)
        text.append(shown.translate(_IN_ASCII) if ascii_only else shown, _STYLES[span.tone])
    return text
