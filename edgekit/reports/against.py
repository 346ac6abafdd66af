"""The report of one bundle against another: pairs of fresh processes, and a verdict that can be no verdict."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from edgekit.reports.base import Part, Report
from edgekit.reports.fresh import Fresh
from edgekit.reports.page import Cell, Column, Line, Page, Span, Table, note
from edgekit.setups import Setup

Verdict: TypeAlias = Literal["slower", "not slower", "undecided"]
_SLOWER: dict[Verdict, Span] = {
    "slower": Span("yes", "bad"),
    "not slower": Span("no", "good"),
    "undecided": Span("undecided", "warn"),
}


class PairedRatio(Part, frozen=True):
    """What pairs of processes say of "A takes at most as long as B"; ratios are A's median over B's.

    ``ratio``: the median of the pairs' ratios. ``low`` and ``high``: its one-sided 99 % bounds, each by inverting the exact
    sign-flip test; 0 and None where so few pairs give none. ``p``: that test's probability, Holm's where several rows decide.
    Both hold for all looks at the pairs together: each look has its part of the 1 %.
    ``floor``: the ratio that as many pairs of a thing with itself exceed by chance once in a hundred, less 1, from the processes
    of each side beside one another in the same run.
    """

    pairs: int
    ratio: float
    low: float
    high: float | None
    p: float
    floor: float


class Judged(Part, frozen=True):
    """The verdict on one row, and why there is none; ``more_pairs``: about how many more would give one, if that many can.

    They are not to be added to these pairs: that is a look more than the risk was shared among. A new run with them all decides.
    """

    verdict: Verdict
    reason: str = ""
    more_pairs: int | None = None


class AgainstRow(Part, frozen=True):
    """One row that decides: a setup, which ``backend`` names as in ``LatencyReport``, a batch and a boundary.

    ``first`` are A's processes and ``second`` B's, a pair in each place. ``order``: which of a pair ran first, "AB" or "BA";
    empty where B is of another day.
    """

    backend: str
    batch: int
    boundary: str
    setup: Setup
    against_setup: Setup
    order: tuple[str, ...]
    first: Annotated[tuple[Fresh, ...], Meta(min_length=1)]
    second: Annotated[tuple[Fresh, ...], Meta(min_length=1)]
    evidence: PairedRatio
    judged: Judged

    @property
    def name(self) -> str:
        """Its name in a sentence."""
        return f"{self.backend}, batch {self.batch}, {self.boundary}"


class Control(Part, frozen=True):
    """edgekit's reference network, timed in both runs by ``setup``; ``low`` and ``high`` are the bounds of now over then.

    They share the risk of 0.01 with the bounds of the row that is judged: 99.5 % each.
    """

    setup: Setup
    first: Annotated[tuple[Fresh, ...], Meta(min_length=1)]
    second: Annotated[tuple[Fresh, ...], Meta(min_length=1)]
    ratio: float
    low: float
    high: float | None
    moved: bool


class Stored(Part, frozen=True):
    """B as a report of another day: its file, what of machine and runtime differs (name -> then and now), and the controls."""

    file: str
    differs: dict[str, str]
    controls: tuple[Control, ...]
    informs_only: str = ""


class AgainstReport(Report, frozen=True):
    """Whether bundle A is slower than ``against`` by more than ``limit``, a share of 1.

    ``undecided_passes``: the user takes no verdict as a pass. ``looks``: after how many pairs a row is judged, unless an earlier
    look has decided it; none where B is a stored report.
    """

    bundle: str
    bundle_sha256: str
    against: str
    against_sha256: str
    machine: dict[str, str]
    limit: float
    seconds: float
    seed: int
    rows: Annotated[tuple[AgainstRow, ...], Meta(min_length=1)]
    undecided_passes: bool = False
    stored: Stored | None = None
    looks: tuple[int, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Slower where a row is; not slower where every row is that; else undecided."""
        verdicts = {row.judged.verdict for row in self.rows}
        return next((verdict for verdict in ("slower", "undecided") if verdict in verdicts), "not slower")

    @property
    def passed(self) -> bool:
        """Not slower, or undecided where that passes."""
        return self.verdict == "not slower" or (self.verdict == "undecided" and self.undecided_passes)

    @property
    def undecided(self) -> bool:
        """No verdict, and the user does not take that as a pass: exit code 3."""
        return self.verdict == "undecided" and not self.undecided_passes

    def page(self) -> Page:
        """A row for each that decides, why there is no verdict, and what was compared how."""
        informs = self.stored is not None and self.stored.informs_only  # which is told once
        title = f"{self.bundle} (A) against {self.against} (B), medians of fresh processes in ms"
        return (
            Table(title, _COLUMNS, tuple(map(_cells, self.rows))),
            *(
                Line(f"{row.name}: A by {row.setup}, B by {row.against_setup}")
                for row in self.rows
                if row.setup != row.against_setup
            ),
            *(
                Line(Span(f"{row.name}: {row.judged.reason}{self._remedy(row)}", "warn"))
                for row in self.rows
                if row.judged.reason and not informs
            ),
            *self._of_another_day(),
            Line(_LEGEND),
            Line(self._how()),
            Line((f"slower than B by more than {_percent(self.limit)}: ", *self._word())),
        )

    def _remedy(self, row: AgainstRow) -> str:
        """What is to be given so that there will probably be a verdict; empty where no number of pairs gives one."""
        if row.judged.more_pairs is None:
            return ""
        pairs = row.evidence.pairs + row.judged.more_pairs
        if self.stored is None:
            return f"; a new comparison with --pairs {pairs} will probably decide it"
        return f"; a stored report with --processes {pairs} will probably decide it"

    def _word(self) -> tuple[Span, ...]:
        passes = self.verdict == "undecided" and self.undecided_passes
        return (_SLOWER[self.verdict], *([Span(", which passes here")] if passes else []))

    def _how(self) -> str:
        pairs, times = max(row.evidence.pairs for row in self.rows), f"{self.seconds:g} s each"
        if self.stored is not None:
            return f"{pairs} processes of A now, {times}, with as many of the stored report's in turn."
        first = self.looks[0] if self.looks else pairs
        again = f"; {pairs} where {first} left it undecided" if pairs > first else ""
        return f"{first} pairs of processes, the first of each by a coin (--seed {self.seed}), {times}{again}."

    def _of_another_day(self) -> Iterator[Line]:
        if self.stored is None:
            return
        for control in self.stored.controls:
            moved = "moved: " if control.moved else "did not move: "
            high = "?" if control.high is None else f"{control.high:.3f}"
            yield Line(f"reference network on {control.setup} {moved}{control.ratio:.3f} ({control.low:.3f} .. {high}) of then")
        if self.stored.informs_only:
            yield note(f"{self.stored.file} informs and decides nothing: {self.stored.informs_only}")
            return
        yield Line("A/B is divided by that of the reference network, and its bounds are wider by the reference network's.")


_LEGEND = (
    "A/B: median ratio of the pairs, with one-sided 99 % bounds of the exact sign-flip test; p: that test's, of A taking at most "
    "as long as B; floor: what as many pairs of one bundle with itself show by chance."
)
_COLUMNS = (
    Column("batch", number=True),
    Column("boundary"),
    Column("backend"),
    Column("A", number=True, rank=1),
    Column("B", number=True, rank=1),
    Column("A/B", number=True),
    Column("(99 %)", number=True),
    Column("p", number=True, rank=3),
    Column("floor", number=True, rank=2),
    Column("pairs", number=True, rank=4),
    Column("slower"),
)


def _cells(row: AgainstRow) -> tuple[Cell, ...]:
    evidence = row.evidence
    high = "?" if evidence.high is None else f"{evidence.high:.3f}"
    return (
        str(row.batch),
        row.boundary,
        row.backend,
        f"{middle(row.first):.3g}",
        f"{middle(row.second):.3g}",
        f"{evidence.ratio:.3f}",
        f"({evidence.low:.3f} .. {high})",
        f"{evidence.p:.2g}",
        _percent(evidence.floor),
        str(evidence.pairs),
        _SLOWER[row.judged.verdict],
    )


def middle(processes: Sequence[Fresh]) -> float:
    """The median of the processes' medians in ms."""
    return statistics.median(process.median_ms for process in processes)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
