"""Checkpoints: everything that changes while training, saved between two steps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from edgekit.errors import ModelError, OutputError, RecipeError, UsageError, first_line
from edgekit.files import fingerprints, replacing, write_error
from edgekit.recipe import Recipe, TrainRecipe
from edgekit.reports.train import Epoch, Session
from edgekit.training.code import source_files
from edgekit.training.distributed import ALONE, Peers
from edgekit.training.folder import CHECKPOINT, INT8_CHECKPOINT, RUN_PROBLEM, Stopped, run_recipe, run_report
from edgekit.training.generators import generator_states, restore_generators
from edgekit.training.initial import state_sha256, structure_sha256
from edgekit.training.numerics import Precision, compiled, resolved
from edgekit.training.optimizers import check_stages, optimizers
from edgekit.training.provenance import now

Key: TypeAlias = dict[str, str]
"""Everything that trained weights depend on, by what it is: short values as JSON, others as a hash."""

CHECKPOINT_VERSION = 6
PROCESSES = "number of processes"
LONGEST_VALUE = 40
"""Characters of a setting that is kept as it is, to be told where it has changed."""


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
    the last step taken. ``totals`` are of this process's shares;
    ``processes`` have taken the steps, in ``sessions`` one after another.
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
        """Write a checkpoint, whole or not at all; of several processes the first does, and all call it."""
        self._refuse_divergence()
        totals, generators = self.peers.gather(self.totals.cpu()), self.peers.gather(generator_states(self.device))
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

    def _refuse_divergence(self) -> None:
        """Raise RecipeError where a weight is no finite number: what was saved before stays, and was good."""
        norms = torch.stack([parameter.detach().norm() for parameter in self.model.parameters()])
        if not bool(norms.isfinite().all()):
            raise RecipeError(
                f"the weights are no longer finite in epoch {self.epoch + (self.step > 0)}; a checkpoint from before is kept",
                "lower train.learning_rate",
            )

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
        self.rate, self.sessions = place.rate, place.sessions
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


def dependencies(recipe: Recipe, data: Any, initial: nn.Module) -> dict[str, Any]:
    """Everything that trained weights depend on, by name: what a checkpoint and a finished training must agree on.

    ``data`` changes with the data set, ``initial`` is the model as it was built, which shows what its factory read.
    """
    train = msgspec.structs.replace(recipe.train.without_bars(), int8=None)  # it begins with these weights
    tables = {"model": recipe.model.without_place(), "train": train}
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


def training_key(recipe: Recipe, data: str, initial: nn.Module, processes: int) -> Key:
    """Each of the ``dependencies``, or its hash; ``data`` is the hash of the data set (``Dataset.sha256``).

    Steps depend on the number of processes too: each draws random numbers of its own, and sums are rounded otherwise.
    """
    return as_key({**dependencies(recipe, data, initial), PROCESSES: processes})


def as_key(values: Mapping[str, Any]) -> Key:
    """Each value as JSON, or its hash where that is long."""
    texts = {name: msgspec.json.encode(value, order="deterministic") for name, value in values.items()}
    return {
        name: text.decode() if len(text) <= LONGEST_VALUE else hashlib.sha256(text).hexdigest() for name, text in texts.items()
    }


def differences(content: dict[str, Any], key: Key) -> list[str]:
    """What a checkpoint was made with that is no longer so, by its names in ``training_key``: ``train.epochs (8, now 9)``.

    The number of processes is of no matter after the last step.
    """
    old = content.get("key")
    before = old if isinstance(old, dict) else {}
    return [
        f"{name} ({before[name]}, now {value})"
        if name in before and max(len(before[name]), len(value)) <= LONGEST_VALUE
        else name
        for name, value in key.items()
        if before.get(name) != value and (name != PROCESSES or before_end(content))
    ]


def unfinished(run: Path) -> bool:
    """Whether another training in ``run`` would lose one; raises ModelError as ``checkpoint_in`` does.

    That is one with epochs left, or one that has ended and is not in the report, which is written last: so a kill at any moment
    leaves a training that goes on.
    """
    contents = [checkpoint_in(run, name) for name in (CHECKPOINT, INT8_CHECKPOINT)]
    if not any(contents):
        return False
    try:
        recipe, report = run_recipe(run), run_report(run)
    except ModelError:
        return True
    if recipe.train.int8 is not None and report.int8 is None:
        return True
    recorded = (report.epochs, report.int8.epochs if report.int8 is not None else ())
    return any(content and not _is_of(content, epochs) for content, epochs in zip(contents, recorded, strict=True))


def _is_of(content: dict[str, Any], epochs: tuple[Epoch, ...]) -> bool:
    """Whether a checkpoint is from the end of the training with these ``epochs``."""
    with suppress(msgspec.ValidationError):
        return not before_end(content) and msgspec.convert(content.get("history"), tuple[Epoch, ...]) == epochs
    return False


def checkpoint_in(run: Path, name: str = CHECKPOINT) -> dict[str, Any] | None:
    """The checkpoint ``name`` in ``run``; None without one, and for one of another version that had reached its end.

    Raises ModelError where what may be an unfinished training cannot be read: only the user may give it up.
    """
    path = run / name
    if not path.exists():
        return None
    content = _loaded(path)
    if content.get("version") != CHECKPOINT_VERSION and not before_end(content):
        return None
    return _of_this_version(content, path)


def goes_on(run: Path, key: Key, name: str = CHECKPOINT, *, left: bool | None = None) -> bool:
    """Whether ``run`` holds a checkpoint ``name`` of this training.

    Raises UsageError where one of another would be lost that is ``left`` unfinished (by default, that has epochs left),
    ModelError where one that cannot be read would.
    """
    content = checkpoint_in(run, name)
    if content is None:
        return False
    changed = differences(content, key)
    if changed and (before_end(content) if left is None else left):
        other = " and other ".join(changed)
        raise UsageError(f"{run} holds an unfinished training, which was made with other {other}", "--restart begins anew")
    return not changed


def before_end(content: dict[str, Any]) -> bool:
    """Whether a checkpoint's training has epochs left; so has one that does not say."""
    epoch, epochs = content.get("epoch"), content.get("epochs")
    return not (isinstance(epoch, int) and isinstance(epochs, int)) or epoch < epochs


def discard(run: Path) -> None:
    """Remove the checkpoints in ``run``, if there are any, so that nothing goes on with them."""
    _remove(run / CHECKPOINT, run / INT8_CHECKPOINT)


def forget_problem(run: Path) -> None:
    """A training goes on, or begins: why an earlier one failed is past."""
    _remove(run / RUN_PROBLEM)


def _remove(*paths: Path) -> None:
    for path in paths:
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
