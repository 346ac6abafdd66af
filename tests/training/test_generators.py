"""Random numbers go on where a training stopped, whatever device draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekit.recipe import TrainRecipe
from edgekit.training.generators import generator_states, restore_generators
from edgekit.training.state import State

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


class FakeCuda:
    """Stands for a CUDA device's generator: keeps its state by device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: dict[Any, torch.Tensor] = {CUDA: torch.arange(16, dtype=torch.uint8)}
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: self.states[device])
        monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: self.states.update({device: state}))


def test_the_numbers_of_the_cpu_go_on() -> None:
    before = generator_states(CPU)
    drawn = torch.rand(3)
    torch.rand(5)
    assert set(before) == {"cpu"}
    restore_generators(before, CPU)
    assert torch.equal(torch.rand(3), drawn)


def test_a_checkpoint_keeps_the_generator_of_the_device_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state(device: torch.device) -> State:
        made = State(nn.Linear(2, 2), TrainRecipe(epochs=2), 3, CPU)
        made.device = device
        return made

    cuda = FakeCuda(monkeypatch)
    state(CUDA).save(tmp_path / "cuda.pt", {})
    state(CPU).save(tmp_path / "cpu.pt", {})
    kept = cuda.states[CUDA].clone()
    cuda.states[CUDA] = torch.zeros(16, dtype=torch.uint8)
    state(CUDA).load(tmp_path / "cuda.pt", {})
    assert torch.equal(cuda.states[CUDA], kept)
    for device, file in ((CPU, "cuda.pt"), (CUDA, "cpu.pt")):  # another kind of device goes on as well
        cuda.states[CUDA] = torch.ones(16, dtype=torch.uint8)
        state(device).load(tmp_path / file, {})
        assert torch.equal(cuda.states[CUDA], torch.ones(16, dtype=torch.uint8))
