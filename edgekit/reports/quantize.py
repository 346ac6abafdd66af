"""The report of ``edgekit quantize``."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Cell, Line, Page, Span, Table, columns, note, verdict


class Attempt(Part, frozen=True):
    """A way to choose ranges that was tried: its SNR in dB on the calibration samples, against the float32 file.

    ``equalised``: neighbouring convolutions had shared out the ranges of their weights before.
    """

    method: str
    bias_correction: bool
    snr_db: float
    chosen: bool = False
    equalised: bool = False


class KeptNode(Part, frozen=True):
    """A node that stayed in the first variant's precision; ``module`` is the path of the PyTorch module, where it is known."""

    node: str
    operator: str
    module: str
    reason: str


class Sensitivity(Part, frozen=True):
    """The SNR in dB of a file in which this layer alone is of the new precision; ``kept``: it went back to float."""

    node: str
    module: str
    snr_db: float
    kept: bool = False


class AccuracyChange(Part, frozen=True):
    """Top-1 of the first variant and of the new one on the same ``pictures``, shares of 1; ``low`` to ``high``: 95 % interval.

    ``flips`` pictures are of another class. ``of`` says in words which pictures.
    """

    of: str
    pictures: int
    before: float
    after: float
    low: float
    high: float
    flips: int


class QuantizeReport(Report, frozen=True):
    """A bundle with one more variant.

    ``snr_db`` is 10 log10(sum r^2 / sum (y - r)^2) over the first golden part, against the bundle's float64 reference, as ONNX
    Runtime computes the file without optimisations; ``asked_db`` is what ``verify`` asks for. ``speed_up``: the first variant's
    median latency over this one's in ONNX Runtime on this CPU, batch 1; None if it was not timed, or the timing was noisy.
    ``within_budget``: None without a budget.
    """

    bundle: str
    variant: str
    file: str
    onnx_sha256: str
    onnx_bytes: int
    bytes_before: int
    converted: int
    snr_db: float
    asked_db: float | None
    calibration: str = ""
    attempts: tuple[Attempt, ...] = ()
    kept: tuple[KeptNode, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    accuracy: tuple[AccuracyChange, ...] = ()
    speed_up: float | None = None
    budget: str = ""
    within_budget: bool | None = None
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """False where a budget does not hold."""
        return self.within_budget is not False

    def page(self) -> Page:
        """What was tried, what stayed in float, what it costs, and where the bundle is."""
        return (
            *self._attempts(),
            *self._sensitivity(),
            *self._kept(),
            *self._accuracy(),
            *map(note, self.notes),
            *self._verdict(),
        )

    def _attempts(self) -> Page:
        if not self.attempts:
            return ()
        rows: list[tuple[Cell, ...]] = [
            (
                row.method,
                "yes" if row.bias_correction else "no",
                "yes" if row.equalised else "no",
                f"{row.snr_db:.1f}",
                Span("chosen", "good") if row.chosen else "",
            )
            for row in self.attempts
        ]
        headings = columns("ranges", "bias correction", "equalised", "SNR (dB)", "", numbers=("SNR (dB)",))
        return (Table(f"ranges from {self.calibration}", headings, tuple(rows)),)

    def _sensitivity(self) -> Page:
        if not self.sensitivity:
            return ()
        headings = columns("node", "module", "SNR alone (dB)", "", numbers=("SNR alone (dB)",))
        rows: list[tuple[Cell, ...]] = [
            (row.node, row.module, f"{row.snr_db:.1f}", Span("kept in float", "warn") if row.kept else "")
            for row in self.sensitivity
        ]
        return (Table("what each layer costs by itself, the worst first", headings, tuple(rows), long=True),)

    def _kept(self) -> Page:
        return (kept_table("", self.kept, self.converted),) if self.kept else ()

    def _accuracy(self) -> Page:
        return tuple(
            Line(
                f"accuracy on {row.of}: {row.before:.4f} -> {row.after:.4f}, {100 * (row.after - row.before):+.2f} points "
                f"(95 % interval {100 * row.low:+.2f} to {100 * row.high:+.2f}), {row.flips} of {row.pictures} flipped"
            )
            for row in self.accuracy
        )

    def _verdict(self) -> Page:
        asked = f" (verify asks for {self.asked_db:.1f})" if self.asked_db is not None else ""
        speed = f", {self.speed_up:.2f} times as fast as float32 in ONNX Runtime here" if self.speed_up is not None else ""
        size = f"{self.onnx_bytes / 1e6:.2f} MB instead of {self.bytes_before / 1e6:.2f}, SNR {self.snr_db:.1f} dB"
        wrote = Line(("wrote ", Span(self.bundle, "bold"), f" with {self.variant}: {size}{asked}{speed}"))
        if self.within_budget is None:
            return (wrote,)
        return (wrote, Line((verdict(self.within_budget), f": the budget {self.budget}")))


def kept_table(whose: str, kept: Sequence[KeptNode], converted: int) -> Table:
    """The nodes that stayed in float beside those ``converted``, and why; ``whose`` they are begins its title."""
    headings = columns("module", "node", "operator", "kept in float because", prose=("kept in float because",))
    rows: tuple[tuple[Cell, ...], ...] = tuple((row.module, row.node, row.operator, row.reason) for row in kept)
    return Table(f"{whose}{len(kept)} of {converted + len(kept)} layers stay in float", headings, rows, long=True)
