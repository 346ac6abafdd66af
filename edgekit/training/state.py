"""The state of a training: everything that changes while it runs, saved and loaded between two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from edgekit.errors import ModelError, OutputError, RecipeError, UsageError, first_line
from edgekit.files import replacing
from edgekit.recipe import TrainRecipe
from edgekit.reports.train import Epoch, Session
from edgekit.training.checkpoint import CHECKPOINT_VERSION, differences, read_checkpoint
from edgekit.training.distributed import ALONE, Peers
from edgekit.training.folder import Stopped
from edgekit.training.generators import generator_states, restore_generators
from edgekit.training.key import PROCESSES, Key
from edgekit.training.numerics import Precision, compiled, resolved
from edgekit.training.optimizers import check_stages, optimizers
from edgekit.training.provenance import now


class _Place(msgspec.Struct):
    """Where a training stopped, and what it recorded."""

    epoch: Annotated[int, Meta(ge=0)]
    step: Annotated[int, Meta(ge=0)]
    epochs: int
    steps_per_epoch: int
    seconds: Annotated[float, Meta(ge=0)]
    rate: Annotated[float, Meta(ge=0)]
    history: list[Epoch]
    sessions: list[Session]
    precision: Precision


class State:
    """Everything that changes while training; ``epoch`` and ``step`` name the next step to take.

    ``trained`` is the model as steps call it. ``average`` is the moving average of its weights, where the recipe asks for one.
    ``precision`` is resolved once for a training: another machine goes on with it. ``rate`` is the learning rate of
    the last step taken. ``totals`` are of this process's shares; ``processes`` have taken the steps, in ``sessions`` one after
    another. ``saved`` says whether a checkpoint of this training is kept.
    """

    def __init__(
        self, model: nn.Module, recipe: TrainRecipe, steps_per_epoch: int, device: torch.device, together: Peers = ALONE
    ) -> None:
        self.peers, self.processes, self.device = together, together.count, device
        self.model = model.to(device)
        if recipe.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        check_stages(self.model, recipe)
        self.trained = self._compiled = compiled(self.model, recipe)
        self.moved = optimizers(self.model, recipe, recipe.epochs * steps_per_epoch)
        self.average = _average(self.model, recipe.average)
        self.precision: Precision = together.broadcast(resolved(recipe, device))
        self.epochs, self.steps_per_epoch = recipe.epochs, steps_per_epoch
        self.epoch = 0
        self.step = 0
        self.totals = torch.zeros(3, dtype=torch.float64, device=device)
        self.seconds, self.rate = 0.0, 0.0
        self.history: list[Epoch] = []
        self.sessions: list[Session] = []
        self.saved = False

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated and, in the end, kept."""
        return self.model if self.average is None else self.average.module

    @property
    def learning_rate(self) -> float:
        """The rate of the recipe's own optimiser now, of modules whose share of it is whole."""
        group = self.moved[0].optimizer.param_groups[0]
        return float(group["lr"]) / float(group["scale"])

    def enter(self, session: Session) -> None:
        """Take the steps that are left in this process; where none are, it is no session of the training."""
        if self.epoch < self.epochs:
            self.sessions.append(session)

    def wrap(self) -> None:
        """Let steps average the gradients of what is trained now; to be called where that has changed."""
        self.trained = self._compiled  # the old one goes first: what it keeps is as large as the gradients
        self.trained = self.peers.wrapped(self._compiled)

    def save(self, path: Path, key: Key) -> None:
        """Write a checkpoint, whole or not at all; of several processes the first does, and all call it.

        Raises RecipeError where a weight is no finite number: what was saved before stays, and was good.
        """
        norms = torch.stack([parameter.detach().norm() for parameter in self.model.parameters()])
        if not bool(norms.isfinite().all()):
            raise self.diverged("the weights are no longer finite")
        totals, generators = self.peers.gather(self.totals.cpu()), self.peers.gather(generator_states(self.device))
        self.saved = True
        if not self.peers.first:
            return
        self.sessions[-1:] = [msgspec.structs.replace(each, until=now()) for each in self.sessions[-1:]]
        content = {
            "version": CHECKPOINT_VERSION,
            "key": key,
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "optimizers": [each.optimizer.state_dict() for each in self.moved],
            "schedules": [each.schedule.state_dict() for each in self.moved],
            "precision": self.precision,
            "generators": generators,
            "epoch": self.epoch,
            "epochs": self.epochs,
            "step": self.step,
            "steps_per_epoch": self.steps_per_epoch,
            "totals": torch.cat(totals),
            "seconds": self.seconds,
            "rate": self.rate,
            "history": msgspec.to_builtins(self.history),
            "sessions": msgspec.to_builtins(self.sessions),
        }
        with replacing(path) as temporary:
            try:
                torch.save(content, temporary)
                Stopped(self.epoch, self.epochs, self.step, self.steps_per_epoch).put_into(temporary)
            except RuntimeError as problem:  # torch's writer reports a full disk this way
                raise OutputError(f"cannot write {path}: {first_line(problem)}", "free some disk space") from problem

    def diverged(self, problem: str) -> RecipeError:
        """What a training ends with whose numbers are none; a checkpoint from before is of weights that were good."""
        kept = "; the checkpoint from before is kept" if self.saved else ""
        return RecipeError(f"{problem} in epoch {self.epoch + (self.step > 0)}{kept}", "lower train.learning_rate")

    def load(self, path: Path, key: Key) -> None:
        """Continue from a checkpoint of the same training; raises UsageError for another's, ModelError for a damaged one."""
        content = self.peers.broadcast(read_checkpoint(path) if self.peers.first else {})
        changed = differences(content, key)
        if changed:
            raise UsageError(f"{path} was made with other {' and other '.join(changed)}", "--restart begins anew")
        try:
            place = self._place(content)
            own = 0 if place.epoch == self.epochs else self.peers.rank
            self.totals = self.totals.copy_(content["totals"].view(-1, 3)[own])
            self.model.load_state_dict(content["model"])
            if self.average is not None:
                self.average.load_state_dict(content["average"])
            for each, optimizer, schedule in zip(self.moved, content["optimizers"], content["schedules"], strict=True):
                each.optimizer.load_state_dict(optimizer)
                each.schedule.load_state_dict(schedule)
            restore_generators(content["generators"][own], self.device)
        except Exception as problem:  # odd content makes torch trip over whatever comes
            reason = f"{type(problem).__name__}: {first_line(problem)}"
            raise ModelError(f"checkpoint {path} is damaged: {reason}", "--restart begins anew") from None
        self.epoch, self.step, self.seconds, self.history = place.epoch, place.step, place.seconds, place.history
        self.rate, self.sessions, self.saved = place.rate, place.sessions, True
        self.precision, self.processes = place.precision, int(content["key"].get(PROCESSES, "1"))

    def _place(self, content: dict[str, Any]) -> _Place:
        """Where a checkpoint's training stopped; raises ValueError unless that is a place in this training."""
        place = msgspec.convert({name: content[name] for name in _Place.__struct_fields__}, _Place)
        if (place.epochs, place.steps_per_epoch) != (self.epochs, self.steps_per_epoch):
            raise ValueError(f"it has {place.epochs} epochs of {place.steps_per_epoch} steps")
        if place.epoch > self.epochs or place.step > self.steps_per_epoch or len(place.history) != place.epoch:
            raise ValueError(
                f"it stopped in epoch {place.epoch + 1}, step {place.step}, with {len(place.history)} epochs recorded"
            )
        if content["totals"].dim() != 1 or len(content["totals"]) % len(self.totals):
            raise ValueError(f"it has totals of shape {tuple(content['totals'].shape)}")
        for each, schedule in zip(self.moved, content["schedules"], strict=True):
            if schedule.keys() != each.schedule.state_dict().keys():
                raise ValueError("its schedule is of another kind")
        return place


Several: TypeAlias = "tuple[Tensor, ...] | list[Tensor]"


def _average(model: nn.Module, decay: float) -> AveragedModel | None:
    """The moving average of weights and buffers: a = d a + (1 - d) w after step n, with d = min(decay, (1 + n) / (10 + n)).

    So the weights at the start are forgotten in short trainings too. Buffers of whole numbers, like indices, are copied.
    """
    if not decay:
        return None

    @torch.no_grad()
    def lean(averages: Several, values: Several, steps: int | Tensor) -> None:
        if averages[0].is_floating_point():
            weight = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
            torch._foreach_lerp_(averages, values, weight)
        else:
            torch._foreach_copy_(averages, values)

    return AveragedModel(model, multi_avg_fn=lean, use_buffers=True)
