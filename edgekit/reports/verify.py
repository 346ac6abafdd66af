"""The report of a parity check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from msgspec import field

from edgekit.errors import FETCH_AGAIN
from edgekit.reports.base import Case, Part, Report, Skipped, absent
from edgekit.reports.page import Cell, Column, Counts, Histograms, Line, Page, Span, Table, columns, note, verdict
from edgekit.setups import Setup, shared_variant
from edgekit.tolerance import UNMEASURED_FACTOR, Bar, Tolerance, apart

ERROR_BOUNDS = tuple(float(f"{10 ** (quarter / 4):.3g}") for quarter in range(-40, 1))
"""Errors of scale between which an output's places are counted: four to a decade, from 1e-10 to 1."""


class OutputDiff(Part, frozen=True):
    """One output y against its float64 reference r.

    ``max_abs`` = max|y - r|, ``mean_abs`` = mean|y - r|, ``normalised`` = max|y - r| / max|r|; ``snr_db`` = 10 log10(sum r^2 /
    sum (y - r)^2), None without a difference. ``of_limit`` is the largest |y - r| in units of what is allowed at that place,
    ``worst`` the place and ``limit`` what is allowed there; where the bar measures the whole output too, ``of_limit`` is the
    largest share of what is allowed by any measure, and ``beyond`` says in words which one fails. ``own_steps``: max|y - own| in
    steps of 1/127 of the scale, ``own`` being the output that the variant has recorded; None where it is not held to that.
    ``histogram`` counts the places by |y - r| / max|r|, between ``ERROR_BOUNDS``; of a large output, of evenly spread places.

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
    own_steps: float | None = None
    beyond: str = ""
    histogram: tuple[int, ...] = ()

    def within(self, bar: Bar) -> bool:
        """Whether the bar that the output was compared by holds; a NaN holds nowhere."""
        return not self.problem and self.of_limit <= 1 and (self.top1 is None or self.top1 >= bar.top1)


class ParityReport(Report, frozen=True):
    """A backend against a reference, over ``samples`` golden inputs.

    ``backend`` is the row's name in this report: the setup's backend, with what tells it from its namesakes where one backend
    stands there twice (``edgekit.setups.labels``). ``noise_factor``: how many times the recorded noise floor was allowed (see
    ``edgekit.tolerance.NoiseBar``); None where ``tolerance`` was the bar. ``snr_db`` and ``steps`` are asked beside it of a
    converted variant (see ``edgekit.parity.converted.ConvertedBar``), None where they are not. ``as_written``: the file was run
    node by node, as its outputs were recorded, so that a changed file shows.
    """

    reference: str
    backend: str
    samples: int
    tolerance: Tolerance
    outputs: tuple[OutputDiff, ...]
    facts: dict[str, str]
    setup: Setup
    noise_factor: float | None = None
    snr_db: float | None = None
    steps: float | None = None
    as_written: bool = False

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

    ``notes`` are sentences about the bundle that fail nothing. ``onnx_sha256`` is that of the first row's file; ``variants``:
    variant -> the sha256 of its file, of all that were run. ``not_run``: variants that were asked for and that nothing here runs.
    """

    bundle: str
    onnx_sha256: str
    parities: tuple[ParityReport, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    variants: dict[str, str] = field(default_factory=dict)
    not_run: tuple[str, ...] = ()
    kept_as: ClassVar[str] = "verify"

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
        notes = (*map(note, self.notes), *absent(self.skipped))
        return (table, *_allowed(self.parities), *_causes(self.parities), *_claims(self.checks), *notes, *self._verdict())

    def figures(self) -> Page:
        """How far the places of each output are off, for each backend."""
        rows = tuple(
            Counts(_row_name(parity, output), output.histogram, (("largest", output.normalised),))
            for parity in self.parities
            for output in parity.outputs
            if output.histogram
        )
        axis = "error of scale, |y - r| / max|r|"
        return (Histograms("errors of every output value", axis, ERROR_BOUNDS, rows),) if rows else ()

    def cases(self) -> tuple[Case, ...]:
        """A case for each backend, and one for each claim of the manifest that could be checked."""
        parities = (Case(f"parity of {row.backend}", row.passed, "" if row.passed else _failure(row)) for row in self.parities)
        claims = (
            Case(f"manifest: {check.code}", {"fail": False, "unchecked": None}.get(check.outcome, True), check.text)
            for check in self.checks
            if check.outcome != "note"
        )
        return (*parities, *claims) if self.parities else (Case("parity", False, "no backend was checked"), *claims)

    def _verdict(self) -> Iterator[Line]:
        """What the reader of the last lines must know: pass, or who fails and what to do next."""
        for parity in self.parities:
            if not parity.passed:
                helps = Span(f"edgekit verify {self.bundle} --bisect", "good")
                yield Line((verdict(False), f": {_failure(parity)}; ", helps, " names the node"))
        failing = dict.fromkeys(check.code for check in self.checks if check.outcome == "fail")
        if failing:
            yield Line((verdict(False), f": the manifest's {', '.join(failing)}; {FETCH_AGAIN}, or accept with --allow"))
        if self.passed:
            allowed = dict.fromkeys(check.code for check in self.checks if check.outcome == "allowed")
            accepted = f"; accepted by --allow: {', '.join(allowed)}" if allowed else ""
            names = ", ".join(parity.backend for parity in self.parities)
            unknown = f"; nothing here ran {' and '.join(self.not_run)}" if self.not_run else ""
            yield Line((verdict(True), f": {names}{accepted}{unknown}"))


def _row_name(parity: ParityReport, output: OutputDiff) -> str:
    """The backend, and the output where there are several."""
    return parity.backend if len(parity.outputs) == 1 else f"{parity.backend}, {output.name}"


def _causes(parities: Sequence[ParityReport]) -> Iterator[Line]:
    """A line for what each failing output looks like."""
    for parity in parities:
        for output in parity.outputs:
            if output.cause:
                yield Line((Span(f"{parity.backend}, {output.name}: ", "bad"), f"looks like this: {output.cause}"))


def _failure(parity: ParityReport) -> str:
    """A clause: the backend, and which figures of its worst output miss which bars."""
    failing = [output for output in parity.outputs if not output.within(parity.tolerance)]
    if not failing:
        return f"{parity.backend} has no outputs"
    worst = max(failing, key=lambda output: (bool(output.problem), output.of_limit))
    if worst.problem:
        return f"{parity.backend}, {worst.name}: {worst.problem}"
    return f"{parity.backend}, {worst.name}: {', and '.join(_missed(parity, worst))}"


def _missed(parity: ParityReport, output: OutputDiff) -> Iterator[str]:
    """A clause for each bar that an output misses: its figure and the bar."""
    if output.beyond:
        yield output.beyond
    elif not output.of_limit <= 1:
        yield _beyond_limit(parity, output)
    asked = parity.tolerance.top1
    if output.top1 is not None and not output.top1 >= asked:
        share, least = apart(output.top1, asked, 2, "%")
        yield f"the largest value agrees in {share} of the samples, {least} are asked"


def _beyond_limit(parity: ParityReport, output: OutputDiff) -> str:
    """The bar of the worst place and how far off it is: of the scale where the bar is, else as a number."""
    tolerance = parity.tolerance
    if output.limit and parity.noise_factor is None and not tolerance.atol:
        off, allowed = apart(output.of_limit * tolerance.rtol, tolerance.rtol, 2)
        return f"off by {off} of the scale, {allowed} is allowed"
    off, allowed = apart(output.of_limit * output.limit if output.limit else output.max_abs, output.limit, 2)
    return f"|y - r| is {off} at {list(output.worst)}, {allowed} is allowed there"


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
    held = [check.outcome == "pass" for check in checks if check.outcome not in ("note", "unchecked")]
    if checks:
        broken = held.count(False)
        yield Line(f"manifest: {broken} of {len(held)} claims do not hold" if broken else f"manifest: {len(held)} claims hold")


def _table(title: str, parities: Sequence[ParityReport]) -> Table:
    rows = [(parity, output) for parity in parities for output in parity.outputs]
    own = any(output.own_steps is not None for _, output in rows)
    numbers = ["samples", "max |y - r|", "of scale", "of limit", "SNR dB", "top-1", "flips"]
    if own:
        numbers.insert(5, "own steps")
    ranks = {"flips": 4, "SNR dB": 3, "samples": 2, "top-1": 1}
    headings = columns("backend", "output", *numbers, "", numbers=numbers, ranks=ranks)
    bars = _bars(parities)
    title = f"{title}; allowed: {next(iter(bars))}" if len(bars) == 1 else title
    if not any(output.problem for _, output in rows):
        return Table(title, headings, tuple(_row(*row, own=own) for row in rows))
    cells = tuple((*_row(parity, output, own=own), output.problem) for parity, output in rows)
    return Table(title, (*headings, Column("problem", prose=True)), cells)


def _bars(parities: Sequence[ParityReport]) -> dict[str, list[str]]:
    """What the rows were held to -> the backends that were."""
    names: dict[str, list[str]] = {}
    for parity in parities:
        names.setdefault(_bar(parity), []).append(parity.backend)
    return names


def _allowed(parities: Sequence[ParityReport]) -> Iterator[Line]:
    """A line for each bar, where backends are held to different ones."""
    bars = _bars(parities)
    for bar, backends in bars.items() if len(bars) > 1 else ():
        yield Line(f"allowed for {', '.join(backends)}: {bar}")


def _bar(parity: ParityReport) -> str:
    """What the rows of one backend were held to."""
    tolerance = parity.tolerance
    rtol, top1 = f"{tolerance.rtol:g} of the scale", f"the largest value in place in {100 * tolerance.top1:.4g}% of the samples"
    if parity.snr_db is not None or parity.steps is not None:
        snr = [] if parity.snr_db is None else [f"SNR of at least {parity.snr_db:.1f} dB"]
        steps = [] if parity.steps is None else [f"{parity.steps:.3g} steps from its recorded outputs"]
        return ", ".join((*snr, f"{tolerance.rtol:.2g} of the scale", *steps, top1))
    if parity.noise_factor is not None:
        why = ", since this release was not measured at export" if parity.noise_factor == UNMEASURED_FACTOR else ""
        return f"{parity.noise_factor:g} times the measured noise{why}, at most {rtol}"
    numbers = f"{tolerance.atol:g} + {rtol}" if tolerance.atol else rtol
    return numbers if tolerance.top1 == 1 else f"{numbers}, {top1}"


def _row(parity: ParityReport, output: OutputDiff, *, own: bool) -> tuple[Cell, ...]:
    steps = "-" if output.own_steps is None or output.own_steps > 1e9 else f"{output.own_steps:.2g}"
    return (
        parity.backend,
        output.name,
        str(parity.samples),
        "-" if output.problem else f"{output.max_abs:.2e}",
        "-" if output.problem else f"{output.normalised:.2e}",
        "-" if output.problem else f"{output.of_limit:.2g}",
        "-" if output.snr_db is None else f"{output.snr_db:.0f}",
        *((steps,) if own else ()),
        "-" if output.top1 is None else f"{output.top1:.2%}",
        "-" if output.flips is None else str(output.flips),
        verdict(output.within(parity.tolerance)),
    )
