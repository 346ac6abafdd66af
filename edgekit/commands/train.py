"""``edgekit train``: a recipe into a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.machine.launcher import launched
from edgekit.machine.packages import needs
from edgekit.progress import SILENT, Progress
from edgekit.recipe import Recipe, load_recipe
from edgekit.reports.train import TrainReport
from edgekit.training.folder import RUNS, Begin


@contextmanager
def processes() -> Iterator[bool]:
    """The processes that PyTorch's launcher has started, brought together; yields whether this is the one that writes and speaks.

    Without a launcher it is, and PyTorch is not imported. Raises as ``edgekit.training.distributed.joined``, which explains it.
    """
    if launched() is None:
        yield True
        return
    needs("torch", "torchvision", extra="train")
    from edgekit.training.distributed import joined

    with joined() as together:
        yield together.first


def train(
    recipe: Recipe | Path | str,
    run: Path | str | None = None,
    *,
    device: str = "auto",
    begin: Begin = "anew",
    progress: Progress = SILENT,
) -> TrainReport:
    """Load a recipe's data and train it into ``run``, or into ``runs/<name>``.

    ``begin`` says what becomes of an unfinished training there: ``anew`` refuses to lose it, ``resume`` continues it, ``restart``
    discards it, ``update`` continues it where nothing that it depends on has changed. Raises Interrupted after Ctrl-C, with a
    checkpoint kept. Processes that ``torchrun`` has started train together, and each has the same report.
    """
    with processes() as first:
        progress = progress if first else SILENT
        loaded = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe))
        needs("torch", "torchvision", extra="train")
        from edgekit import data
        from edgekit.training.loop import build_model, fit

        build_model(loaded, data.picture_shape(loaded.data))  # a misspelt model is told before pictures are decoded
        dataset = data.load_dataset(loaded.data, progress)
        for line in dataset.report().lines():
            progress.say(line)
        return fit(loaded, dataset, Path(run) if run else RUNS / loaded.name, device=device, begin=begin, progress=progress)
