"""The reports of folding and of ``edgekit export``."""

from __future__ import annotations

from typing import Literal

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Cell, Line, Page, Span, Table, columns, note
from edgekit.reports.ship import Shipped

_INTO = "folded into / kept because"
_SIDES = {"before": "", "after": " (behind it)", "beside": " (beside it)"}


class Obstacle(Part, frozen=True):
    """One obstacle to a fold.

    ``side``: the obstacle lies ``before`` or ``after`` the normalisation, or in the normalisation ``itself``. ``code`` is for
    programs, ``why`` for people. ``at`` is the operator's name in the graph.
    """

    side: Literal["before", "after", "itself"]
    code: str
    at: str
    why: str


class Fold(Part, frozen=True):
    """A folded normalisation: ``norm`` went into the layers ``into`` (module paths).

    ``side``: the layers are ``before`` or ``after`` the normalisation, or ``beside`` it: a convolution of the same input whose
    output is added to the norm's. ``nodes``: the number of BatchNormalization nodes that the unfolded norm is in an ONNX file; 0
    for a norm written out as arithmetic.
    """

    norm: str
    kind: str
    into: tuple[str, ...]
    side: Literal["before", "after", "beside"] = "before"
    nodes: int = 1


class Kept(Part, frozen=True):
    """A normalisation that stays, with the reason; ``nodes``: its number of BatchNormalization nodes in an ONNX file."""

    norm: str
    kind: str
    reason: str
    nodes: int = 1
    obstacles: tuple[Obstacle, ...] = ()


class FoldReport(Report, frozen=True):
    """Every normalisation of a model, folded or kept.

    Both errors are errors of scale. ``error_float64``: the folded against the unfolded model, both in float64.
    ``error_exported``: the exported file in its own dtype against the original in float64, on the golden inputs.
    """

    folded: tuple[Fold, ...]
    kept: tuple[Kept, ...]
    error_float64: float | None = None
    error_exported: float | None = None

    @property
    def before(self) -> int:
        """The number of normalisations before folding."""
        return len(self.folded) + len(self.kept)

    def page(self) -> Page:
        """A row for each normalisation, and the error of folding."""
        title = f"normalisations: {len(self.folded)} of {self.before} folded, {len(self.kept)} left"
        folded: tuple[tuple[Cell, ...], ...] = tuple((fold.norm, fold.kind, _where(fold)) for fold in self.folded)
        stayed = tuple((row.norm, row.kind, (Span("kept:", "warn"), f" {row.reason}")) for row in self.kept)
        page: Page = ()
        headings = columns("normalisation", "kind", _INTO, prose=(_INTO,))
        if self.before:
            page += (Table(title, headings, folded + stayed),)
        if self.error_float64 is not None:
            page += (Line(f"folded against unfolded in float64: {self.error_float64:.1e} of the scale"),)
        return page


def _where(fold: Fold) -> Cell:
    return Span(", ".join(fold.into) or "nothing: it changes nothing", "good"), _SIDES[fold.side]


class ExportReport(Report, frozen=True):
    """A written bundle.

    The errors are errors of scale against the original model in float64, on the golden inputs: ``original_error`` of the original
    in its own dtype, ``exported_error`` of the file, run in ``measured_in``. For an ONNX file that cannot be run in float64
    ``original_error`` is None, and ``exported_error`` is against the original. ``variant`` is the file's name in the bundle, such
    as ``float32`` or ``float16``. ``shipped``: what else was written of it.
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
    shipped: tuple[Shipped, ...] = ()

    def page(self) -> Page:
        """The folded normalisations, the file's error, the notes, and the bundle's path."""
        return (
            *self.fold.page(),
            Line(self._errors()),
            *map(note, self.notes),
            Line(("wrote ", Span(self.bundle, "bold"), f": ONNX opset {self.opset}, {self.onnx_bytes / 1e6:.2f} MB")),
            *(line for each in self.shipped for line in each.lines()),
        )

    def _errors(self) -> str:
        if self.original_error is None:
            return (
                f"folded file against the original on {self.golden}: {self.exported_error:.1e} of the scale "
                f"(both in {self.measured_in})"
            )
        return (
            f"against the original in float64 on {self.golden}: the original in its own dtype {self.original_error:.1e}, "
            f"the exported file {self.exported_error:.1e} of the scale (in {self.measured_in})"
        )
