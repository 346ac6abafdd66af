"""How a step computes: the dtype of its passes, and whether the network is compiled for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, cast

import torch
from torch import nn

from edgekit.errors import MissingError, first_line
from edgekit.machine.cpu import instruction_sets
from edgekit.recipe import TrainRecipe

Precision: TypeAlias = Literal["float32", "bfloat16"]

WITH_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Instruction sets that multiply bfloat16; without them PyTorch widens every number, which takes longer than float32."""


def resolved(settings: TrainRecipe, device: torch.device) -> Precision:
    """The dtype of forward and backward passes: ``auto`` is bfloat16 where ``device`` has arithmetic for it."""
    if settings.precision != "auto":
        return settings.precision
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else has_bfloat16()
    return "bfloat16" if fast else "float32"


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16."""
    return any(name in WITH_BFLOAT16 for name in instruction_sets())


def compiled(model: nn.Module, settings: TrainRecipe) -> nn.Module:
    """The model as steps call it, compiled at the first call if the recipe asks; its parameters are ``model``'s.

    Raises MissingError where there is no C++ compiler to do it.
    """
    if not settings.compile:
        return model
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise MissingError("train.compile needs a C++ compiler, and none is found", "install g++, or leave train.compile out")
    return cast(nn.Module, torch.compile(model))


@contextmanager
def compiling(settings: TrainRecipe) -> Iterator[None]:
    """Turn the compiler's errors, which come at the first step, into one sentence."""
    try:
        yield
    except Exception as problem:
        if not settings.compile or not type(problem).__module__.startswith("torch._"):
            raise
        raise MissingError(f"the model could not be compiled: {first_line(problem)}", "leave train.compile out") from problem
