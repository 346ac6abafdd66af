"""The report of ``edgekit runs``."""

from __future__ import annotations

import msgspec

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Cell, Column, Line, Page, Span, Table, columns, note


class Share(Part, frozen=True):
    """A share of pictures, and the bounds of its 95 % interval; None where it is not known of how many pictures it is."""

    value: float
    low: float | None = None
    high: float | None = None


class RunRow(Part, frozen=True):
    """A training. ``test`` is None where it has not ended, ``int8`` where it was not trained for int8.

    ``state`` is ``finished``, ``epoch 2 of 10`` by its checkpoint, ``int8 epoch 1 of 2``, ``failed``, ``damaged``, or what else
    the folder is; ``note`` says more of it in a sentence. ``settings``: recipe key -> its value as JSON.
    """

    run: str
    state: str
    model: str = ""
    parameters: int | None = None
    epochs: int = 0
    held_out: Share | None = None
    test: Share | None = None
    int8: Share | None = None
    seconds: float | None = None
    commit: str = ""
    changed: bool = False
    note: str = ""
    settings: dict[str, str] = msgspec.field(default_factory=dict)


HEADINGS = (
    Column("run", elides=True),
    Column("state"),
    Column("model", rank=4),
    Column("parameters", number=True, rank=6),
    Column("epochs", number=True, rank=3),
    Column("held out", number=True),
    Column("held out 95 %", rank=2),
    Column("test", number=True),
    Column("test 95 %", rank=1),
    Column("int8", number=True),
    Column("seconds", number=True, rank=5),
    Column("commit", rank=7),
)
"""The columns of the table; ``95 %``: the accuracy's interval."""


class RunsReport(Report, frozen=True):
    """Trainings side by side; ``differing``: the recipe keys in which the finished ones are not alike; ``plot``: a picture."""

    runs: tuple[RunRow, ...]
    differing: tuple[str, ...]
    plot: str | None = None

    def page(self) -> Page:
        """Figures, then a row for each key that differs."""
        if not self.runs:
            return (Line("there are no trainings; edgekit train RECIPE makes one"),)
        rows = tuple(map(_row, self.runs))
        told = [place for place in range(len(HEADINGS)) if any(row[place] for row in rows)]
        cells = tuple(tuple(row[place] for place in told) for row in rows)
        table = Table("trainings", tuple(HEADINGS[place] for place in told), cells, long=True)
        notes = (note(f"{run.run}: {run.note}") for run in self.runs if run.note)
        drawn = (Line(("drew ", Span(self.plot, "bold"))),) if self.plot else ()
        return (table, *notes, *self._differences(), *drawn)

    def _differences(self) -> Page:
        finished = [run for run in self.runs if run.settings]
        if not self.differing:
            return ()
        rows = tuple((key, *(run.settings.get(key, "-") for run in finished)) for key in self.differing)
        return (Table("the recipes differ in", columns("key", *(run.run for run in finished)), rows, long=True),)


def _row(run: RunRow) -> tuple[Cell, ...]:
    commit = run.commit[:10] + ("+" if run.changed else "")
    return (
        run.run,
        Span(run.state, "" if run.state == "finished" else "warn"),
        run.model,
        "" if run.parameters is None else f"{run.parameters:,}",
        str(run.epochs or ""),
        _share(run.held_out),
        _interval(run.held_out),
        _share(run.test),
        _interval(run.test),
        _share(run.int8),
        "" if run.seconds is None else f"{run.seconds:.0f}",
        commit,
    )


def _share(accuracy: Share | None) -> str:
    return "" if accuracy is None else f"{accuracy.value:.4f}"


def _interval(accuracy: Share | None) -> str:
    known = accuracy is not None and accuracy.low is not None and accuracy.high is not None
    return f"{accuracy.low:.3f} to {accuracy.high:.3f}" if accuracy is not None and known else ""
