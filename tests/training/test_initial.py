"""What a model shows of the settings that it was built with."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.training.initial import state_sha256, structure_sha256


@dataclasses.dataclass
class Config:
    """Settings of a model."""

    scale: float


class Net(nn.Module):
    """A model that keeps a setting, and a list of modules that it does not register."""

    def __init__(self, setting: Any) -> None:
        super().__init__()
        self.setting = setting
        self.beside = [nn.Dropout(0.5)]
        self.itself = [self]
        self.register_forward_hook(lambda module, inputs, output: None)


def held(value: float) -> Callable[[], float]:
    return lambda: value


SETTINGS: dict[str, Callable[[float], Any]] = {
    "number": lambda value: value,
    "private dict": lambda value: {"deep": [{"scale": value}]},
    "dataclass": Config,
    "namespace": lambda value: argparse.Namespace(scale=value),
    "simple namespace": lambda value: SimpleNamespace(scale=value),
    "set": lambda value: {"b", "a", value},
    "array": lambda value: np.full(3, value),
    "tensor": lambda value: torch.full((3,), value),
    "closure": held,
    "partial": lambda value: functools.partial(max, value),
    "unregistered module": lambda value: [nn.Dropout(value)],
    "registered module": nn.Dropout,
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_setting_of_any_kind_changes_the_structure_and_no_weights(kind: str) -> None:
    first, same, other = (Net(SETTINGS[kind](value)) for value in (0.25, 0.25, 0.5))
    assert structure_sha256(first) == structure_sha256(same) != structure_sha256(other)
    assert state_sha256(first) == state_sha256(other)


def test_another_class_of_module_changes_the_structure() -> None:
    assert structure_sha256(nn.Sequential(nn.ReLU())) != structure_sha256(nn.Sequential(nn.SiLU()))


def test_the_structure_is_the_same_in_another_process() -> None:
    code = (
        "from tests.training.test_initial import *\n"
        "print(structure_sha256(Net([make(0.5) for make in SETTINGS.values()])), end='')"
    )
    here = structure_sha256(Net([make(0.5) for make in SETTINGS.values()]))
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == here


def test_weights_change_the_state_and_not_the_structure() -> None:
    first, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert state_sha256(first) != state_sha256(other)
    assert structure_sha256(first) == structure_sha256(other)
