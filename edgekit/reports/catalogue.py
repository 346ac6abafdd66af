"""Reports of what there is: models and datasets."""

from __future__ import annotations

from edgekit.reports.base import Part, Report


class ModelRow(Part, frozen=True):
    """A shipped model."""

    name: str
    input: str
    summary: str


class ModelsReport(Report, frozen=True):
    """The shipped models."""

    models: tuple[ModelRow, ...]


class DataReport(Report, frozen=True):
    """A dataset that is on this machine."""

    dataset: str
    folder: str
    train: int
    test: int
    classes: tuple[str, ...]
