"""A run: the folder that a training leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

from edgekit.models import MODELS
from edgekit.recipe import Recipe

RUNS = Path("runs")
Begin: TypeAlias = Literal["anew", "resume", "restart", "update"]
"""What becomes of an unfinished training: kept and refused, continued, discarded, or continued where nothing changed."""

RUN_RECIPE, RUN_REPORT, RUN_WEIGHTS = "recipe.json", "train.json", "weights.safetensors"


def model_args(recipe: Recipe, classes: int, channels: int) -> dict[str, Any]:
    """The factory's arguments: a shipped model is given the dataset's classes and channels unless the recipe says."""
    shipped = {"num_classes": classes, "in_channels": channels} if recipe.model.name in MODELS else {}
    return {**shipped, **recipe.model.args}
