"""The report of a parity check."""

from __future__ import annotations

from edgekit.reports.base import Part, Report, Skipped
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
    """A candidate against a reference, over ``samples`` golden inputs."""

    reference: str
    candidate: str
    samples: int
    tolerance: Tolerance
    outputs: tuple[OutputDiff, ...]
    facts: dict[str, str]

    @property
    def passed(self) -> bool:
        """Every output is within the tolerance."""
        return bool(self.outputs) and all(output.within(self.tolerance) for output in self.outputs)


class VerifyReport(Report, frozen=True):
    """Every runtime present against the bundle's golden outputs."""

    bundle: str
    onnx_sha256: str
    parities: tuple[ParityReport, ...]
    skipped: tuple[Skipped, ...]

    @property
    def passed(self) -> bool:
        """At least one runtime was checked and every one passed."""
        return bool(self.parities) and all(parity.passed for parity in self.parities)
