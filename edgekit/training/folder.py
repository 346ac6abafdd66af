"""A run: the folder that a training leaves behind."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from edgekit.errors import EdgekitError, InputError, Interrupted, ModelError, first_line
from edgekit.files import opened, read_bytes, write_text
from edgekit.models import MODELS
from edgekit.recipe import Recipe
from edgekit.reports.train import TrainReport

RUNS = Path("runs")
Begin: TypeAlias = Literal["anew", "resume", "restart", "update"]
"""What becomes of an unfinished training: kept and refused, continued, discarded, or continued where nothing changed."""

RUN_RECIPE, RUN_REPORT, RUN_WEIGHTS = "recipe.json", "train.json", "weights.safetensors"
RUN_METRICS, RUN_CURVE = "metrics.jsonl", "curve.png"
RUN_PROBLEM = "failed.txt"
"""Why a training ended before its end, until it goes on or another begins; a kill leaves none."""
CHECKPOINT, INT8_CHECKPOINT = "checkpoint.pt", "int8-checkpoint.pt"
"""The training's own, and that of the training for int8 that follows."""
INT8_WEIGHTS, INT8_RANGES, INT8_METRICS = "int8.safetensors", "int8.json", "int8-metrics.jsonl"
"""What a training for int8 adds: the folded network's weights, the range table of its int8 file, a line for each epoch."""


class Stopped(msgspec.Struct, frozen=True):
    """A training's next step by its checkpoint, from 0: ``step`` of ``steps_per_epoch`` in ``epoch`` of ``epochs``."""

    epoch: int
    epochs: int
    step: int
    steps_per_epoch: int

    def __str__(self) -> str:
        return f"epoch {min(self.epoch + 1, self.epochs)} of {self.epochs}"

    @property
    def at_end(self) -> bool:
        """Whether no step is left."""
        return self.epoch >= self.epochs

    def put_into(self, checkpoint: Path) -> None:
        """Add it to a checkpoint's archive, so that it is read without PyTorch."""
        with zipfile.ZipFile(checkpoint, "a") as archive:  # PyTorch asks for one folder around all
            archive.writestr(f"{Path(archive.namelist()[0]).parts[0]}/{_STOPPED}", msgspec.json.encode(self))


_STOPPED = "stopped.json"


def stopped_in(run: Path, name: str = CHECKPOINT) -> Stopped | None:
    """Where the training stopped whose checkpoint is ``name``; None without one, and for one of an earlier edgekit.

    Raises ModelError for a damaged one.
    """
    if not (run / name).is_file():
        return None
    try:
        with opened(run / name) as stream, zipfile.ZipFile(stream) as archive:
            inside = next((entry for entry in archive.namelist() if Path(entry).name == _STOPPED), None)
            return None if inside is None else msgspec.json.decode(archive.read(inside), type=Stopped)
    except (OSError, zipfile.BadZipFile, msgspec.DecodeError, ValueError) as problem:
        raise ModelError(f"checkpoint {run / name} is damaged: {problem}", "--restart begins anew") from None


@contextmanager
def problem_kept(run: Path) -> Iterator[None]:
    """Leave the sentence of an error in ``run``; nobody asked for what Interrupted says, and it is no error."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as problem:
        with suppress(EdgekitError):  # the disk may be full
            write_text(run / RUN_PROBLEM, f"{first_line(problem)}\n")
        raise


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
