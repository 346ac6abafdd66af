"""Optimisers and schedules: which parameter is moved by what, how fast, and from which epoch on."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LRScheduler, OneCycleLR

from edgekit.errors import MissingError, RecipeError
from edgekit.recipe import StageRecipe, TrainRecipe
from edgekit.spelling import did_you_mean
from edgekit.training.numerics import bfloat16_pays_on


class Moved(NamedTuple):
    """An optimiser with the schedule of its rates."""

    optimizer: torch.optim.Optimizer
    schedule: LRScheduler


def optimizers(model: nn.Module, settings: TrainRecipe, steps: int) -> tuple[Moved, ...]:
    """One optimiser, or Muon and AdamW beside it, for ``steps`` steps in all.

    Weight decay pulls on weights alone: batch norms' scales and biases are left out. Muon takes what ``matrices`` names; the rest
    is AdamW's at ``learning_rate_rest``. Raises RecipeError for a stage that names no parameter, MissingError where timm, which
    brings Muon, is not installed.
    """
    orthogonal = matrices(model) if settings.optimizer == "muon" else frozenset()
    moved = []
    for own in (True, False):
        names = [name for name, _ in model.named_parameters() if (name in orthogonal) is own]
        if names:
            groups = list(_groups(model, names, settings))
            rates = _rates(settings, own)
            made = _muon(groups, settings, rates) if own else _usual(groups, settings, rates)
            moved.append(Moved(made, _schedule(made, settings, steps)))
    return tuple(moved)


def matrices(model: nn.Module) -> frozenset[str]:
    """The parameters that Muon suits: weights of convolutions and linear layers that mix channels, but the last one's.

    A filter of a depthwise or grouped convolution has nothing to be orthogonal to outside its group. Embeddings, tokens and
    parameters of other modules are no matrices between two layers. A weight is a matrix of outputs by all that one output sees.
    """
    named = {
        f"{name}.weight".lstrip("."): module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, _ConvNd) and module.groups == 1)
    }
    own = [name for name, parameter in model.named_parameters() if parameter is named.get(name)]
    return frozenset(name for name in own[:-1] if min(len(named[name]), named[name][0].numel()) >= FEWEST_ROWS)


FEWEST_ROWS = 4
"""A matrix of fewer rows or columns has too few directions to be made equally long: timm draws the same line."""


def _rates(settings: TrainRecipe, own: bool) -> float:
    """The highest rate: of the recipe's optimiser, or of AdamW for what Muon does not take."""
    if own or settings.optimizer != "muon":
        return settings.learning_rate
    return settings.learning_rate_rest or settings.learning_rate / 4


def _groups(model: nn.Module, names: Iterable[str], settings: TrainRecipe) -> Iterable[dict[str, Any]]:
    """Parameters of one share of the rate and one decay each; ``scale`` is the share."""
    parameters = dict(model.named_parameters())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name in names:
        stage = stage_of(name, settings.stages)
        decay = settings.weight_decay if parameters[name].dim() > 1 else 0.0
        groups.setdefault((stage.rate if stage else 1.0, decay), []).append(parameters[name])
    for (scale, decay), members in groups.items():
        yield {"params": members, "weight_decay": decay, "scale": scale}


def _with_rates(groups: list[dict[str, Any]], rate: float) -> list[dict[str, Any]]:
    return [{**group, "lr": rate * group["scale"]} for group in groups]


def _muon(groups: list[dict[str, Any]], settings: TrainRecipe, rate: float) -> torch.optim.Optimizer:
    try:
        from timm.optim.muon import Muon
    except ImportError as problem:
        raise MissingError("the optimizer muon is part of timm, which is not installed", "pip install timm") from problem
    device = next(parameter for group in groups for parameter in group["params"]).device
    dtype = torch.bfloat16 if bfloat16_pays_on(device) else torch.float32

    class Fast(Muon):
        def step(self, closure: Any = None) -> Any:
            with _multiplying_in(dtype, sys.modules[Muon.__module__]):
                return super().step(closure)  # type: ignore[no-untyped-call]

    # as it was published (K. Jordan, Muon: An optimizer for hidden layers in neural networks, 2024)
    # ``use_muon``: without it timm moves a weight whose shape it dislikes by NAdamW, at Muon's rate
    taken = [{**group, "use_muon": True} for group in _with_rates(groups, rate)]
    made: torch.optim.Optimizer = Fast(taken, rate, nesterov=True, adjust_lr_fn="original")
    return made


@contextmanager
def _multiplying_in(dtype: torch.dtype, timm_muon: Any) -> Iterator[None]:
    """Let timm's function that makes a matrix orthogonal compute in ``dtype``: its class does not hand that argument on."""
    usual = timm_muon.zeropower_via_newtonschulz
    timm_muon.zeropower_via_newtonschulz = partial(usual, dtype=dtype)
    try:
        yield
    finally:
        timm_muon.zeropower_via_newtonschulz = usual


def _usual(groups: list[dict[str, Any]], settings: TrainRecipe, rate: float) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        made = torch.optim.SGD(_with_rates(groups, rate), rate, momentum=0.9, nesterov=True, fused=True)
        for group in made.param_groups:  # the fused kernel takes no group of which some, thawed later, have none yet
            made.state.update({each: {"momentum_buffer": torch.zeros_like(each)} for each in group["params"]})
        return made
    return torch.optim.AdamW(_with_rates(groups, rate), rate, fused=True)  # Adam where weight_decay is 0


def _schedule(optimizer: torch.optim.Optimizer, settings: TrainRecipe, steps: int) -> LRScheduler:
    if settings.schedule == "one-cycle" and steps > 1:
        highest = [float(group["lr"]) for group in optimizer.param_groups]
        return OneCycleLR(optimizer, highest, total_steps=steps + 1)
    shape = SHAPES.get(settings.schedule)
    if shape is None or steps == 1:
        return ConstantLR(optimizer, factor=1.0, total_iters=1)
    rise = max(1, round(settings.warmup * steps))
    return LambdaLR(optimizer, lambda step: min((step + 1) / rise, shape(max(0, step - rise) / max(1, steps - rise))))


SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda part: 1 - part,
    "cosine": lambda part: (1 + math.cos(math.pi * part)) / 2,
}
"""How the rate falls over the ``part`` of the steps, from 0 to 1, that is taken after it has risen."""


def stage_of(name: str, stages: tuple[StageRecipe, ...]) -> StageRecipe | None:
    """The stage with the longest prefix of a parameter's, or module's, name."""
    fitting = [stage for stage in stages if within(name, stage.modules)]
    return max(fitting, key=lambda stage: len(stage.modules), default=None)


def within(name: str, module: str) -> bool:
    """Whether ``name`` is the module's own, or that of something in it."""
    return name == module or name.startswith(f"{module}.")


def check_stages(model: nn.Module, settings: TrainRecipe) -> None:
    """Raise RecipeError for a stage that holds no parameter, or where nothing is trained in the first epoch."""
    names = [name for name, _ in model.named_parameters()]
    modules = [name for name, _ in model.named_modules() if name]
    for stage in settings.stages:
        if not any(within(name, stage.modules) for name in names):
            raise RecipeError(
                f"train.stages: {stage.modules!r} is no module of the model with weights",
                f"name one like {', '.join(modules[:5])}{did_you_mean(stage.modules, modules)}",
            )
    if all(frozen(name, settings, epoch=0) for name in names):
        raise RecipeError("train.stages leaves nothing to train in the first epoch", "let one stage have thaw = 1")


def frozen(name: str, settings: TrainRecipe, epoch: int) -> bool:
    """Whether a parameter or module stands still in ``epoch`` (from 0)."""
    stage = stage_of(name, settings.stages)
    return stage is not None and (stage.thaw == 0 or epoch + 1 < stage.thaw)


def freeze(model: nn.Module, settings: TrainRecipe, epoch: int) -> None:
    """Let the model train in ``epoch`` (from 0): frozen parameters get no gradient, frozen batch norms and dropout infer."""
    model.train()
    if not settings.stages:
        return
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen(name, settings, epoch))
    for name, module in model.named_modules():
        if name and frozen(name, settings, epoch):
            module.eval()
