"""The network of a finished run, with the weights that the run ended with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from edgekit.decoding import CHANNELS
from edgekit.models.factory import build_module
from edgekit.models.weights import load_weights
from edgekit.recipe import Recipe
from edgekit.reports.train import TrainReport
from edgekit.tensors import BATCH, TensorSpec
from edgekit.training.distributed import ALONE, Peers
from edgekit.training.folder import RUN_WEIGHTS, model_args


class Trained(NamedTuple):
    """A module on the CPU, its factory's arguments, and the description of its input."""

    module: nn.Module
    args: dict[str, Any]
    inputs: tuple[TensorSpec, ...]


def trained(run: Path, recipe: Recipe, report: TrainReport, together: Peers = ALONE) -> Trained:
    """Build the recipe's model and load the weights in ``run``; raises ModelError where they do not fit.

    Of several processes, which all call it, the first one's machine alone need have the folder.
    """
    pixels = report.preprocess
    channels = CHANNELS[pixels.color]
    args = model_args(recipe, len(report.labels), channels)
    module = build_module(recipe.model.name, args)
    if together.first:
        load_weights(module, run / RUN_WEIGHTS)
    module.load_state_dict(together.broadcast(module.state_dict()))
    return Trained(module, args, (TensorSpec("input", "float32", (BATCH, channels, pixels.height, pixels.width)),))
