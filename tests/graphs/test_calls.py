"""``edgekit inspect`` counts calls: every call of a module, and calls of functions outside of modules without children."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.commands.inspect import inspect
from edgekit.graphs.table import module_table
from edgekit.reports.inspect import InspectReport
from edgekit.tensors import TensorSpec


def table(model: nn.Module) -> InspectReport:
    return module_table("net", model, (TensorSpec("input", "float32", ("batch", 4, 6, 6)),))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.relu(self.conv(x))
        return x


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.ReLU(), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        y = F.relu(self.inner(x)) + torch.relu(x)
        return torch.flatten(F.max_pool2d(y.relu(), height), 1)


def test_a_resnet_has_17_relus_whether_modules_or_functions_compute_them() -> None:
    assert inspect("resnet18").ops["ReLU"] == 17
    torchvision = inspect("torchvision.models:resnet18", input_shapes=("1x3x32x32",))
    assert torchvision.ops["ReLU"] == 17
    assert torchvision.ops["Conv2d"] == 20


def test_a_module_that_is_called_thrice_counts_and_costs_thrice() -> None:
    report = table(Shared())
    assert report.ops == {"Conv2d": 3, "ReLU": 3}
    assert [(layer.name, layer.calls, layer.macs) for layer in report.layers] == [("conv", 3, 3 * 36 * 4 * 4 * 9), ("relu", 3, 0)]
    assert report.macs == 3 * 36 * 4 * 4 * 9
    assert report.parameters == 4 * 4 * 9 + 4
    assert report.layers[0].output_shape == ("batch", 4, 6, 6)
    assert InspectReport.from_json(report.to_json()) == report


class Attention(nn.Module):
    """A transformer block with products in modules, in functions, and in attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.weight = nn.Parameter(torch.ones(3, 4, 1, 1))
        self.head = nn.ConvTranspose2d(3, 2, 2, groups=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.conv2d(x, self.weight))
        tokens = x.flatten(2)[:, :, :6]
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        total: Tensor = y.flatten(1) + F.scaled_dot_product_attention(tokens, tokens, tokens).sum() + attended.sum()
        return total


def test_products_cost_the_same_in_modules_and_functions() -> None:
    report = table(Attention())
    convolution, transposed = 36 * 4 * 3, 36 * 3 * 2 * 4
    attention = 4 * (4 * 6 * 6) + 2 * 4 * 4 * 6
    assert {layer.name: layer.macs for layer in report.layers if layer.macs} == {"head": transposed}
    assert report.macs == convolution + transposed + attention + 2 * 4 * 4 * 6


def test_a_blocks_row_has_its_own_forwards_work_and_not_its_modules() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = F.conv2d(self.inner(x), self.inner.weight.repeat(2, 1, 1, 1))
            return y

    report = table(nn.Sequential(Block(), nn.Conv2d(8, 1, 1)))
    assert {layer.name: layer.macs for layer in report.layers} == {"0.inner": 36 * 16, "0": 36 * 32, "1": 36 * 8}
    assert report.macs == 36 * (16 + 32 + 8)


def test_functions_count_beside_modules_but_not_inside_a_module_without_children() -> None:
    assert table(Functional()).ops == {"Flatten": 1, "MaxPool2d": 1, "ReLU": 4, "Sigmoid": 1, "add": 1}


def test_a_model_that_fails_leaves_no_mode_behind() -> None:
    with pytest.raises(ValueError, match="does not take an input"):
        table(nn.Sequential(nn.Linear(3, 3)))
    assert torch.relu(torch.ones(1)).item() == 1
    assert not torch.overrides._get_current_function_mode_stack()  # type: ignore[no-untyped-call]  # torch types none of it
