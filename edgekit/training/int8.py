"""Training for int8, which follows a finished training: the folded network goes on with its int8 file's rounding.

It begins where calibration ends: with the ranges, and the corrected biases, that leave the most signal. Ranges then follow the
batches and stand still for the last half, or the last epochs. What is kept are float weights of the folded network, and a range
table; ``onnx/qdq.py`` writes the file from these as from any others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.accuracy import paired
from edgekit.bundle.allowance import MARGIN_DB, WHOLE_BARS
from edgekit.bundle.manifest import Calibration
from edgekit.bundle.ranges import RangeTable, TensorRange
from edgekit.data import Dataset
from edgekit.data.pictures import spread
from edgekit.errors import ModelError
from edgekit.files import sha256_of, write_bytes
from edgekit.models.weights import load_weights, weights_bytes
from edgekit.onnx.calibration import SMALLEST, WAYS, Method, limits_of, observe, values_of
from edgekit.onnx.calibration import Batches as ValuesOfBatches
from edgekit.onnx.correction import corrected_biases
from edgekit.onnx.placing import Graph, Placement
from edgekit.onnx.qdq import CODES, quantised_model
from edgekit.onnx.run import open_unoptimised, run_in_turns
from edgekit.onnx.signed import signed_codes
from edgekit.progress import SILENT, Progress
from edgekit.recipe import ExportRecipe, Int8Recipe, Recipe, TrainRecipe
from edgekit.reports.train import Int8Report, TrainReport
from edgekit.tensors import Array, bounded_snr_db
from edgekit.training.batches import batch_count, batches_of, predictions
from edgekit.training.checkpoint import PROCESSES, Key, State, as_key, goes_on
from edgekit.training.curve import draw_curve
from edgekit.training.device import pick_device
from edgekit.training.distributed import ALONE, Peers, peers
from edgekit.training.fake_quantisation import FakeQuantised
from edgekit.training.folder import (
    INT8_CHECKPOINT,
    INT8_METRICS,
    INT8_RANGES,
    INT8_WEIGHTS,
    RUN_CURVE,
    RUN_REPORT,
    problem_kept,
)
from edgekit.training.int8_places import Folded, Places, find_places, folded, placement_of
from edgekit.training.loop import EpochWork, Record, train_all
from edgekit.training.provenance import session
from edgekit.training.trained import trained
from edgekit.training.watching import Watcher

SAMPLES = 256
"""Training pictures on which the ranges to begin with are calibrated."""
TOGETHER = 32
"""Pictures that are computed together."""
OTHER_NETWORK = 0.5
"""By this share of its own error the int8 file may differ in ONNX Runtime from PyTorch; codes at a border move it by less."""


class Start(NamedTuple):
    """A folded network with fake quantisation as calibration leaves it, how that chose, and the pictures that it saw, float32."""

    network: Folded
    settings: ExportRecipe
    module: FakeQuantised
    placement: Placement
    method: Method
    bias_correction: bool
    pictures: NDArray[np.float32]


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
    together.check_settings(own, len(dataset.train) // batches)
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


def begun(
    network: Folded, settings: ExportRecipe, dataset: Dataset, batch_size: int, moving: int, together: Peers = ALONE
) -> Start:
    """Calibrate in every way, and take the one with the best SNR; raises ModelError as ``train_int8``."""
    places = find_places(network, settings)
    pictures = dataset.preprocess.normalise(dataset.train.images[spread(len(dataset.train), SAMPLES)])
    feed = {network.inputs[0].name: pictures}
    values = set(places.placement.groups)
    observed = observe(places.placement, values_of(places.model, values, feed))
    largest = _largest(places.placement, values_of(places.model, values, feed, min(batch_size, len(pictures))))
    reference, biases, graph = _outputs(network.graph, pictures), _biases(places), Graph(places.model)
    ways: dict[float, tuple[Method, bool, FakeQuantised, dict[str, Array]]] = {}
    for method, corrected in WAYS:
        limits = limits_of(places.placement, observed, method)
        changed = corrected_biases(graph, places.placement, limits, observed.means) if corrected else {}
        module = FakeQuantised(places, limits, largest, moving, together)
        _set_biases(places, {**biases, **changed})
        outputs = _outputs(module, pictures)
        if not ways:
            _check_same(places, module, outputs, reference, pictures)
        ways.setdefault(bounded_snr_db(outputs, reference), (method, corrected, module, changed))
    method, corrected, module, changed = ways[max(ways)]
    _set_biases(places, {**biases, **changed})
    return Start(network, settings, module, places.placement, method, corrected, pictures)


def _largest(placement: Placement, batches: ValuesOfBatches) -> dict[str, float]:
    """Group -> the largest |value| of a batch, on average."""
    members = placement.members()
    rows = [
        [max(float(np.abs(values[name]).max()) for name in names if name not in placement.clamped) for names in members.values()]
        for values in batches()
    ]
    return dict(zip(members, np.maximum(np.mean(rows, axis=0), SMALLEST).tolist(), strict=True))


def _biases(places: Places) -> dict[str, Array]:
    """Layer -> a copy of its bias."""
    return {
        layer: attrgetter(str(weighted.bias.target))(places.graph).detach().numpy().copy()
        for layer, weighted in places.layers.items()
        if weighted.bias is not None
    }


@torch.no_grad()
def _set_biases(places: Places, biases: Mapping[str, Array]) -> None:
    """A layer without a bias keeps none."""
    for layer, array in biases.items():
        bias = places.layers[layer].bias
        if bias is not None:
            attrgetter(str(bias.target))(places.graph).copy_(torch.from_numpy(array))


@torch.inference_mode()
def _outputs(module: nn.Module, pictures: NDArray[np.float32]) -> Array:
    """What a network on the CPU makes of ``pictures``, computed in batches."""
    module.eval()
    return np.concatenate([module(batch).numpy() for batch in torch.split(torch.from_numpy(pictures), TOGETHER)])


def _in_runtime(
    model: onnx.ModelProto, placement: Placement, limits: Mapping[str, float], pictures: NDArray[np.float32]
) -> Array:
    """The outputs of the int8 file in ONNX Runtime, as TensorRT reads it: codes end at 127."""
    file = signed_codes(quantised_model(model, placement, limits, {}))
    feed = {file.graph.input[0].name: pictures}
    return next(iter(run_in_turns(open_unoptimised(file, Path("int8.onnx")), feed, (TOGETHER,)).values()))


def _rms(numbers: Array) -> float:
    return float(np.sqrt(np.square(numbers, dtype=np.float64).mean()))


def _check_same(places: Places, module: FakeQuantised, outputs: Array, reference: Array, pictures: NDArray[np.float32]) -> None:
    """Raise ModelError where the network's int8 file is another network in ONNX Runtime than ``module`` in PyTorch."""
    written = _in_runtime(places.model, places.placement, module.limits_now(), pictures)
    apart, error = _rms(outputs - written), _rms(reference - written)
    if apart > OTHER_NETWORK * error:
        raise ModelError(
            f"the network's int8 file differs in ONNX Runtime from PyTorch by {apart / error:.2f} times what int8 changes",
            "leave [train.int8] out and calibrate with edgekit quantize, and report the model",
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
    own = _outputs(module, start.pictures)
    written = _in_runtime(model, placement, limits, start.pictures)
    apart = float(np.abs(own - written).max() / np.abs(written).max()) * CODES
    snr_db = min(bounded_snr_db(each, _outputs(exported.graph, start.pictures)) for each in (own, written))
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
