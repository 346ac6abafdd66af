"""``edgekit train``."""

from __future__ import annotations

from pathlib import Path

from edgekit.machine.packages import needs
from edgekit.progress import SILENT, Progress
from edgekit.recipe import Recipe
from edgekit.reports.train import TrainReport


def train_recipe(
    recipe: Recipe,
    run: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    restart: bool = False,
    progress: Progress = SILENT,
) -> TrainReport:
    """Load the data and train into ``run``."""
    needs("torch", "torchvision", extra="train")
    from edgekit import data
    from edgekit.training.loop import train

    return train(recipe, data.load(recipe.data, progress), run, device=device, resume=resume, restart=restart, progress=progress)
