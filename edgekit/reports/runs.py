"""The report of ``edgekit runs``."""

from __future__ import annotations

import msgspec

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Cell, Line, Page, Span, Table, columns


class RunRow(Part, frozen=True):
    """A training. ``low`` and ``high`` bound the test accuracy's 95 % interval; None where it has not ended.

    ``state`` is ``finished``, ``unfinished``, or what is wrong with the folder. ``settings``: recipe key -> its value as JSON.
    """

    run: str
    state: str
    model: str = ""
    parameters: int | None = None
    epochs: int = 0
    holdout_accuracy: float | None = None
    test_accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    seconds: float | None = None
    commit: str = ""
    changed: bool = False
    settings: dict[str, str] = msgspec.field(default_factory=dict)


class RunsReport(Report, frozen=True):
    """Trainings side by side; ``differing``: the recipe keys in which the finished ones are not alike; ``plot``: a picture."""

    runs: tuple[RunRow, ...]
    differing: tuple[str, ...]
    plot: str | None = None

    def page(self) -> Page:
        """Figures, then a row for each key that differs."""
        if not self.runs:
            return (Line("there are no trainings; edgekit train RECIPE makes one"),)
        numbers = ("parameters", "epochs", "held out", "test", "seconds")
        ranks = {"commit": 3, "parameters": 2, "seconds": 2, "95 % interval": 1}
        headings = columns(
            "run", "state", "model", "parameters", "epochs", "held out", "test", "95 % interval", "seconds", "commit",
            numbers=numbers, ranks=ranks,
        )  # fmt: skip
        table = Table("trainings", headings, tuple(map(_row, self.runs)), long=True)
        drawn = (Line(("drew ", Span(self.plot, "bold"))),) if self.plot else ()
        return (table, *self._differences(), *drawn)

    def _differences(self) -> Page:
        finished = [run for run in self.runs if run.settings]
        if not self.differing:
            return ()
        rows = tuple((key, *(run.settings.get(key, "-") for run in finished)) for key in self.differing)
        return (Table("the recipes differ in", columns("key", *(run.run for run in finished)), rows, long=True),)


def _row(run: RunRow) -> tuple[Cell, ...]:
    commit = run.commit[:10] + ("+" if run.changed else "")
    interval = "" if run.low is None or run.high is None else f"{run.low:.4f} to {run.high:.4f}"
    state = Span(run.state, "" if run.state == "finished" else "warn")
    return (
        run.run, state, run.model, "" if run.parameters is None else f"{run.parameters:,}", str(run.epochs or ""),
        _share(run.holdout_accuracy), _share(run.test_accuracy), interval,
        "" if run.seconds is None else f"{run.seconds:.0f}", commit,
    )  # fmt: skip


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
