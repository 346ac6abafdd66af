"""How a step computes: the dtype of its passes, and whether the network is compiled for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import nn

from edgekit.errors import MissingError, first_line
from edgekit.machine.cpu import cpu_vendor, instruction_sets
from edgekit.recipe import TrainRecipe

Precision: TypeAlias = Literal["float32", "bfloat16"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
BFLOAT16_PAYS = (("amx_bf16", ""), ("avx512_bf16", "AuthenticAMD"))
"""Instruction sets by which a step in bfloat16 is faster than in float32, and of whose CPUs; without a vendor, of all.

AMD's AVX-512 multiplies bfloat16 at twice the rate of float32. Intel's does not: where AMX is absent, or hidden from a virtual
machine, a step in bfloat16 takes 1.0 to 1.4 times as long (``benchmarks/train_dtypes.py``). ARM's ``bf16`` was not measured.
"""


def resolved(settings: TrainRecipe, device: torch.device) -> Precision:
    """The dtype of forward and backward passes: ``auto`` is bfloat16 where ``device`` is known to be faster in it.

    That follows from what the device is and not from a measurement, which a busy machine turns about: the same recipe has to
    give the same weights on it.
    """
    if settings.precision != "auto":
        return settings.precision
    return "bfloat16" if bfloat16_pays_on(device) else "float32"


def bfloat16_pays_on(device: torch.device) -> bool:
    """Whether ``device`` multiplies faster in bfloat16."""
    return torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else bfloat16_pays()


def recorded(facts: Mapping[str, str]) -> Precision | None:
    """The dtype among the facts of a training that was done; None where they have none that is known."""
    return next((name for name in PRECISIONS if facts.get("precision") == name), None)


def bfloat16_pays() -> bool:
    """Whether this CPU computes a step faster in bfloat16."""
    return any(name in instruction_sets() and vendor in ("", cpu_vendor()) for name, vendor in BFLOAT16_PAYS)


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
