"""What is told of a training while it runs: a listener for each place that keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from edgekit.errors import MissingError
from edgekit.recipe import Recipe, flat
from edgekit.reports.train import Epoch, TrainReport

Phase: TypeAlias = Literal["training", "int8"]


class Watcher(Protocol):
    """Is told of each epoch that has ended, and of the report in the end."""

    def epoch(self, epoch: Epoch, phase: Phase = "training") -> None:
        """An epoch has ended, of the training or of the one for int8 that follows."""

    def end(self, report: TrainReport) -> None:
        """The training has ended."""


class TensorBoard:
    """Writes TensorBoard's event files into ``folder``: scalars by epoch, and in the end the recipe beside the accuracy.

    Epochs of a training for int8 are counted on, and their scalars begin with ``int8/``. A training that goes on continues its
    log: what an interrupted one has written of the same epochs is purged.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingError("--tensorboard needs the package tensorboard", "pip install tensorboard") from None
        self._open, self._folder, self._recipe = SummaryWriter, folder, recipe
        self._writer: Any = None

    def epoch(self, epoch: Epoch, phase: Phase = "training") -> None:
        """Write the epoch's numbers; a process that is killed has lost none of them."""
        before, prefix = (self._recipe.train.epochs, "int8/") if phase == "int8" else (0, "")
        step = before + epoch.epoch
        if self._writer is None:
            self._writer = self._open(str(self._folder), purge_step=step)
        for name, value in msgspec.to_builtins(epoch).items():
            if name != "epoch" and value is not None:
                self._writer.add_scalar(prefix + name, value, step)
        self._writer.flush()

    def end(self, report: TrainReport) -> None:
        """Write the recipe's keys with the final accuracies."""
        accuracies = {"hparam/test_accuracy": report.test_accuracy}
        if report.holdout_accuracy is not None:
            accuracies["hparam/holdout_accuracy"] = report.holdout_accuracy
        if report.int8 is not None:
            accuracies["hparam/int8_accuracy"] = report.int8.trained
        keys = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in flat(self._recipe).items()
        }
        writer = self._writer or self._open(str(self._folder))
        writer.add_hparams(keys, accuracies, run_name=".")
        writer.close()
