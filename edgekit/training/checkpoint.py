"""Checkpoints: everything that changes while training, saved between two steps."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import torch
from msgspec import Meta
from torch import nn

from edgekit.errors import ModelError, OutputError, UsageError, first_line
from edgekit.files import fingerprints, replacing, write_error
from edgekit.recipe import Recipe, TrainRecipe
from edgekit.reports.train import Epoch
from edgekit.training.code import source_files
from edgekit.training.initial import state_sha256, structure_sha256

Key: TypeAlias = dict[str, str]
"""Everything that trained weights depend on, by what it is: short values as JSON, others as a hash."""

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_VERSION = 4
LONGEST_VALUE = 40
"""Characters of a setting that is kept as it is, to be told where it has changed."""


class _Place(msgspec.Struct):
    """Where a training stopped, and what it recorded."""

    epoch: Annotated[int, Meta(ge=0)]
    step: Annotated[int, Meta(ge=0)]
    epochs: int
    steps_per_epoch: int
    seconds: Annotated[float, Meta(ge=0)]
    history: list[Epoch]


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

    def save(self, path: Path, key: Key) -> None:
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

    def load(self, path: Path, key: Key) -> None:
        """Continue from a checkpoint of the same training; raises UsageError for another's, ModelError for a damaged one."""
        content = read_checkpoint(path)
        changed = differences(content, key)
        if changed:
            raise UsageError(f"{path} was made with other {' and other '.join(changed)}", "--restart begins anew")
        try:
            place = self._place(content)
            self.totals = self.totals.copy_(content["totals"])
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.schedule.load_state_dict(content["schedule"])
            torch.set_rng_state(content["generator"])
        except Exception as problem:  # odd content makes torch trip over whatever comes
            reason = f"{type(problem).__name__}: {first_line(problem)}"
            raise ModelError(f"checkpoint {path} is damaged: {reason}", "--restart begins anew") from None
        self.epoch, self.step, self.seconds, self.history = place.epoch, place.step, place.seconds, place.history

    def _place(self, content: dict[str, Any]) -> _Place:
        """Where a checkpoint's training stopped; raises ValueError unless that is a place in this training."""
        place = msgspec.convert({name: content[name] for name in _Place.__struct_fields__}, _Place)
        if (place.epochs, place.steps_per_epoch) != (self.epochs, self.steps_per_epoch):
            raise ValueError(f"it has {place.epochs} epochs of {place.steps_per_epoch} steps")
        if place.epoch > self.epochs or place.step > self.steps_per_epoch or len(place.history) != place.epoch:
            raise ValueError(
                f"it stopped in epoch {place.epoch + 1}, step {place.step}, with {len(place.history)} epochs recorded"
            )
        if content["totals"].shape != self.totals.shape:
            raise ValueError(f"it has totals of shape {tuple(content['totals'].shape)}")
        if content["schedule"].keys() != self.schedule.state_dict().keys():
            raise ValueError("its schedule is of another kind")
        return place


def dependencies(recipe: Recipe, data: Any, initial: nn.Module) -> dict[str, Any]:
    """Everything that trained weights depend on, by name: what a checkpoint and a finished training must agree on.

    ``data`` changes with the data set, ``initial`` is the model as it was built, which shows what its factory read.
    """
    tables = {"model": recipe.model.without_place(), "train": recipe.train.without_bars()}
    settings = {
        f"{table}.{key}": value for table, struct in tables.items() for key, value in msgspec.structs.asdict(struct).items()
    }
    return {
        **settings,
        "pictures or classes": data,
        "code of the model": fingerprints(source_files(recipe.model.name)),
        "structure of the model": structure_sha256(initial),
        "initial weights": state_sha256(initial),
    }


def training_key(recipe: Recipe, data: str, initial: nn.Module) -> Key:
    """Each of the ``dependencies``, or its hash; ``data`` is the hash of the data set (``Dataset.sha256``)."""
    texts = {
        name: msgspec.json.encode(value, order="deterministic") for name, value in dependencies(recipe, data, initial).items()
    }
    return {
        name: text.decode() if len(text) <= LONGEST_VALUE else hashlib.sha256(text).hexdigest() for name, text in texts.items()
    }


def differences(content: dict[str, Any], key: Key) -> list[str]:
    """What a checkpoint was made with that is no longer so, by its names in ``training_key``: ``train.epochs (8, now 9)``."""
    old = content.get("key")
    before = old if isinstance(old, dict) else {}
    return [
        f"{name} ({before[name]}, now {value})"
        if name in before and max(len(before[name]), len(value)) <= LONGEST_VALUE
        else name
        for name, value in key.items()
        if before.get(name) != value
    ]


def unfinished(run: Path) -> bool:
    """Whether ``run`` holds a checkpoint before the end of its own epochs; raises ModelError as ``checkpoint_in`` does."""
    content = checkpoint_in(run)
    return content is not None and before_end(content)


def checkpoint_in(run: Path) -> dict[str, Any] | None:
    """The checkpoint in ``run``; None without one, and for one of another version that had reached its end.

    Raises ModelError where what may be an unfinished training cannot be read: only the user may give it up.
    """
    path = run / CHECKPOINT
    if not path.exists():
        return None
    content = _loaded(path)
    if content.get("version") != CHECKPOINT_VERSION and not before_end(content):
        return None
    return _of_this_version(content, path)


def before_end(content: dict[str, Any]) -> bool:
    """Whether a checkpoint's training has epochs left; so has one that does not say."""
    epoch, epochs = content.get("epoch"), content.get("epochs")
    return not (isinstance(epoch, int) and isinstance(epochs, int)) or epoch < epochs


def discard(run: Path) -> None:
    """Remove the checkpoint in ``run``, if there is one, so that nothing goes on with it."""
    path = run / CHECKPOINT
    try:
        path.unlink(missing_ok=True)
    except OSError as problem:
        raise write_error(path, problem) from problem


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content; raises ModelError when there is none, or it is damaged or of another version."""
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path} to continue from", "train without --resume")
    return _of_this_version(_loaded(path), path)


def _loaded(path: Path) -> dict[str, Any]:
    """What a checkpoint of any version holds, loaded without unpickling code."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or "version" not in content:
            raise ValueError("it holds no training")
    except Exception as problem:
        reason = first_line(problem)
        if "weights only load failed" in reason.lower():  # torch goes on to say how to load it all the same
            reason = "it holds pickled objects besides tensors, or is cut short"
        raise ModelError(f"checkpoint {path} is damaged: {reason}", "--restart begins anew") from None
    return content


def _of_this_version(content: dict[str, Any], path: Path) -> dict[str, Any]:
    if content["version"] != CHECKPOINT_VERSION:
        raise ModelError(f"checkpoint {path} was made by another version of edgekit", "--restart begins anew")
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
