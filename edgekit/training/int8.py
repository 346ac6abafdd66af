"""Training for int8, which follows a finished training: the folded network goes on with its int8 file's rounding.

It begins where calibration ends: with the ranges, and the corrected biases, that leave the most signal. Ranges then follow the
batches and stand still for the last half, or the last epochs. What is kept are float weights of the folded network, and a range
table; ``onnx/qdq.py`` writes the file from these as from any others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.accuracy import paired
from edgekit.bundle.allowance import MARGIN_DB, WHOLE_BARS
from edgekit.bundle.manifest import Calibration
from edgekit.bundle.ranges import RangeTable, TensorRange
from edgekit.data import Dataset
from edgekit.errors import ModelError
from edgekit.files import sha256_of, write_bytes
from edgekit.models.weights import load_weights, weights_bytes
from edgekit.onnx.qdq import CODES
from edgekit.progress import SILENT, Progress
from edgekit.recipe import Int8Recipe, Recipe, TrainRecipe
from edgekit.reports.train import Int8Report, TrainReport
from edgekit.tensors import bounded_snr_db
from edgekit.training.batches import batch_count, batches_of, predictions
from edgekit.training.checkpoint import goes_on
from edgekit.training.curve import draw_curve
from edgekit.training.device import pick_device
from edgekit.training.distributed import ALONE, Peers, peers
from edgekit.training.folder import (
    INT8_CHECKPOINT,
    INT8_METRICS,
    INT8_RANGES,
    INT8_WEIGHTS,
    RUN_CURVE,
    RUN_REPORT,
    problem_kept,
)
from edgekit.training.int8_places import Folded, folded, placement_of
from edgekit.training.int8_start import Start, begun, in_runtime, outputs_of
from edgekit.training.key import PROCESSES, Key, as_key
from edgekit.training.loop import EpochWork, Record, train_all
from edgekit.training.provenance import session
from edgekit.training.state import State
from edgekit.training.trained import trained
from edgekit.training.watching import Watcher


class Job(NamedTuple):
    """What is trained for int8: a recipe's finished ``run``, with its data set and its report as it was before; who is told."""

    recipe: Recipe
    dataset: Dataset
    run: Path
    before: TrainReport
    progress: Progress = SILENT
    watchers: Sequence[Watcher] = ()

    def network(self, together: Peers = ALONE) -> Folded:
        """The folded network with the float weights of the run, as an export folds it."""
        network = trained(self.run, self.recipe, self.before, together)
        return folded(network.module.eval(), network.inputs, self.recipe.export)


def train_int8(  # noqa: PLR0913 - each is a choice of the caller
    recipe: Recipe,
    settings: Int8Recipe,
    dataset: Dataset,
    run: Path,
    before: TrainReport,
    *,
    device: str = "auto",
    progress: Progress = SILENT,
    watchers: Sequence[Watcher] = (),
) -> TrainReport:
    """Train the network of the finished ``run`` for int8, and write its report anew; an unfinished one goes on.

    ``watchers`` are told of each epoch. Processes that share the training share this one too.

    Raises ModelError for a network without layers for 8 bits, or whose int8 file is another network than PyTorch's; UsageError
    where a training for int8 with other settings would be lost; Interrupted after Ctrl-C, with the state saved.
    """
    together, job = peers(), Job(recipe, dataset, run, before, progress, watchers)
    place = together.place(pick_device(device))
    with problem_kept(run) if together.first else nullcontext():
        return _trained(job, recipe.train.of_int8(settings), place, together)


def _trained(job: Job, own: TrainRecipe, place: torch.device, together: Peers) -> TrainReport:
    recipe, dataset, run, before, progress, watchers = job
    batches = batch_count(len(dataset.train), own.batch_size)
    progress.say("training for int8: ranges to begin with")
    moving = own.epochs * batches - _standing(own, batches)
    together.check_batch(len(dataset.train) // batches)
    start = begun(job.network(together), recipe.export, dataset, own.batch_size, moving, together)
    training, held_out, test = batches_of(dataset, place)
    calibrated = predictions(start.module.to(place), test, progress=progress, together=together).numpy()
    key = _key(own, dataset, before, start, together.count)
    together.check_alike(key)
    state = State(start.module, own, batches, place, together)
    this_session, checkpoint = session(), run / INT8_CHECKPOINT
    if together.broadcast(together.first and goes_on(run, key, INT8_CHECKPOINT)):
        state.load(checkpoint, key)
        progress.say(f"going on with the training for int8 after {state.epoch} of {state.epochs} epochs")
    state.enter(this_session)
    work = EpochWork(
        own, training, held_out, test, batches, progress, lambda state: state.save(checkpoint, key), title="int8 epoch"
    )
    train_all(state, work, Record(checkpoint, run / INT8_METRICS, watchers, "int8"))
    return _finish(work, start, state, calibrated, job)


def _standing(settings: TrainRecipe, batches: int) -> int:
    """The steps at the end in which ranges stand still: all epochs but the first, or half of a single one."""
    return (settings.epochs - 1) * batches or math.ceil(batches / 2)


def _key(settings: TrainRecipe, dataset: Dataset, before: TrainReport, start: Start, processes: int) -> Key:
    """All that the trained weights depend on; the float weights stand for what made them."""
    rates = {f"train.int8.{name}": value for name, value in msgspec.structs.asdict(settings.without_bars()).items()}
    places = sorted(start.placement.groups.items()), sorted(start.placement.signed)
    return as_key(
        {
            **rates,
            "pictures or classes": dataset.sha256(),
            "float weights": before.weights_sha256,
            "places of steps": places,
            PROCESSES: processes,
        }
    )


class Kept(NamedTuple):
    """The range table, how far PyTorch and the int8 file are apart in steps, and the file's SNR against the float network."""

    table: RangeTable
    apart: float
    snr_db: float


def kept(start: Start, exported: Folded, calibration: Calibration) -> Kept:
    """The range table of the trained network, on the CPU, and its int8 file against it.

    ``exported`` is the network with the trained weights as an export has it: the memory layout of weights that were trained shows
    in an ONNX file's names. Raises ModelError where the file rounds at other places than were trained.
    """
    module, model = start.module, exported.onnx(start.settings)
    placement = placement_of(model)
    if (placement.groups, placement.signed) != (start.placement.groups, start.placement.signed):
        raise ModelError("the trained network's int8 file would round at other places than were trained", "report the model")
    limits, seen = module.limits_now(), module.extremes()
    extremes = {group: [seen[value] for value in values if value in seen] for group, values in placement.members().items()}
    tensors = tuple(
        TensorRange(
            tensor,
            *seen.get(tensor, (min(low for low, _ in extremes[group]), max(high for _, high in extremes[group]))),
            limits[group],
            "int8" if group in placement.signed else "uint8",
            group,
        )
        for tensor, group in placement.groups.items()
    )
    own = outputs_of(module, start.pictures)
    written = in_runtime(model, placement, limits, start.pictures)
    apart = float(np.abs(own - written).max() / np.abs(written).max()) * CODES
    snr_db = min(bounded_snr_db(each, outputs_of(exported.graph, start.pictures)) for each in (own, written))
    return Kept(RangeTable(calibration, False, tensors), apart, snr_db)


def _finish(work: EpochWork, start: Start, state: State, calibrated: NDArray[np.int64], job: Job) -> TrainReport:
    dataset, run, before = job.dataset, job.run, job.before
    together = state.peers
    labelled = predictions(state.model, work.test, progress=work.progress, together=together).numpy()
    start.network.graph.to(work.test.labels.device)
    after = predictions(start.network.graph, work.test, progress=work.progress, together=together).numpy()
    if not together.first:
        return cast(TrainReport, together.broadcast(None))
    state.model.cpu()
    write_bytes(run / INT8_WEIGHTS, weights_bytes(start.network.graph))
    exported = job.network()
    load_weights(exported.graph, run / INT8_WEIGHTS)
    source = f"{len(dataset.train)} training pictures, in {work.settings.epochs} epochs of training for int8"
    result = kept(start, exported, Calibration(source, len(dataset.train), dataset.sha256(), "trained"))
    labels = dataset.test.labels
    compared = paired(calibrated == labels, labelled == labels)
    write_bytes(run / INT8_RANGES, msgspec.json.format(msgspec.json.encode(result.table), indent=2) + b"\n")
    report = Int8Report(
        epochs=tuple(state.history),
        before=before.test_accuracy,
        after=float((after == labels).mean()),
        calibrated=float((calibrated == labels).mean()),
        trained=float((labelled == labels).mean()),
        pictures=compared.n,
        gained=compared.only_second,
        lost=compared.only_first,
        low=compared.low,
        high=compared.high,
        method=start.method,
        bias_correction=start.bias_correction,
        snr_db=result.snr_db,
        least_db=WHOLE_BARS["int8"].snr_db + MARGIN_DB,
        apart=result.apart,
        seconds=round(sum(epoch.seconds for epoch in state.history), 3),
        weights_sha256=sha256_of(run / INT8_WEIGHTS),
        ranges_sha256=sha256_of(run / INT8_RANGES),
        sessions=tuple(state.sessions),
    )
    whole = msgspec.structs.replace(before, int8=report)
    draw_curve(whole, run / RUN_CURVE, job.recipe.name)
    write_bytes(run / RUN_REPORT, whole.to_json())
    for text in report.lines():
        work.progress.say(text)
    return together.broadcast(whole)
