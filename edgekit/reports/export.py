"""The report of an export."""

from __future__ import annotations

from typing import Literal

from edgekit.reports.base import Part, Report


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


class ExportReport(Report, frozen=True):
    """A bundle that was written.

    Errors are scale-normalised, against the original model in float64 on the golden inputs: ``float32_error`` of the
    original in its own dtype, ``exported_error`` of the file, measured in ``measured_in``. For an ONNX file that cannot be run in
    float64 there is no ``float32_error``; ``exported_error`` is then against the original.
    """

    bundle: str
    opset: int
    fold: FoldReport
    float32_error: float | None
    exported_error: float
    golden: str
    notes: tuple[str, ...]
    onnx_sha256: str
    onnx_bytes: int
    measured_in: str
