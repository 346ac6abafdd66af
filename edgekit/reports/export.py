"""The report of an export."""

from __future__ import annotations

from typing import Literal

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Cell, Line, Page, Span, Table, columns, note

_INTO = "folded into / kept because"
_SIDES = {"before": "", "after": " (behind it)", "beside": " (beside it)"}


class Obstacle(Part, frozen=True):
    """One thing that stands against a fold.

    ``side``: ``before`` or ``after`` the normalisation, or it ``itself``; ``code`` for programs; ``at`` the operator's name in
    the graph; ``why`` for people.
    """

    side: Literal["before", "after", "itself"]
    code: str
    at: str
    why: str


class Fold(Part, frozen=True):
    """A normalisation that is gone: ``norm`` was folded into the layers ``into`` (module paths).

    They are ``before`` it, ``after`` it, or ``beside`` it: convolutions of the same value that are added to it.

    ``nodes`` is how many BatchNormalization nodes it would have been in an ONNX file: 0 for one that was written out.
    """

    norm: str
    kind: str
    into: tuple[str, ...]
    side: Literal["before", "after", "beside"] = "before"
    nodes: int = 1


class Kept(Part, frozen=True):
    """A normalisation that stays, and why. ``nodes`` is how many BatchNormalization nodes it leaves in an ONNX file."""

    norm: str
    kind: str
    reason: str
    nodes: int = 1
    obstacles: tuple[Obstacle, ...] = ()


class FoldReport(Report, frozen=True):
    """Every normalisation of a model, folded or kept.

    ``error_float64`` is the scale-normalised difference between the folded and the unfolded model, both in float64;
    ``error_exported`` that between what was exported, in its own dtype, and the original in float64 on the golden inputs.
    """

    folded: tuple[Fold, ...]
    kept: tuple[Kept, ...]
    error_float64: float | None = None
    error_exported: float | None = None

    @property
    def before(self) -> int:
        """How many normalisations there were."""
        return len(self.folded) + len(self.kept)

    def page(self) -> Page:
        """A row for each normalisation, and what folding changed."""
        title = f"normalisations: {len(self.folded)} of {self.before} folded, {len(self.kept)} left"
        folded: tuple[tuple[Cell, ...], ...] = tuple((fold.norm, fold.kind, _where(fold)) for fold in self.folded)
        kept = tuple((row.norm, row.kind, (Span("kept:", "warn"), f" {row.reason}")) for row in self.kept)
        page: Page = ()
        headings = columns("normalisation", "kind", _INTO, prose=(_INTO,))
        if self.before:
            page += (Table(title, headings, folded + kept),)
        if self.error_float64 is not None:
            page += (Line(f"folded against unfolded in float64: {self.error_float64:.1e} of the scale"),)
        return page


def _where(fold: Fold) -> Cell:
    return Span(", ".join(fold.into) or "nothing: it changes nothing", "good"), _SIDES[fold.side]


class ExportReport(Report, frozen=True):
    """A bundle that was written.

    Errors are scale-normalised, against the original model in float64 on the golden inputs: ``original_error`` of the
    original in its own dtype, ``exported_error`` of the file, measured in ``measured_in``. For an ONNX file that cannot be run in
    float64 there is no ``original_error``; ``exported_error`` is then against the original. ``variant`` names the file in the
    bundle, as ``float32`` or ``float16``.
    """

    bundle: str
    opset: int
    fold: FoldReport
    original_error: float | None
    exported_error: float
    golden: str
    notes: tuple[str, ...]
    onnx_sha256: str
    onnx_bytes: int
    measured_in: str
    variant: str

    def page(self) -> Page:
        """What was folded, how far the file is from the original, and where it is."""
        return (
            *self.fold.page(),
            Line(self._errors()),
            *map(note, self.notes),
            Line(("wrote ", Span(self.bundle, "bold"), f": ONNX opset {self.opset}, {self.onnx_bytes / 1e6:.2f} MB")),
        )

    def _errors(self) -> str:
        if self.original_error is None:
            return (
                f"folded file against the original on {self.golden}: {self.exported_error:.1e} of the scale "
                f"(both in {self.measured_in})"
            )
        return (
            f"against the original in float64 on {self.golden}: the original in its own dtype {self.original_error:.1e}, "
            f"what was exported {self.exported_error:.1e} of the scale (in {self.measured_in})"
        )
