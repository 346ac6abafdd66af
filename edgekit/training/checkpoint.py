"""Checkpoints: everything that changes while training, saved between two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from edgekit.errors import ModelError, OutputError, UsageError, first_line
from edgekit.files import replacing
from edgekit.recipe import Recipe, TrainRecipe
from edgekit.reports.train import Epoch

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_VERSION = 2


class State:
    """Everything that changes while training; ``epoch`` and ``step`` name the next step to take."""

    def __init__(self, model: nn.Module, recipe: TrainRecipe, steps_per_epoch: int, device: torch.device) -> None:
        self.model = model.to(device)
        if recipe.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _optimizer(self.model, recipe)
        self.schedule = _schedule(self.optimizer, recipe, steps_per_epoch)
        self.epochs, self.steps_per_epoch = recipe.epochs, steps_per_epoch
        self.epoch = 0
        self.step = 0
        self.totals = torch.zeros(3, dtype=torch.float64, device=device)
        self.seconds = 0.0
        self.history: list[Epoch] = []

    def save(self, path: Path, key: str) -> None:
        """Write a checkpoint, whole or not at all."""
        content = {
            "version": CHECKPOINT_VERSION,
            "key": key,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": torch.get_rng_state(),
            "epoch": self.epoch,
            "epochs": self.epochs,
            "step": self.step,
            "steps_per_epoch": self.steps_per_epoch,
            "totals": self.totals,
            "seconds": self.seconds,
            "history": msgspec.to_builtins(self.history),
        }
        with replacing(path) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as problem:  # torch's writer reports a full disk this way
                raise OutputError(f"cannot write {path}: {first_line(problem)}", "free some disk space") from problem

    def load(self, path: Path, key: str) -> None:
        """Continue from a checkpoint of the same recipe; raises UsageError for another's, ModelError for a damaged one."""
        content = read_checkpoint(path)
        if content["key"] != key:
            raise UsageError(f"{path} was made by other settings than this recipe's", "edgekit train --restart begins anew")
        if content.get("steps_per_epoch") != self.steps_per_epoch:
            raise UsageError(f"{path} was made on another number of pictures", "edgekit train --restart begins anew")
        try:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.schedule.load_state_dict(content["schedule"])
            torch.set_rng_state(content["generator"])
            self.epoch, self.step = content["epoch"], content["step"]
            self.totals, self.seconds = content["totals"].to(self.totals.device), content["seconds"]
            self.history = msgspec.convert(content["history"], list[Epoch])
        except (KeyError, RuntimeError, TypeError, ValueError, msgspec.ValidationError) as problem:
            raise ModelError(f"checkpoint {path} is damaged: {problem}", "edgekit train --restart begins anew") from None


def training_key(recipe: Recipe) -> str:
    """What a checkpoint must agree on to be continued: the data, model and train tables of the recipe, as JSON."""
    parts = {"data": recipe.data, "model": recipe.model, "train": recipe.train}
    return msgspec.json.encode(parts).decode()


def unfinished(run: Path) -> bool:
    """Whether ``run`` holds a checkpoint before the end of its own epochs."""
    path = run / CHECKPOINT
    if not path.is_file():
        return False
    content = read_checkpoint(path)
    return int(content["epoch"]) < int(content["epochs"])


def resumable(recipe: Recipe, run: Path) -> bool:
    """Whether ``run`` holds an unfinished training of these very settings, in a checkpoint that can be read."""
    try:
        return unfinished(run) and bool(read_checkpoint(run / CHECKPOINT)["key"] == training_key(recipe))
    except ModelError:
        return False


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, loaded without unpickling code; raises ModelError when there is none or it is damaged."""
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path} to continue from", "train without --resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or content.get("version") != CHECKPOINT_VERSION:
            raise ValueError("not a checkpoint of this version")
    except Exception as problem:
        reason = first_line(problem)
        if "weights only load failed" in reason.lower():  # torch goes on to say how to load it all the same
            reason = "it holds pickled objects besides tensors, or is cut short"
        raise ModelError(f"checkpoint {path} is damaged: {reason}", "edgekit train --restart begins anew") from None
    return content


def _optimizer(model: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":  # AdamW is Adam where weight_decay is 0
        return torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        model.parameters(), recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True
    )


def _schedule(
    optimizer: torch.optim.Optimizer, recipe: TrainRecipe, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "one-cycle" and total > 1:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=total + 1)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=1)
