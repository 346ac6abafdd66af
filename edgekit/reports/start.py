"""How a setup starts: loading, the first calls, the steady state and memory, each in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from edgekit.reports.base import Part
from edgekit.reports.fresh import Fresh
from edgekit.reports.page import Cell, Column, Line, Page, Span, Table
from edgekit.setups import Setup

CALLS_SHOWN = 8


class StartRow(Part, frozen=True):
    """What fresh processes measured of one setup, which ``backend`` names; ``failure``: why one of them gave no answer."""

    backend: str
    setup: Setup
    batch: int
    boundary: str
    processes: tuple[Fresh, ...]
    failure: str = ""

    @property
    def usual(self) -> Fresh:
        """The process whose first inference is the median one."""
        return sorted(self.processes, key=lambda process: process.first_ms)[(len(self.processes) - 1) // 2]

    def cells(self) -> tuple[Cell, ...]:
        """The medians over the processes."""
        if not self.processes:
            return (self.backend, *("-" for _ in _COLUMNS[1:]))
        return (
            self.backend,
            _ms(process.load_ms for process in self.processes),
            _ms(process.first_ms for process in self.processes),
            _ms(process.median_ms for process in self.processes),
            _mb([process.memory_load_bytes for process in self.processes]),
            _mb([process.memory_peak_bytes for process in self.processes]),
            _mb([process.gpu_memory_bytes for process in self.processes]),
        )


_COLUMNS = (
    Column("backend"),
    Column("load", number=True),
    Column("first", number=True),
    Column("steady", number=True),
    Column("memory of load", number=True, rank=2),
    Column("peak", number=True, rank=1),
    Column("on the GPU", number=True, rank=3),
)


def starts_page(rows: Sequence[StartRow]) -> Page:
    """A row for each setup, and its first calls."""
    if not rows:
        return ()
    count = max(len(row.processes) for row in rows)
    on_gpu = any(process.gpu_memory_bytes is not None for row in rows for process in row.processes)
    kept = len(_COLUMNS) if on_gpu else len(_COLUMNS) - 1
    title = f"start in ms and MB, batch {rows[0].batch}, {rows[0].boundary}, median of {count} fresh processes"
    return (
        Table(title, _COLUMNS[:kept], tuple(row.cells()[:kept] for row in rows)),
        *(Line(_first_calls(row)) for row in rows if row.processes),
        *(Line(Span(f"{row.backend} does not start: {row.failure}", "bad")) for row in rows if row.failure),
        Line("load: from the checked bundle to the open session, the runtime's import too; files are in the system's cache."),
        Line("memory of load: what loading added. peak: the most the process held, Python and edgekit too."),
    )


def _first_calls(row: StartRow) -> str:
    calls = row.usual.first_calls_ms[:CALLS_SHOWN]
    return f"first calls of {row.backend} in ms: {' '.join(f'{call:.3g}' for call in calls)}; steady {row.usual.median_ms:.3g}"


def _ms(values: Iterable[float]) -> str:
    return f"{statistics.median(values):.3g}"


def _mb(values: Sequence[int | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known) / 1e6:.0f}" if known else "-"
