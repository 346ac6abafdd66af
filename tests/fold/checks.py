"""Helpers of the folding tests: the error of a fold, and models for several files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgekit.fold import fold
from edgekit.graphs.trace import named_outputs, tensors_of
from edgekit.reports.export import FoldReport
from edgekit.tensors import TensorSpec
from tests.networks import randomise_norms

EXACT = 1e-12

CONVOLUTIONS: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: tuple[Callable[..., nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def spec(*shape: int, dtype: str = "float32") -> tuple[TensorSpec, ...]:
    return (TensorSpec("input", dtype, ("batch", *shape)),)


def error(folded: nn.Module, original: nn.Module, inputs: Sequence[TensorSpec]) -> float:
    """The largest error of scale of any output of ``folded``, on three samples."""
    with torch.inference_mode():  # a model may write into its inputs, so each model gets its own
        ours = named_outputs(folded(*tensors_of(inputs, 3)))
        theirs = named_outputs(copy.deepcopy(original).eval()(*tensors_of(inputs, 3)))
    assert ours.keys() == theirs.keys()
    return max(float((ours[key] - theirs[key]).abs().max() / theirs[key].abs().max().clamp_min(1e-30)) for key in theirs)


def fold_exactly(model: nn.Module, *shape: int) -> tuple[fx.GraphModule, FoldReport]:
    """Fold in float64, and compare the result with the model."""
    inputs = spec(*shape, dtype="float64")
    model = randomise_norms(model).double()
    graph, report = fold(model, inputs)
    assert error(graph, model, inputs) <= EXACT
    assert (report.error_float64 is None) == (not report.folded)
    assert (report.error_float64 or 0.0) <= EXACT
    return graph, report


def norm_nodes(graph: fx.GraphModule) -> int:
    return sum(node.target is torch.ops.aten.batch_norm.default for node in graph.graph.nodes)


def paths(report: FoldReport) -> dict[str, str]:
    """Norm -> the layers that took the norm, joined by commas."""
    return {item.norm: ", ".join(item.into) for item in report.folded}


def with_values(norm: nn.Module, **values: Sequence[float]) -> nn.Module:
    with torch.no_grad():
        for name, value in values.items():
            getattr(norm, name).copy_(torch.tensor(value))
    return norm


class Skip(nn.Module):
    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), norm or nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.norm(y) + torch.relu(y)


class Calls(nn.Module):
    """A model of named layers and a function that calls them."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.call = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


def seq(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers)
