"""The report of ``edgekit data fetch``."""

from __future__ import annotations

from edgekit.reports.base import Report
from edgekit.reports.page import Line, Page


class DataReport(Report, frozen=True):
    """A checked dataset on this machine."""

    dataset: str
    folder: str
    train: int
    test: int
    classes: tuple[str, ...]

    def page(self) -> Page:
        """The number of pictures and classes, and the folder."""
        return (
            Line(
                f"{self.dataset}: {self.train:,} + {self.test:,} pictures of {len(self.classes)} classes, "
                f"checked, in {self.folder}"
            ),
        )
