"""The report of a bundle that was written in other people's formats."""

from __future__ import annotations

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Line, Page, Span, note


class Shipped(Part, frozen=True):
    """What was written for another program: ``form`` says which, ``folder`` where, ``files`` are paths in it.

    ``next`` is the command that uses it.
    """

    form: str
    folder: str
    files: tuple[str, ...]
    next: str

    def lines(self) -> Page:
        """Where it is, and how it is used."""
        return (Line(f"{self.form}: wrote {len(self.files)} files in {self.folder}"), Line(Span(f"next: {self.next}", "dim")))


class ShipReport(Report, frozen=True):
    """A bundle that exists, written in other formats; ``manifest_sha256`` says which it was."""

    bundle: str
    manifest_sha256: str
    shipped: tuple[Shipped, ...]
    notes: tuple[str, ...] = ()

    def page(self) -> Page:
        """A paragraph for each format."""
        return (*(line for each in self.shipped for line in each.lines()), *map(note, self.notes))
