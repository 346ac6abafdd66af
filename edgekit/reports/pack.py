"""The reports of ``edgekit pack`` and ``edgekit unpack``."""

from __future__ import annotations

from edgekit.reports.base import Report
from edgekit.reports.page import Line, Page, Span, note


class PackReport(Report, frozen=True):
    """A bundle in one file: ``bytes`` is its size, ``files`` are the names of what is in it."""

    bundle: str
    manifest_sha256: str
    file: str
    sha256: str
    bytes: int
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def page(self) -> Page:
        """The file, its size, and the sha256 to send beside it."""
        size = f": {len(self.files)} files, {self.bytes / 1e6:.2f} MB"
        return (Line(("wrote ", Span(self.file, "bold"), size)), Line(f"sha256 {self.sha256}"), *map(note, self.notes))


class UnpackReport(Report, frozen=True):
    """A bundle that was unpacked and opened, every checksum included; ``signatures`` are its signatures, not checked."""

    file: str
    bundle: str
    manifest_sha256: str
    files: tuple[str, ...]
    signatures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def page(self) -> Page:
        """The folder, and what to do next."""
        signed = f"; signed ({', '.join(self.signatures)})" if self.signatures else ""
        key = " --public-key FILE" if self.signatures else ""
        return (
            Line(("wrote ", Span(self.bundle, "bold"), f": {len(self.files)} files, every checksum right{signed}")),
            *map(note, self.notes),
            Line(Span(f"next: edgekit verify {self.bundle}{key}", "dim")),
        )
