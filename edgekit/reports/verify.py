"""The report of a parity check."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.reports.base import Part, Report, Skipped, absent
from edgekit.reports.page import Cell, Column, Page, Table, columns, note, verdict
from edgekit.setups import Setup, shared_variant
from edgekit.tolerance import Tolerance


class OutputDiff(Part, frozen=True):
    """One output against its float64 reference.

    ``max_abs`` = max|y - r|, ``normalised`` = max|y - r| / max|r|, ``limit`` = atol + rtol max|r|; ``top1`` is the share
    of samples whose largest value is at the same place, or None where the output is not samples x classes.
    """

    name: str
    max_abs: float
    normalised: float
    limit: float
    top1: float | None
    problem: str = ""

    def within(self, tolerance: Tolerance) -> bool:
        """Whether the tolerance holds; a NaN holds nowhere."""
        return not self.problem and self.max_abs <= self.limit and (self.top1 is None or self.top1 >= tolerance.top1)


class ParityReport(Report, frozen=True):
    """A backend against a reference, over ``samples`` golden inputs.

    ``backend`` is the row's name in this report: the setup's backend, with what tells it from its namesakes where one backend
    stands there twice (``edgekit.setups.labels``).
    """

    reference: str
    backend: str
    samples: int
    tolerance: Tolerance
    outputs: tuple[OutputDiff, ...]
    facts: dict[str, str]
    setup: Setup

    @property
    def passed(self) -> bool:
        """Every output is within the tolerance."""
        return bool(self.outputs) and all(output.within(self.tolerance) for output in self.outputs)

    def page(self) -> Page:
        """A row for each output."""
        return (_table(f"parity against {self.reference}", (self,)),)


class VerifyReport(Report, frozen=True):
    """Every backend present against the bundle's golden outputs; ``notes`` are sentences about the bundle that fail nothing."""

    bundle: str
    onnx_sha256: str
    parities: tuple[ParityReport, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """At least one backend was checked and every one passed."""
        return bool(self.parities) and all(parity.passed for parity in self.parities)

    def page(self) -> Page:
        """A row for each output of each backend, and who did not take part."""
        reference = self.parities[0].reference if self.parities else "nothing"
        variant = shared_variant(parity.setup for parity in self.parities)
        table = _table(f"parity of {self.bundle}{variant}, against {reference}", self.parities)
        return (table, *map(note, self.notes), *absent(self.skipped))


def _table(title: str, parities: Sequence[ParityReport]) -> Table:
    numbers = ("samples", "max |y - r|", "of scale", "allowed", "top-1")
    headings = columns("backend", "output", *numbers, "", numbers=numbers, ranks={"samples": 3, "allowed": 2, "top-1": 1})
    rows = [(parity, output) for parity in parities for output in parity.outputs]
    if not any(output.problem for _, output in rows):
        return Table(title, headings, tuple(_row(*row) for row in rows))
    cells = tuple((*_row(parity, output), output.problem) for parity, output in rows)
    return Table(title, (*headings, Column("problem", prose=True)), cells)


def _row(parity: ParityReport, output: OutputDiff) -> tuple[Cell, ...]:
    return (
        parity.backend,
        output.name,
        str(parity.samples),
        "-" if output.problem else f"{output.max_abs:.2e}",
        "-" if output.problem else f"{output.normalised:.2e}",
        f"{output.limit:.2e}",
        "-" if output.top1 is None else f"{output.top1:.2%}",
        verdict(output.within(parity.tolerance)),
    )
