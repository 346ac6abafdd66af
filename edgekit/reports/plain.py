"""A page in lines and tables alone, for what draws no charts: a terminal, Markdown."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from edgekit.reports.page import (
    Cell,
    Chart,
    Code,
    Column,
    Counts,
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
    columns,
)

LEVELS = " ▁▂▃▄▅▆▇█"
"""A row of counts as characters, from none to the most."""
WIDEST_MATRIX = 12
"""Names of a matrix that is written out; a larger one gives its largest counts off the diagonal."""
PAIRS = 15


def in_lines(page: Page) -> Iterator[Line | Table]:
    """The page's lines and tables, and what stands for all else."""
    for item in page:
        if isinstance(item, (Line, Table)):
            yield item
        else:
            yield from plain(item)


def plain(item: Item) -> tuple[Line | Table, ...]:
    """Lines and tables that say what ``item`` shows."""
    if isinstance(item, (Line, Table)):
        return (item,)
    if isinstance(item, Heading):
        return (Line(""), Line(Span(item.text, "bold")))
    if isinstance(item, Tiles):
        rows = tuple((tile.name, tile.figure, tile.about) for tile in item.tiles)
        return (Table("", columns("", "figure", "about", prose=("about",)), rows),)
    if isinstance(item, Code):
        return (*((Line(item.title),) if item.title else ()), *(Line(f"    {line}") for line in item.text.splitlines()))
    if isinstance(item, Pictures):  # there is no saying one in words
        return ()
    return (numbers(item),)


def numbers(chart: Chart) -> Table:
    """What a chart shows, as a small table."""
    if isinstance(chart, Histograms):
        return _histograms(chart)
    if isinstance(chart, Shares):
        rows = tuple((row.name, f"{row.value:.2%}", f"({row.low:.2%} .. {row.high:.2%})") for row in chart.rows)
        return Table(chart.title, columns("", "share", "95 %", numbers=("share", "95 %")), rows)
    if isinstance(chart, Matrix):
        return _matrix(chart)
    return _scatter(chart)


def _histograms(chart: Histograms) -> Table:
    names = list(dict.fromkeys(name for row in chart.rows for name, _ in row.marks))
    first, last = span_of(chart.rows)
    below, beyond = edge(chart.bounds, first), edge(chart.bounds, last + 1)
    headings = columns("", "count", *names, f"{below} to {beyond}", numbers=("count", *names))
    rows = tuple(
        (
            row.name,
            f"{sum(row.counts):,}",
            *(f"{dict(row.marks)[name]:.3g}" if name in dict(row.marks) else "-" for name in names),
            levels,
        )
        for row in chart.rows
        for levels in [_levels(row.counts[first : last + 1])]
    )
    return Table(f"{chart.title}, in {chart.axis}", headings, rows)


def span_of(rows: Sequence[Counts]) -> tuple[int, int]:
    """The first and the last place at which any row has counts; (0, 0) where none has."""
    places = [place for row in rows for place, count in enumerate(row.counts) if count]
    return (min(places), max(places)) if places else (0, 0)


def edge(bounds: Sequence[float], place: int) -> str:
    """The lower bound of the counts at ``place``: 0 before the first bound, the last bound's ``more`` behind it."""
    if place <= 0:
        return "0"
    return f"{bounds[place - 1]:.2g}" if place <= len(bounds) else "more"


def _levels(counts: Sequence[int]) -> str:
    most = max(counts, default=0) or 1
    return "".join(LEVELS[-(-count * (len(LEVELS) - 1) // most)] for count in counts)


def _matrix(chart: Matrix) -> Table:
    if len(chart.names) <= WIDEST_MATRIX:
        cells = tuple((name, *map(str, counts)) for name, counts in zip(chart.names, chart.counts, strict=True))
        head = (Column(f"{chart.row} \\ {chart.column}"), *(Column(name, number=True) for name in chart.names))
        return Table(chart.title, head, cells)
    pairs = (
        (count, row, column) for row, counts in enumerate(chart.counts) for column, count in enumerate(counts) if row != column
    )
    most = heapq.nsmallest(PAIRS, filter(lambda pair: pair[0], pairs), key=lambda pair: (-pair[0], pair[1:]))  # of a million
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (chart.names[row], chart.names[column], f"{count:,}") for count, row, column in most
    )
    return Table(f"{chart.title}, the most frequent", columns(chart.row, chart.column, "count", numbers=("count",)), rows)


def _scatter(chart: Scatter) -> Table:
    rows = tuple(
        (point.label, f"{point.x:.4g}", f"{point.y:.4g}", Span("front", "good") if point.on_front else "")
        for point in chart.points
    )
    return Table(chart.title, columns("", chart.x_axis, chart.y_axis, " ", numbers=(chart.x_axis, chart.y_axis)), rows)
