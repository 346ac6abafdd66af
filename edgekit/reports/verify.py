"""The report of a parity check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from edgekit.reports.base import Part, Report, Skipped, absent
from edgekit.reports.page import Cell, Column, Line, Page, Span, Table, columns, note, verdict
from edgekit.setups import Setup, shared_variant
from edgekit.tolerance import Bar, Tolerance


class OutputDiff(Part, frozen=True):
    """One output y against its float64 reference r.

    ``max_abs`` = max|y - r|, ``mean_abs`` = mean|y - r|, ``normalised`` = max|y - r| / max|r|; ``snr_db`` = 10 log10(sum r^2 /
    sum (y - r)^2), None without a difference. ``of_limit`` is the largest |y - r| in units of what is allowed at that place,
    ``worst`` the place and ``limit`` what is allowed there.

    For outputs of samples x classes, else None: ``top1`` and ``top5`` are the shares of samples whose largest reference value is
    the output's largest, or among its five largest; ``flips`` samples have their largest value elsewhere, and ``margin`` is the
    most that the reference had between the two, of scale. ``cause``: what the error of a failing output looks like (see
    ``edgekit.parity.cause``); a hint, empty for no known pattern.
    """

    name: str
    max_abs: float
    normalised: float
    limit: float
    of_limit: float
    top1: float | None
    problem: str = ""
    mean_abs: float = 0.0
    worst: tuple[int, ...] = ()
    snr_db: float | None = None
    top5: float | None = None
    flips: int | None = None
    margin: float | None = None
    cause: str = ""

    def within(self, bar: Bar) -> bool:
        """Whether the bar that the output was compared by holds; a NaN holds nowhere."""
        return not self.problem and self.of_limit <= 1 and (self.top1 is None or self.top1 >= bar.top1)


class ParityReport(Report, frozen=True):
    """A backend against a reference, over ``samples`` golden inputs.

    ``backend`` is the row's name in this report: the setup's backend, with what tells it from its namesakes where one backend
    stands there twice (``edgekit.setups.labels``). ``noise_factor``: how many times the recorded noise floor was allowed (see
    ``edgekit.tolerance.NoiseBar``); None where ``tolerance`` was the bar.
    """

    reference: str
    backend: str
    samples: int
    tolerance: Tolerance
    outputs: tuple[OutputDiff, ...]
    facts: dict[str, str]
    setup: Setup
    noise_factor: float | None = None

    @property
    def passed(self) -> bool:
        """Every output is within the tolerance."""
        return bool(self.outputs) and all(output.within(self.tolerance) for output in self.outputs)

    def page(self) -> Page:
        """A row for each output."""
        return (_table(f"parity against {' '.join(self.reference.split())}", (self,)), *_causes((self,)))


class Check(Part, frozen=True):
    """One claim of the manifest, held against the files.

    ``code`` is for programs and for ``--allow``, ``text`` for people. ``outcome``: ``allowed`` failed and the caller accepts it;
    ``unchecked`` could not be checked on this machine; ``note`` fails nothing.
    """

    code: str
    outcome: Literal["pass", "fail", "allowed", "unchecked", "note"]
    text: str = ""


class VerifyReport(Report, frozen=True):
    """Every backend present against the bundle's golden outputs, and the manifest's claims against its files.

    ``notes`` are sentences about the bundle that fail nothing.
    """

    bundle: str
    onnx_sha256: str
    parities: tuple[ParityReport, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def passed(self) -> bool:
        """At least one backend was checked, every one passed, and no claim of the manifest is contradicted."""
        contradicted = any(check.outcome == "fail" for check in self.checks)
        return bool(self.parities) and all(parity.passed for parity in self.parities) and not contradicted

    def page(self) -> Page:
        """A row for each output of each backend, and who did not take part."""
        reference = self.parities[0].reference if self.parities else "nothing"
        variant = shared_variant(parity.setup for parity in self.parities)
        table = _table(f"parity of {self.bundle}{variant}, against {' '.join(reference.split())}", self.parities)
        return (table, *_causes(self.parities), *_claims(self.checks), *map(note, self.notes), *absent(self.skipped))


def _causes(parities: Sequence[ParityReport]) -> Iterator[Line]:
    """A line for what each failing output looks like."""
    for parity in parities:
        for output in parity.outputs:
            if output.cause:
                yield Line((Span(f"{parity.backend}, {output.name}: ", "bad"), f"looks like this: {output.cause}"))
    if any(not parity.passed for parity in parities):
        yield Line(("look inside with ", Span("edgekit verify --bisect", "good")))


_SAID: dict[str, Span] = {
    "fail": Span("FAIL", "bad"),
    "allowed": Span("allowed:", "warn"),
    "unchecked": Span("not checked:", "dim"),
    "note": Span("note:", "warn"),
}


def _claims(checks: Sequence[Check]) -> Iterator[Line]:
    """A line for every claim that does not simply hold, and one that counts those that do."""
    for check in checks:
        if check.outcome in _SAID:
            remedy = f" (--allow {check.code} accepts it)" if check.outcome == "fail" else ""
            yield Line((_SAID[check.outcome], f" {check.text}{remedy}"))
    held = sum(check.outcome == "pass" for check in checks)
    if checks:
        yield Line(f"manifest: {held} of {sum(check.outcome not in ('note', 'unchecked') for check in checks)} claims hold")


def _table(title: str, parities: Sequence[ParityReport]) -> Table:
    numbers = ("samples", "max |y - r|", "of scale", "of limit", "SNR dB", "top-1", "flips")
    ranks = {"flips": 4, "SNR dB": 3, "samples": 2, "top-1": 1}
    headings = columns("backend", "output", *numbers, "", numbers=numbers, ranks=ranks)
    rows = [(parity, output) for parity in parities for output in parity.outputs]
    bars = dict.fromkeys(_bar(parity) for parity in parities)
    title = f"{title}; allowed: {', or '.join(bars)}" if bars else title
    if not any(output.problem for _, output in rows):
        return Table(title, headings, tuple(_row(*row) for row in rows))
    cells = tuple((*_row(parity, output), output.problem) for parity, output in rows)
    return Table(title, (*headings, Column("problem", prose=True)), cells)


def _bar(parity: ParityReport) -> str:
    """What the rows of one backend were held to."""
    tolerance = parity.tolerance
    rtol = f"{tolerance.rtol:g} of the scale"
    if parity.noise_factor is not None:
        return f"{parity.noise_factor:g} times the measured noise, at most {rtol}"
    return f"{tolerance.atol:g} + {rtol}" if tolerance.atol else rtol


def _row(parity: ParityReport, output: OutputDiff) -> tuple[Cell, ...]:
    return (
        parity.backend,
        output.name,
        str(parity.samples),
        "-" if output.problem else f"{output.max_abs:.2e}",
        "-" if output.problem else f"{output.normalised:.2e}",
        "-" if output.problem else f"{output.of_limit:.2g}",
        "-" if output.snr_db is None else f"{output.snr_db:.0f}",
        "-" if output.top1 is None else f"{output.top1:.2%}",
        "-" if output.flips is None else str(output.flips),
        verdict(output.within(parity.tolerance)),
    )
