"""``edgekit models``: the models that edgekit ships."""

from __future__ import annotations

from edgekit.models import MODELS
from edgekit.reports.models import ModelRow, ModelsReport
from edgekit.tensors import shape_text


def models() -> ModelsReport:
    """List the models that edgekit ships."""
    return ModelsReport(tuple(ModelRow(info.name, shape_text(info.input_shape), info.summary) for info in MODELS.values()))
