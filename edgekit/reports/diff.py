"""The report of ``edgekit diff``: what differs between two bundles."""

from __future__ import annotations

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Cell, Column, Line, Page, Span, Table, columns, note, verdict

SECTIONS = ("model", "preprocessing", "folds", "names", "variants", "figures", "reference", "origin", "files")
"""What a difference is about, in the order of the page."""


class FieldDiff(Part, frozen=True):
    """A key of the manifest and its value in each bundle as JSON; ``-`` where a bundle has none.

    In the section ``names`` it is a fold that both bundles have, of modules that are called otherwise.
    """

    section: str
    key: str
    first: str
    second: str


class TensorDiff(Part, frozen=True):
    """A tensor that is not the same in both files of a variant.

    ``max_abs`` = max|a - b|, ``of_scale`` = max|a - b| / max|a|, None where it is no number; ``share`` of the elements differs.
    """

    variant: str
    name: str
    outcome: str
    shape: str
    max_abs: float | None = None
    of_scale: float | None = None
    share: float | None = None


class OperatorDiff(Part, frozen=True):
    """An operator that another number of a variant's nodes has in each bundle."""

    variant: str
    operator: str
    first: int
    second: int


class MeasuredDiff(Part, frozen=True):
    """A figure that this machine has measured of both; it informs, and is no difference of the bundles."""

    command: str
    figure: str
    first: float
    second: float


class DiffReport(Report, frozen=True):
    """Two bundles; ``notes`` are sentences about how far their outputs are apart, and about what could not be compared.

    ``first_sha256`` and ``second_sha256`` are those of the manifests.
    """

    first: str
    second: str
    first_sha256: str
    second_sha256: str
    fields: tuple[FieldDiff, ...]
    tensors: tuple[TensorDiff, ...] = ()
    operators: tuple[OperatorDiff, ...] = ()
    measured: tuple[MeasuredDiff, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Nothing differs."""
        return not (self.fields or self.tensors or self.operators)

    def page(self) -> Page:
        """Weights, a row for each key of the manifest, what was measured of both, and at the end whether anything differs."""
        differing = [section for section in SECTIONS if any(row.section == section for row in self.fields)]
        found = [*(["weights"] if self.tensors else []), *(["operators"] if self.operators else []), *differing]
        last = ("nothing differs",) if self.passed else (f"{self.first} and {self.second} differ in: {', '.join(found)}",)
        return (
            *self._weights(),
            *self._operators(),
            *self._fields(),
            *self._measured(),
            *map(note, self.notes),
            Line((verdict(True), ": ", *last) if self.passed else (Span("differs: ", "warn"), *last)),
        )

    def _weights(self) -> Page:
        if not self.tensors:
            return ()
        numbers = ("max |a - b|", "of scale", "elements")
        headings = (
            Column("tensor", elides=True),
            *columns("variant", "", "shape", *numbers, numbers=numbers, ranks={"variant": 3, "shape": 2, "elements": 1}),
        )
        rows = tuple(map(_tensor, sorted(self.tensors, key=lambda row: -(row.of_scale or 0.0))))
        return (Table(f"{len(rows):,} tensors differ, the furthest first", headings, rows, long=True),)

    def _operators(self) -> Page:
        if not self.operators:
            return ()
        rows = tuple((row.operator, row.variant, str(row.first), str(row.second)) for row in self.operators)
        return (Table("nodes by operator", columns("operator", "variant", "A", "B", numbers=("A", "B")), rows),)

    def _fields(self) -> Page:
        if not self.fields:
            return ()
        ordered = sorted(self.fields, key=lambda row: SECTIONS.index(row.section))
        rows: tuple[tuple[Cell, ...], ...] = tuple((row.key, row.section, row.first, row.second) for row in ordered)
        headings = columns("key of manifest.json", "about", "A", "B", prose=("A", "B"), ranks={"about": 1})
        return (Table(f"A: {self.first}, B: {self.second}", headings, rows, long=True),)

    def _measured(self) -> Page:
        if not self.measured:
            return ()
        rows = tuple(
            (
                row.figure,
                row.command,
                f"{row.first:.4g}",
                f"{row.second:.4g}",
                f"{row.second / row.first:.3f}" if row.first else "-",
            )
            for row in self.measured
        )
        title = "last measured on this machine, not side by side; edgekit bench A --against B decides"
        return (Table(title, columns("figure", "by", "A", "B", "B / A", numbers=("A", "B", "B / A"), ranks={"by": 1}), rows),)


def _tensor(row: TensorDiff) -> tuple[Cell, ...]:
    return (
        row.name,
        row.variant,
        row.outcome,
        row.shape,
        "-" if row.max_abs is None else f"{row.max_abs:.2e}",
        "-" if row.of_scale is None else f"{row.of_scale:.2e}",
        "-" if row.share is None else f"{row.share:.1%}",
    )
