"""The report of ``edgekit web``."""

from __future__ import annotations

import shlex

from edgekit.reports.base import Report
from edgekit.reports.page import Line, Page, Span

PORT = 8000


class WebReport(Report, frozen=True):
    """A page was written: ``folder`` holds ``files``, name -> bytes.

    ``variant`` is the file of the bundle that it runs; ``runtime`` the version of onnxruntime-web, empty if it says none.
    """

    bundle: str
    variant: str
    folder: str
    runtime: str
    files: dict[str, int]

    def page(self) -> Page:
        """Where the page is, how large, and how to open it."""
        size = sum(self.files.values()) / 1e6
        what = f"{self.variant} of {self.bundle}, for browsers, with onnxruntime-web"
        return (
            Line(f"{what} {self.runtime or '(its files say no version)'}: {len(self.files)} files, {size:.1f} MB"),
            Line(("wrote ", Span(self.folder, "bold"))),
            Line(f"serve it, because browsers run it from a web server only, and open http://localhost:{PORT}:"),
            Line(f"python3 -m http.server --bind localhost --directory {shlex.quote(self.folder)} {PORT}"),
        )
