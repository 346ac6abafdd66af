"""Draws the page of a report on a console."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from edgekit.reports.page import Cell, Page, Table, Tone, spans, visible

_STYLES: dict[Tone, str] = {"": "", "good": "green", "bad": "red", "warn": "yellow", "dim": "dim", "bold": "bold"}


def draw(page: Page, console: Console) -> None:
    """Print ``page``; its text is shown as it is, whatever markup or control characters stand in it."""
    ascii_only = console.options.ascii_only
    for item in page:
        drawn = _grid(item, ascii_only) if isinstance(item, Table) else _text(item.content, ascii_only)
        console.print(drawn, highlight=False)


def _grid(table: Table, ascii_only: bool) -> Grid:
    title = _text(table.title, ascii_only, "bold") if table.title else None
    grid = Grid(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        grid.add_column(_text(column.heading, ascii_only), justify="right" if column.number else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(_text(cell, ascii_only) for cell in row))
    return grid


def _text(content: Cell, ascii_only: bool, style: str = "") -> Text:
    """Written out before rich measures it, so that a table leaves room for it."""
    text = Text(style=style)
    for span in spans(content):
        shown = visible(span.text)
        text.append(shown.replace("≤", "<=") if ascii_only else shown, _STYLES[span.tone])
    return text
