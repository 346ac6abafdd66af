"""The report of ``edgekit tune``: every way to run a bundle here, what each costs, and which to ship."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, TypeAlias, get_args

from edgekit.reports.base import Case, Part, Report, Skipped, absent
from edgekit.reports.page import Cell, Column, Line, Page, Point, Scatter, Span, Table, Tone, note, without_empty
from edgekit.setups import Setup

Metric: TypeAlias = Literal["median", "p99", "throughput"]
METRICS: tuple[Metric, ...] = get_args(Metric)
Standing: TypeAlias = Literal["chosen", "beaten", "slower", "over budget", "failed", "not reached"]


class AccuracyDifference(Part, frozen=True):
    """Accuracy less that of ``against`` on the same ``pictures``, a share of 1, with its 95 % interval (``edgekit.accuracy``)."""

    top1: float
    difference: float
    low: float
    high: float
    pictures: int
    against: str


class TuneRow(Part, frozen=True):
    """One way to run the bundle, as far as it was looked at; ``reason`` and ``figure``: why it is not chosen.

    ``load_ms``, ``first_ms`` (loading and the first call) and the memory are those of a fresh process with all threads, for all
    ways of a file and runtime alike: see ``edgekit.reports.fresh.Fresh``. ``median_ms``, end to end, and ``throughput``, samples
    a second, are of rounds that all ways shared, or of fresh processes where ``processes_ms`` holds the metric of each.
    ``p99_ms`` is of fresh processes, None where their calls are too few. ``size_bytes``: the file. ``on_front``: no other way is
    as fast by the metric, as accurate and as small in memory, and better in one of them. ``noise``: why times of its fresh
    processes are noisy; empty where they are not, or where it had none.
    """

    setup: Setup
    name: str
    standing: Standing
    reason: str = ""
    figure: str = ""
    parity: bool | None = None
    accuracy: AccuracyDifference | None = None
    size_bytes: int = 0
    load_ms: float | None = None
    first_ms: float | None = None
    memory_load_bytes: int | None = None
    memory_peak_bytes: int | None = None
    median_ms: float | None = None
    throughput: float | None = None
    p99_ms: float | None = None
    processes_ms: tuple[float, ...] = ()
    on_front: bool = False
    noise: str = ""

    def of(self, metric: Metric) -> float | None:
        """What the metric says of this way, less is better: milliseconds, or seconds a sample."""
        if metric == "throughput":
            return None if self.throughput is None else 1 / self.throughput
        return self.p99_ms if metric == "p99" else self.median_ms


class TuneReport(Report, frozen=True):
    """Which way to run ``bundle`` here is best by ``metric`` for batches of ``batch``, within ``budgets``.

    ``rows``: the chosen way first, then by the metric. ``command``: what runs the bundle so; empty where no way is within the
    budgets. ``open_questions``: sentences on what the measurements leave open, and what would decide it. ``kept_in``: the file
    that ``predict`` and ``--backend tuned`` obey; empty where none was written. ``stopped``: by what, and where.
    """

    bundle: str
    manifest_sha256: str
    batch: int
    metric: Metric
    budgets: tuple[str, ...]
    machine: dict[str, str]
    rows: tuple[TuneRow, ...]
    chosen: Setup | None = None
    command: str = ""
    open_questions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    kept_in: str = ""
    stopped: str = ""
    kept_as: ClassVar[str] = "tune"

    @property
    def passed(self) -> bool:
        """A way within the budgets was found, and all stages were gone through."""
        return self.chosen is not None and not self.stopped

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it."""
        return bool(self.stopped)

    @property
    def measured(self) -> bool:
        """Whether anything is known of any way."""
        return any(row.first_ms is not None or row.parity is not None or row.reason for row in self.rows)

    def page(self) -> Page:
        """The table, why others are not chosen, and the winner with its command at the end."""
        title = f"ways to run {self.bundle} here, batch {self.batch}, by {self.metric}"
        noises = list(dict.fromkeys(row.noise for row in self.rows if row.noise))
        marks = {noise: f"[{number}]" for number, noise in enumerate(noises, 1)}
        rows = tuple((*_row(row), Span(marks.get(row.noise, ""), "warn")) for row in self.rows)
        table = without_empty(Table(title, _COLUMNS, rows))
        legend = Line(
            "* on the Pareto front: no other is as fast, as accurate and as small. first, and memory before the finals: of a "
            "process with the most threads."
        )
        noisy = (Line(Span(f"{mark} {noise}", "warn")) for noise, mark in marks.items())
        return (table, *noisy, legend, *self._reasons(), *map(note, self.notes), *absent(self.skipped), *self._verdict())

    def figures(self) -> Page:
        """Speed against accuracy, or against memory where no accuracy was measured, of what passes parity."""
        timed = [row for row in self.rows if row.parity and row.median_ms is not None]
        judged = all(row.accuracy is not None for row in timed)
        points = tuple(
            Point(
                row.name,
                row.median_ms or 0.0,
                100 * row.accuracy.difference if row.accuracy is not None and judged else (row.memory_peak_bytes or 0) / 1e6,
                row.on_front,
            )
            for row in timed
        )
        y_axis = "accuracy less that of the original, points" if judged else "peak memory, MB"
        return (Scatter("ways that pass parity", "median of a call, ms", y_axis, points),) if points else ()

    def cases(self) -> tuple[Case, ...]:
        """That a way within the budgets was found, and that nothing failed which should run."""
        failed = tuple(Case(row.name, False, row.reason) for row in self.rows if row.standing == "failed")
        asked = f"no way within {', '.join(self.budgets)}" if self.budgets else "no way to run the bundle"
        return (Case("a way to ship", self.passed, "" if self.passed else self.stopped or asked), *failed)

    def _reasons(self) -> Iterator[Line]:
        """One line for each reason with all it is about; those that were only slower are told to readers who ask."""
        about: dict[tuple[Standing, str], list[str]] = {}
        for row in self.rows:
            if row.reason:
                about.setdefault((row.standing, row.reason), []).append(f"{row.name} ({row.figure})" if row.figure else row.name)
        for (standing, reason), names in about.items():
            when: Literal["always", "verbose"] = "verbose" if standing in ("slower", "beaten") else "always"
            yield Line((Span(standing, _TONES[standing]), f" {reason}: {', '.join(names)}"), when)

    def _verdict(self) -> Iterator[Line]:
        yield from (Line((Span("undecided", "warn"), f": {sentence}")) for sentence in self.open_questions)
        if self.stopped:
            known = "what is known is above" if self.measured else "nothing was measured until then"
            again = "" if self.chosen else ", and no way is chosen: run it again, perhaps with fewer ways by --backend"
            yield Line((Span("stopped", "warn"), f" {self.stopped}; {known}{again}"))
        if self.chosen is None and not self.stopped:
            asked = f" within {', '.join(self.budgets)}" if self.budgets else ""
            yield Line((Span("no way", "bad"), f" to run this bundle here is known{asked}"))
        if self.chosen is None:
            return
        yield Line(("ship ", Span(str(self.chosen), "good"), ": ", Span(self.command, "bold")))
        if self.kept_in:
            yield Line(f"kept in {self.kept_in}, which predict and --backend tuned obey on this machine")


_COLUMNS = (
    Column("", rank=0),
    Column("way"),
    Column("ms", number=True),
    Column("P99 ms", number=True, rank=3),
    Column("1/s", number=True, rank=5),
    Column("points", number=True, rank=1),
    Column("points (95 %)", number=True, rank=6),
    Column("peak MB", number=True, rank=2),
    Column("load MB", number=True, rank=7),
    Column("first ms", number=True, rank=4),
    Column("file MB", number=True, rank=5),
    Column("standing"),
    Column(""),
)
_TONES: dict[str, Tone] = {
    "chosen": "good", "beaten": "", "slower": "dim", "over budget": "warn", "failed": "bad", "not reached": "dim"
}  # fmt: skip


def _row(row: TuneRow) -> tuple[Cell, ...]:
    accuracy = row.accuracy
    return (
        "*" * row.on_front,
        row.name,
        _number(row.median_ms),
        _number(row.p99_ms),
        _number(row.throughput),
        "-" if accuracy is None else f"{100 * accuracy.difference:+.2f}",
        "" if accuracy is None else f"({100 * accuracy.low:+.2f} .. {100 * accuracy.high:+.2f})",
        _megabytes(row.memory_peak_bytes),
        _megabytes(row.memory_load_bytes),
        "-" if row.first_ms is None else f"{row.first_ms:,.0f}",
        f"{row.size_bytes / 1e6:.3g}",
        Span(row.standing, _TONES[row.standing]),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:,.0f}"
