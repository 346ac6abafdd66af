"""The end of a training: statistics of batch norm, the accuracy on the test set, and the files of the run."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import torch

from edgekit.accuracy import Accuracy, accuracy_of
from edgekit.data import Dataset
from edgekit.files import sha256_of, write_bytes
from edgekit.machine.cpu import cores
from edgekit.models.weights import weights_bytes
from edgekit.recipe import Recipe
from edgekit.reports.train import StatisticsReport, TrainReport
from edgekit.training.batches import accuracy, predictions
from edgekit.training.curve import draw_curve
from edgekit.training.folder import RUN_CURVE, RUN_METRICS, RUN_RECIPE, RUN_REPORT, RUN_WEIGHTS
from edgekit.training.loop import EpochWork, write_metrics
from edgekit.training.provenance import provenance
from edgekit.training.state import State
from edgekit.training.statistics import make_fit


class Begun(NamedTuple):
    """What is known of a training before its first step: notes on its weights, hashes of the pictures and of the weights."""

    notes: tuple[str, ...]
    data_sha256: str
    initial_sha256: str


def finish(recipe: Recipe, dataset: Dataset, state: State, work: EpochWork, run: Path, begun: Begun) -> TrainReport:
    """Judge the weights that training ends with, and leave them in ``run`` with the report, which is written last."""
    ended = _judged(dataset, state, work)
    if not state.peers.first:
        return cast(TrainReport, state.peers.broadcast(None))
    write_metrics(run / RUN_METRICS, state.history)
    # Only now, and in this order: until the weights are there, an earlier training is whole. From then on its report does not
    # have their checksum, and nothing takes the folder for a finished run until the report, which is last, is theirs.
    write_bytes(run / RUN_WEIGHTS, weights_bytes(state.model))
    write_bytes(run / RUN_RECIPE, msgspec.json.format(msgspec.json.encode(recipe), indent=2))
    report = _report(recipe, dataset, state, ended, run, begun)
    draw_curve(report, run / RUN_CURVE, recipe.name)
    write_bytes(run / RUN_REPORT, report.to_json())
    for text in report.outcome_notes:
        work.progress.say(f"note: {text}")
    return state.peers.broadcast(report)


class Ended(NamedTuple):
    """What came out: accuracies on the test set, that on held-out pictures, and how batch norm's statistics fit."""

    reached: Accuracy
    held_out: float | None
    statistics: StatisticsReport | None


def _judged(dataset: Dataset, state: State, work: EpochWork) -> Ended:
    """The accuracies of the average of weights, where there is one, with batch norm's statistics as they are kept."""
    averaged, together, settings = state.average is not None, state.peers, work.settings
    if averaged:
        state.model.load_state_dict(state.judged.state_dict())
    statistics = together.broadcast(
        make_fit(state.model, work.training, settings.batch_size, settings.seed, work.progress, averaged=averaged)
    )
    together.align(state.model)
    predicted = predictions(state.model, work.test, settings.channels_last, work.progress, together).numpy()
    reached = accuracy_of(predicted, dataset.test.labels, len(dataset.classes))
    held_out = state.history[-1].holdout_accuracy
    if work.held_out and statistics is not None and statistics.remeasured is not None:
        held_out = accuracy(state.model, work.held_out, settings.channels_last, work.progress, together)
    return Ended(reached, held_out, statistics)


def _report(recipe: Recipe, dataset: Dataset, state: State, ended: Ended, run: Path, begun: Begun) -> TrainReport:
    reached = ended.reached
    return TrainReport(
        run=str(run),
        model=recipe.model.name,
        parameters=sum(parameter.numel() for parameter in state.model.parameters()),
        epochs=tuple(state.history),
        test_accuracy=reached.overall,
        min_accuracy=recipe.train.min_accuracy,
        seconds=round(sum(epoch.seconds for epoch in state.history), 3),
        weights_sha256=sha256_of(run / RUN_WEIGHTS),
        labels=dataset.classes,
        preprocess=dataset.preprocess,
        balanced_accuracy=reached.balanced,
        min_balanced_accuracy=recipe.train.min_balanced_accuracy,
        class_accuracy=reached.per_class,
        data=dataset.report(),
        statistics=ended.statistics,
        notes=begun.notes,
        holdout_accuracy=ended.held_out,
        provenance=provenance(recipe.train.seed, begun.data_sha256, begun.initial_sha256, state.sessions),
        facts=_facts(state),
    )


def _facts(state: State) -> dict[str, str]:
    """How it was computed."""
    device = state.device
    return {
        "torch": str(torch.__version__),
        "precision": state.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": str(torch.get_num_threads()),
        "cores": str(cores()),
        "processes": str(state.processes),
    }
