"""The generators that training draws from, such as dropout's: their states, to go on with where a training stopped."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

States: TypeAlias = dict[str, Tensor]
"""Kind of device -> the state of its generator, uint8 on the CPU."""


def generator_states(device: torch.device) -> States:
    """The state of each generator that a training on ``device`` draws from: the CPU's always, and the device's own."""
    on_cuda = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **on_cuda}


def restore_generators(states: States, device: torch.device) -> None:
    """Set the generators of a training on ``device``; raises KeyError without the CPU's.

    A training that began on another kind of device has no state of this device's: that generator goes on from the seed.
    """
    torch.set_rng_state(states["cpu"].clone())  # PyTorch 2.11 crashes on a view into another tensor
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].clone(), device)
