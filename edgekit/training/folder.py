"""A run: the folder that a training leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from edgekit.errors import InputError, ModelError
from edgekit.files import read_bytes
from edgekit.models import MODELS
from edgekit.recipe import Recipe
from edgekit.reports.train import TrainReport

RUNS = Path("runs")
Begin: TypeAlias = Literal["anew", "resume", "restart", "update"]
"""What becomes of an unfinished training: kept and refused, continued, discarded, or continued where nothing changed."""

RUN_RECIPE, RUN_REPORT, RUN_WEIGHTS = "recipe.json", "train.json", "weights.safetensors"
RUN_METRICS = "metrics.jsonl"
INT8_WEIGHTS, INT8_RANGES, INT8_METRICS = "int8.safetensors", "int8.json", "int8-metrics.jsonl"
"""What a training for int8 adds: the folded network's weights, the range table of its int8 file, a line for each epoch."""


def run_recipe(run: Path) -> Recipe:
    """The recipe that a finished run was trained by; raises ModelError where there is none."""
    _check_finished(run)
    try:
        return msgspec.json.decode(read_bytes(run / RUN_RECIPE, "recipe"), type=Recipe)
    except (msgspec.DecodeError, ValueError) as problem:
        raise ModelError(f"{run / RUN_RECIPE} is damaged: {problem}", "train the recipe again") from None


def run_report(run: Path) -> TrainReport:
    """The report of a finished run; raises ModelError where there is none."""
    _check_finished(run)
    try:
        return TrainReport.from_json(read_bytes(run / RUN_REPORT, "report"))
    except InputError as problem:
        raise ModelError(f"{run / RUN_REPORT} is damaged: {problem}", "train the recipe again") from None


def _check_finished(run: Path) -> None:
    for name in (RUN_RECIPE, RUN_REPORT, RUN_WEIGHTS):
        if not (run / name).is_file():
            raise ModelError(f"{run} is not a finished run: {name} is missing", "make one with edgekit train RECIPE")


def model_args(recipe: Recipe, classes: int, channels: int) -> dict[str, Any]:
    """The factory's arguments: a shipped model is given the dataset's classes and channels unless the recipe says."""
    shipped = {"num_classes": classes, "in_channels": channels} if recipe.model.name in MODELS else {}
    return {**shipped, **recipe.model.args}
