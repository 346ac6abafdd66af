"""``edgekit train``: a recipe into a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekit.errors import OutputError, RecipeError, UsageError
from edgekit.files import as_path, write_bytes
from edgekit.machine.launcher import launched
from edgekit.machine.packages import needs
from edgekit.progress import SILENT, Progress
from edgekit.recipe import Recipe, load_recipe
from edgekit.reports.train import TrainReport
from edgekit.training.folder import RUN_REPORT, RUNS, Begin, run_recipe, run_report
from edgekit.training.provenance import changes


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


class Wanted(NamedTuple):
    """A recipe to train; of a run that is repeated its folder, and its report as it was."""

    recipe: Recipe
    place: Path | None = None
    before: TrainReport | None = None

    def compared(self, report: TrainReport) -> TrainReport:
        """The report, which says whether the repetition gave what it repeats."""
        if self.before is None:
            return report
        text = "the weights are the same bytes as those of the run that was repeated"
        if report.digests != self.before.digests:
            changed = ", ".join(changes(self.before, report))
            cause = f"these differ: {changed}" if changed else "nothing that is recorded differs"
            text = f"the weights are others than those of the run that was repeated; {cause}"
        return msgspec.structs.replace(report, repetition=text)


def recipe_of(source: Recipe | Path | str) -> Wanted:
    """The recipe of a file, or of a run's folder with its report; raises RecipeError, and ModelError for a damaged run."""
    if isinstance(source, Recipe):
        return Wanted(source)
    path = as_path(source, "recipe", RecipeError)
    if not path.is_dir():
        return Wanted(load_recipe(path))
    return Wanted(run_recipe(path), path, run_report(path))


def train(
    recipe: Recipe | Path | str,
    run: Path | str | None = None,
    *,
    device: str = "auto",
    begin: Begin = "anew",
    progress: Progress = SILENT,
    tensorboard: Path | str | None = None,
) -> TrainReport:
    """Load a recipe's data and train it into ``run``, or into ``runs/<name>``.

    ``recipe`` may be the folder of a finished run, which is repeated: in ``run``, or with ``begin="restart"`` in its place (and
    ``resume`` goes on with that); UsageError is raised where neither is given. The report then says, in its folder too, whether
    the weights are the same bytes as before, and what differs if they are not. ``tensorboard``: a folder for its event files.

    ``begin`` says what becomes of an unfinished training there: ``anew`` refuses to lose it, ``resume`` continues it, ``restart``
    discards it, ``update`` continues it where nothing that it depends on has changed. Raises Interrupted after Ctrl-C, with a
    checkpoint kept. Processes that ``torchrun`` has started train together, and each has the same report.
    """
    with processes() as first:
        progress = progress if first else SILENT
        needs("torch", "torchvision", extra="train")
        wanted = recipe_of(recipe)
        loaded = wanted.recipe
        if run is None and wanted.place is not None and begin not in ("restart", "resume"):
            raise UsageError(
                f"{wanted.place} holds a finished training", "--restart repeats it in its place, --runs FOLDER in another"
            )
        if loaded.train.int8 is not None:
            needs("onnx", "onnxscript", "onnxruntime", extra="train")
        from edgekit import data
        from edgekit.training.fit import fit
        from edgekit.training.numerics import recorded
        from edgekit.training.untrained import build_model
        from edgekit.training.watching import TensorBoard

        events = None if tensorboard is None else as_path(tensorboard, "tensorboard", OutputError)
        watchers = (TensorBoard(events, loaded),) if events is not None and first else ()
        build_model(loaded, data.picture_shape(loaded.data))  # a misspelt model is told before pictures are decoded
        dataset = data.load_dataset(loaded.data, progress)
        for line in dataset.report().lines():
            progress.say(line)
        place = as_path(run, "run", OutputError) if run is not None else wanted.place or RUNS / loaded.name
        taken = None if wanted.before is None else recorded(wanted.before.facts)
        report = fit(loaded, dataset, place, device=device, begin=begin, precision=taken, progress=progress, watchers=watchers)
        if loaded.train.int8 is not None:
            from edgekit.training.int8 import train_int8

            report = train_int8(
                loaded, loaded.train.int8, dataset, place, report, device=device, progress=progress, watchers=watchers
            )
        compared = wanted.compared(report)
        if first and compared != report:
            write_bytes(place / RUN_REPORT, compared.to_json())
        for watcher in watchers:
            watcher.end(compared)
        return compared
