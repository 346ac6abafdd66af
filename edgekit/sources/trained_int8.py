"""The network of a run that was trained for int8: folded, with the weights and the ranges of that training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edgekit.bundle.ranges import RangeTable
from edgekit.errors import BundleError, ModelError, UsageError
from edgekit.files import read_bytes, sha256_of
from edgekit.models.weights import load_weights
from edgekit.recipe import ExportRecipe, Recipe
from edgekit.reports.export import FoldReport
from edgekit.reports.train import TrainReport
from edgekit.tensors import TensorSpec
from edgekit.training.folder import INT8_RANGES, INT8_WEIGHTS
from edgekit.training.int8_places import folded

if TYPE_CHECKING:
    from torch import fx, nn

NOTE = (
    "the network was trained for int8 after it was folded: reference and float32 file are of the network after that training, "
    "and the bundle holds no PyTorch original, which is another network"
)


class Learned(NamedTuple):
    """What a training for int8 left in the folder ``run``: its range table, and whether it had folded batch norm."""

    run: Path
    table: RangeTable
    fold_bn: bool

    def network(
        self, module: nn.Module, inputs: tuple[TensorSpec, ...], settings: ExportRecipe
    ) -> tuple[fx.GraphModule, FoldReport]:
        """``module`` folded as it was for the training, with the weights of that training; ``module`` is left as it is.

        Raises UsageError where it is to be folded otherwise now, ModelError where it does not fold into the same network.
        """
        if settings.fold_bn != self.fold_bn:
            raise UsageError(
                f"{self.run} was trained for int8 with export.fold_bn = {str(self.fold_bn).lower()}, and is exported so only",
                "leave it as it was, or train again",
            )
        network = folded(module, inputs, settings)
        load_weights(network.graph, self.run / INT8_WEIGHTS)
        return network.graph, network.report


def learned_of(run: Path, recipe: Recipe, report: TrainReport) -> Learned | None:
    """What the training for int8 of a finished run left; None where its recipe asks for none.

    Raises ModelError where it has not ended, or where its files are not those that it wrote.
    """
    if recipe.train.int8 is None:
        return None
    if report.int8 is None:
        raise ModelError(f"the training for int8 of {run} has not ended", "edgekit train --resume ends it")
    said = {INT8_WEIGHTS: report.int8.weights_sha256, INT8_RANGES: report.int8.ranges_sha256}
    for name, sha256 in said.items():
        if not (run / name).is_file() or sha256_of(run / name) != sha256:
            raise ModelError(f"{run / name} is missing, or not what its training wrote", "train the recipe again")
    table = msgspec.json.decode(read_bytes(run / INT8_RANGES, "range table", BundleError), type=RangeTable)
    return Learned(run, table, recipe.export.fold_bn)
