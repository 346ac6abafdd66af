"""The report of ``edgekit models``."""

from __future__ import annotations

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Line, Page, Table, columns


class ModelRow(Part, frozen=True):
    """A shipped model."""

    name: str
    input: str
    summary: str


class ModelsReport(Report, frozen=True):
    """The shipped models."""

    models: tuple[ModelRow, ...]

    def page(self) -> Page:
        """A row for each model."""
        rows = tuple((model.name, model.input, model.summary) for model in self.models)
        return (
            Table("models", columns("name", "input", "about", prose=("about",)), rows),
            Line("or any import path: edgekit export torchvision.models:resnet18 --input-shape 1x3x224x224"),
        )
