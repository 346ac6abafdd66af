"""Training a recipe into a run: repeatable bit for bit on one machine, resumable, on one process or several."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import msgspec

from edgekit.data import Dataset, PictureShape
from edgekit.errors import UsageError
from edgekit.files import check_writable
from edgekit.progress import SILENT, Progress
from edgekit.recipe import Recipe, TrainRecipe
from edgekit.reports.train import TrainReport
from edgekit.training.batches import batch_count, batches_of
from edgekit.training.checkpoint import discard, forget_problem, goes_on, unfinished
from edgekit.training.device import pick_device, reuse_memory, use_cores
from edgekit.training.distributed import peers
from edgekit.training.finish import Begun, finish
from edgekit.training.folder import CHECKPOINT, RUN_METRICS, Begin, problem_kept
from edgekit.training.initial import state_sha256
from edgekit.training.key import Key, training_key
from edgekit.training.loop import EpochWork, Record, train_all
from edgekit.training.numerics import Precision
from edgekit.training.provenance import session
from edgekit.training.state import State
from edgekit.training.untrained import build_model
from edgekit.training.watching import Watcher


def fit(  # noqa: PLR0913 - each is a choice of the caller
    recipe: Recipe,
    dataset: Dataset,
    run: Path,
    *,
    device: str = "auto",
    begin: Begin = "anew",
    precision: Precision | None = None,
    progress: Progress = SILENT,
    watchers: Sequence[Watcher] = (),
) -> TrainReport:
    """Train ``recipe`` on ``dataset`` into the folder ``run``: weights, checkpoint, metrics, learning curve, report.

    ``precision`` is what ``auto`` means in the recipe, where a training is repeated that has taken it.
    ``watchers`` are told of each epoch. ``begin`` says what becomes of an unfinished training in ``run``;
    raises UsageError where it would be lost unasked. Raises Interrupted after Ctrl-C, SIGTERM or SIGHUP, with the state saved.
    """
    together = peers()
    place = together.place(pick_device(device))
    left = together.first and begin in ("anew", "update") and unfinished(run)
    if together.first:
        if begin == "anew" and left:
            raise UsageError(f"{run} holds an unfinished training", "--resume continues it, --restart begins anew")
        check_writable(run)
    reuse_memory()
    use_cores()
    channels, height, width = dataset.train.images.shape[1:]
    shape = PictureShape(channels, height, width, len(dataset.classes))
    model, notes = build_model(recipe, shape)
    for text in notes:
        progress.say(f"note: {text}")
    begun = Begun(notes, dataset.sha256(), state_sha256(model))
    key = training_key(recipe, begun.data_sha256, model, together.count)
    this_session = session()
    together.check_alike(key)
    batches = batch_count(len(dataset.train), recipe.train.batch_size)
    together.check_batch(len(dataset.train) // batches)
    together.draw_apart()
    state = State(model, _as_taken(recipe.train, precision), batches, place, together)
    resumes = begin == "resume" or (begin == "update" and together.broadcast(together.first and goes_on(run, key, left=left)))
    _take_up(state, run, key if resumes else None, progress)
    state.enter(this_session)
    training, held_out, test = batches_of(dataset, place)
    checkpoint = run / CHECKPOINT
    work = EpochWork(recipe.train, training, held_out, test, batches, progress, lambda state: state.save(checkpoint, key))
    with problem_kept(run) if together.first else nullcontext():
        train_all(state, work, Record(checkpoint, run / RUN_METRICS, watchers))
        return finish(recipe, dataset, state, work, run, begun)


def _as_taken(settings: TrainRecipe, precision: Precision | None) -> TrainRecipe:
    """The settings, of which ``auto`` is ``precision``."""
    return msgspec.structs.replace(settings, precision=precision) if precision and settings.precision == "auto" else settings


def _take_up(state: State, run: Path, key: Key | None, progress: Progress) -> None:
    """Go on with the checkpoint of the training ``key``, or begin anew without one; either way what was wrong is past."""
    if key is not None:
        state.load(run / CHECKPOINT, key)
        place_left = f"in epoch {state.epoch + 1} of {state.epochs}" if state.epoch < state.epochs else "after its last epoch"
        progress.say(f"going on with the training that stopped {place_left}; --restart begins anew")
    elif state.peers.first:
        discard(run)  # a kill before the first checkpoint of this training must not bring back another
    if state.peers.first:
        forget_problem(run)
