"""Errors of a model's own code, named by the line where they begin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgekit.errors import ModelError
from edgekit.graphs.trace import trace
from edgekit.graphs.user_code import fixed_sizes
from edgekit.models.factory import build_module
from edgekit.tensors import BATCH, TensorSpec

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def features(self, x):
        return self.conv(x).mean((2, 3))


class Flat(Net):
    def forward(self, x):
        y = self.features(x)
        return self.head(y.view(1, -1))  # HERE


class Hard(Net):
    def forward(self, x):
        y = self.conv(x)
        return self.head(y.view(2, 8, -1).mean(-1))  # HERE


class Loop(Net):
    def forward(self, x):
        y = self.features(x)
        return torch.stack([self.head(y[i]) for i in range(len(y))])  # HERE


class Branch(Net):
    def forward(self, x):
        y = self.features(x)
        if y.sum() > 0:  # HERE
            return y
        return -y


class Number(Net):
    def forward(self, x):
        y = self.features(x)
        n = int(y.argmax())  # HERE
        return y[:, :n]


class Numpy(Net):
    def forward(self, x):
        x = torch.from_numpy(x.numpy() * 2)  # HERE
        return self.features(x)


class Channels(Net):
    def forward(self, x):
        return self.head(self.conv(x))  # HERE
"""


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("Flat", "takes a batch of 1 alone, and fails on 2x3x8x8", "let forward() take any batch"),
        ("Hard", "the batch becomes one number", "use x.shape[0] or -1"),
        ("Loop", "the batch becomes one number", "use x.shape[0] or -1"),
        ("Branch", "Python decides by a tensor's values", "use torch.where"),
        ("Number", "a tensor's values become a Python number", "leave out int()"),
        ("Numpy", "numpy computes", "compute it with torch"),
        ("Channels", "does not take an input of 2x3x8x8", "check --input-shape"),
    ],
)
def test_an_error_names_the_line_of_the_users_file(
    name: str, reason: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"nets_that_fail_as_{name.lower()}"  # imported once in a process
    (tmp_path / f"{module}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    lines = NETS.splitlines()
    number = next(n for n, line in enumerate(lines, 1) if "# HERE" in line and n > lines.index(f"class {name}(Net):"))
    with pytest.raises(ModelError) as caught:
        trace(build_module(f"{module}:{name}"), (TensorSpec("x", "float32", (BATCH, 3, 8, 8)),))
    text = str(caught.value)
    assert f"({module}.py, line {number}: {lines[number - 1].strip()[:20]}" in text
    assert reason in text
    assert remedy in caught.value.remedy
    assert "\n" not in text


def test_a_tracer_without_the_watched_method_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch.fx.experimental.symbolic_shapes.ShapeEnv._set_replacement")
    with fixed_sizes() as lines:
        torch.ones(1)
    assert lines == []
