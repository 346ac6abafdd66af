"""Norms that cannot be folded, and the reasons in the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from edgekit.fold import fold
from edgekit.models.batchnorm import BatchNorm
from tests.fold.checks import EXACT, Skip, error, fold_exactly, norm_nodes, spec, with_values
from tests.networks import randomise_norms


class AlsoOutput(Skip):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return self.norm(y), y


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.conv(self.conv(x)))


class SharedWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.first(x)) + self.second(x)


class PartOfAWeight(Skip):
    def forward(self, x: Tensor) -> Any:
        return self.norm(F.conv2d(x, self.conv.weight.flip(0)))


class AfterCat(Skip):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.norm(torch.cat((y[:, :1], y[:, 1:]), dim=1))


class Tied(Skip):
    """A layer and a norm that share one bias."""

    def __init__(self) -> None:
        super().__init__()
        norm: Any = self.norm
        norm.bias = self.conv.bias

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.conv(x))


REFUSALS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    "another user": (Skip, (1, 5, 5), "other-users", "the output of conv is also used by relu"),
    "an output of the model": (AlsoOutput, (1, 5, 5), "other-users", "the output of conv is also used by the model's output"),
    "one layer called twice": (CalledTwice, (3, 7, 7), "shared-weight", "weight of conv is shared with conv2d in conv"),
    "a shared weight": (SharedWeight, (3, 5, 5), "shared-weight", "is shared with conv2d in second"),
    "statistics of the batch": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)),
        (1, 5, 5),
        "training",
        "it uses the statistics of the batch, even in inference mode",
    ),
    "before a padded layer": (
        lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3, padding=1)),
        (1, 5, 5),
        "input",
        "behind it: conv2d in 1 pads its input with zeros",
    ),
    "after relu": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)),
        (1, 5, 5),
        "nonlinear",
        "relu in 1 bends at zero, and a shift moves it there",
    ),
    "after a maximum, with a negative scale": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), with_values(nn.BatchNorm2d(3), weight=(1, -1, 1))),
        (1, 6, 6),
        "nonlinear",
        "max_pool2d in 1 takes a maximum, and a scale is negative",
    ),
    "after cat of slices": (AfterCat, (1, 5, 5), "between", "no convolution or linear layer before it, but slice"),
    "axis 1 is not the layer's outputs": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(4)),
        (4, 6),
        "another-axis",
        "it normalises axis 1, the outputs of 0 lie along axis 2",
    ),
    "axis 1 is not the layer's outputs, of the same size": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
        (4, 4),
        "another-axis",
        "it normalises axis 1, the outputs of 0 lie along axis 2",
    ),
}


@pytest.mark.parametrize(("build", "shape", "code", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_norm_is_kept_and_says_why(build: Callable[[], nn.Module], shape: tuple[int, ...], code: str, reason: str) -> None:
    model: Any = build()
    keep = model[2].weight.detach().clone() if "negative" in reason else None
    model = randomise_norms(model).double()
    if keep is not None:
        with_values(model[2], weight=keep.tolist())
    inputs = spec(*shape, dtype="float64")
    graph, report = fold(model, inputs)
    assert error(graph, model, inputs) <= EXACT
    assert report.folded == ()
    (norm,) = report.kept
    assert reason in norm.reason
    assert norm.obstacles[0].code == code
    assert norm.nodes == norm_nodes(graph) == 1


@pytest.mark.parametrize(
    "build", [PartOfAWeight, Tied, lambda: nn.Sequential(weight_norm(nn.Conv2d(1, 3, 3)), nn.BatchNorm2d(3))]
)
def test_a_weight_that_is_computed_and_a_shared_bias_become_plain_ones(build: Callable[[], nn.Module]) -> None:
    graph, report = fold_exactly(build(), 1, 5, 5)
    assert len(report.folded) == 1
    layers = [node for node in graph.graph.nodes if node.target is torch.ops.aten.conv2d.default]
    assert [[arg.op for arg in node.args[1:3]] for node in layers] == [["get_attr", "get_attr"]]


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, BatchNorm])
def test_a_norm_that_is_not_finite_is_kept_and_says_so(norm: Callable[[int], nn.Module], value: float, name: str) -> None:
    model = randomise_norms(nn.Sequential(nn.Conv2d(1, 3, 3), norm(3)))
    with_values(model[1], **{name: (1.0, value, 1.0)})
    _, report = fold(model, spec(1, 5, 5))
    if norm is BatchNorm and (name, value) == (
        "running_var",
        float("inf"),
    ):  # written out, the norm divides by infinity: a map to beta
        assert len(report.folded) == 1
        return
    assert [item.reason for item in report.kept] == ["its statistics or parameters are not finite"]


def test_a_negative_variance_is_not_finite_either() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3), with_values(nn.BatchNorm2d(1), running_var=(-1.0,)))
    _, report = fold(model, spec(1, 5, 5))
    assert [item.reason for item in report.kept] == ["its statistics or parameters are not finite"]


def test_a_written_out_norm_that_is_kept_leaves_no_batch_norm_node() -> None:
    _, report = fold_exactly(nn.Sequential(BatchNorm(1), nn.Conv2d(1, 2, 3, padding=1)), 1, 5, 5)
    assert [(item.norm, item.kind, item.nodes) for item in report.kept] == [("0", "BatchNorm", 0)]
    _, report = fold_exactly(Skip(BatchNorm(3)), 1, 5, 5)
    assert [item.nodes for item in report.kept] == [0]
    assert report.kept[0].reason.startswith("the output of conv is also used by relu")
