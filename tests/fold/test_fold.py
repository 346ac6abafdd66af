"""Norms that fold, without a change of the outputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.errors import ModelError
from edgekit.fold import fold
from edgekit.models.batchnorm import BatchNorm
from tests.fold.checks import (
    CONVOLUTIONS,
    EXACT,
    NORMS,
    TRANSPOSED,
    Skip,
    error,
    fold_exactly,
    norm_nodes,
    paths,
    spec,
    with_values,
)
from tests.networks import randomise_norms


def _layers() -> list[tuple[str, nn.Module, nn.Module, tuple[int, ...]]]:
    cases: list[tuple[str, nn.Module, nn.Module, tuple[int, ...]]] = []

    def case(name: str, layer: nn.Module, norm: nn.Module, *shape: int) -> None:
        cases.append((name, layer, norm, shape))

    for index, (conv, transposed, norm) in enumerate(zip(CONVOLUTIONS, TRANSPOSED, NORMS, strict=True)):
        size = (5,) * (index + 1)
        for bias in (True, False):
            case(f"conv{index + 1}d, bias {bias}", conv(3, 4, 3, bias=bias), norm(4), 3, *size)
            case(f"transposed{index + 1}d, bias {bias}", transposed(3, 4, 3, bias=bias), norm(4), 3, *size)
        case(f"grouped conv{index + 1}d", conv(4, 6, 3, groups=2), norm(6), 4, *size)
        case(f"depthwise conv{index + 1}d", conv(4, 8, 3, groups=4, bias=False), norm(8), 4, *size)
        case(
            f"grouped transposed{index + 1}d",
            transposed(4, 6, 3, groups=2, stride=2, output_padding=1, bias=False),
            norm(6),
            *(4, *size),
        )
        case(f"depthwise transposed{index + 1}d", transposed(4, 8, 3, groups=4), norm(8), 4, *size)
        for mode in ("reflect", "circular"):
            case(f"{mode} conv{index + 1}d", conv(2, 3, 3, padding=1, padding_mode=mode), norm(3), 2, *size)
        case(f"same conv{index + 1}d", conv(2, 3, 4, dilation=2, padding="same", bias=False), norm(3), 2, *size)
        case(f"valid conv{index + 1}d", conv(2, 3, 2, padding="valid", stride=2), norm(3), 2, *size)
    case("as many groups as inputs, square", nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4), 4, 5, 5)
    case("dilated conv", nn.Conv2d(2, 3, 3, dilation=2), nn.BatchNorm2d(3), 2, 7, 7)
    case("dilated transposed", nn.ConvTranspose2d(2, 3, 3, dilation=2, padding=1), nn.BatchNorm2d(3), 2, 5, 5)
    case("oblong conv", nn.Conv2d(2, 3, (1, 3), stride=(2, 1), padding=(0, 2)), nn.BatchNorm2d(3), 2, 5, 5)
    case("linear", nn.Linear(5, 4), nn.BatchNorm1d(4), 5)
    case("linear without bias", nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), 4)
    case("norm without affine", nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=False), 2, 5, 5)
    case("norm with a large eps", nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, eps=0.5), 2, 5, 5)
    case("norm written out, after conv", nn.Conv2d(2, 3, 3, bias=False), BatchNorm(3, eps=0.1), 2, 5, 5)
    case("norm written out, after grouped transposed", nn.ConvTranspose2d(4, 6, 3, groups=2), BatchNorm(6), 4, 5, 5)
    case("norm written out, after linear", nn.Linear(5, 4), BatchNorm(4), 5)
    case("sync norm", nn.Conv2d(2, 3, 3), nn.SyncBatchNorm(3), 2, 5, 5)
    return cases


LAYERS = _layers()


@pytest.mark.parametrize(("layer", "norm", "shape"), [case[1:] for case in LAYERS], ids=[case[0] for case in LAYERS])
def test_a_norm_folds_into(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    graph, report = fold_exactly(copy.deepcopy(nn.Sequential(layer, norm)), *shape)
    assert paths(report) == {"1": "0"}
    assert report.folded[0].kind == type(norm).__name__
    assert norm_nodes(graph) == 0
    assert sorted(graph.state_dict()) == ["0.bias", "0.weight"]


@pytest.mark.parametrize(
    ("eps", "values"),
    [
        (1e-5, {"weight": (-1.0, -0.25)}),
        (1e-5, {"weight": (0.0, 1.0)}),
        (1e-5, {"running_var": (0.0, 1e-30)}),
        (1e-12, {"running_var": (1e-10, 1e6)}),
    ],
    ids=["negative gamma", "zero gamma", "no variance", "tiny and huge variance"],
)
def test_unusual_statistics_fold_exactly(eps: float, values: dict[str, Sequence[float]]) -> None:
    model = randomise_norms(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, eps=eps))).double()
    with_values(model[1], **values)
    inputs = spec(1, 5, 5, dtype="float64")
    graph, report = fold(model, inputs)
    assert len(report.folded) == 1
    assert error(graph, model, inputs) <= EXACT


def test_two_norms_in_a_row_fold_into_one_layer() -> None:
    graph, report = fold_exactly(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), BatchNorm(4), nn.BatchNorm2d(4)), 1, 5, 5)
    assert paths(report) == {"1": "0", "2": "0", "3": "0"}
    assert norm_nodes(graph) == 0


def test_one_norm_called_after_two_layers_folds_into_both() -> None:
    norm = nn.BatchNorm2d(3)
    graph, report = fold_exactly(nn.Sequential(nn.Conv2d(1, 3, 3), norm, nn.ReLU(), nn.Conv2d(3, 3, 3), norm), 1, 7, 7)
    assert len(report.folded) == 2
    assert {item.into for item in report.folded} == {("0",), ("3",)}
    assert norm_nodes(graph) == 0


class Crossed(nn.Module):
    """Modules defined in another order than they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_of_last = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(1, 4, 3)
        self.norm_of_first = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 4, 3)
        self.unused = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        y = self.norm_of_first(self.first(x))
        return self.norm_of_last(self.last(torch.relu(y)))


def test_folding_follows_the_data_and_not_the_order_of_modules() -> None:
    _, report = fold_exactly(Crossed(), 1, 7, 7)
    assert paths(report) == {"norm_of_first": "first", "norm_of_last": "last"}
    assert report.kept == ()


class Functional(nn.Module):
    """Functional calls with two weights in a single module, and no layer modules."""

    mean: Tensor
    variance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 1, 3, 3)), nn.Parameter(torch.randn(4, 4, 3, 3))
        self.bias = nn.Parameter(torch.randn(4))
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("variance", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(F.conv2d(input=x, weight=self.first, stride=2), self.mean, self.variance, eps=0.1)
        y = F.batch_norm(F.conv2d(y, weight=self.second, padding="same"), self.mean, self.variance)
        return y * self.bias.reshape(1, -1, 1, 1)


def test_functional_calls_fold_and_other_parameters_keep_their_values() -> None:
    graph, report = fold_exactly(Functional(), 1, 9, 9)
    assert [(item.norm, item.nodes) for item in report.folded] == [("batch_norm", 1), ("batch_norm_1", 1), ("bias", 0)]
    assert norm_nodes(graph) == 0


class ThenAffine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), BatchNorm(3)

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.conv(x)) * 2 + 1


def test_arithmetic_that_follows_a_written_out_norm_is_not_part_of_it() -> None:
    graph, report = fold_exactly(ThenAffine(), 1, 5, 5)
    assert paths(report) == {"norm": "conv"}
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert targets == [torch.ops.aten.conv2d.default, torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor]


def test_instance_norm_counts_as_a_batch_norm_only_with_running_statistics() -> None:
    tracked = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    with_values(tracked, running_mean=(0.5, -1, 2), running_var=(0.5, 2, 3), weight=(-1, 0.5, 2), bias=(1, 2, 3))
    _, report = fold_exactly(nn.Sequential(nn.Conv2d(1, 3, 3), tracked), 1, 5, 5)
    assert paths(report) == {"1": "0"}
    _, report = fold_exactly(nn.Sequential(nn.Conv2d(1, 3, 3), nn.InstanceNorm2d(3), nn.GroupNorm(1, 3)), 1, 5, 5)
    assert report.before == 0


def test_half_precision_is_folded_in_float64_and_rounded_once() -> None:
    model: Any = randomise_norms(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))).half()
    graph, report = fold(model, spec(2, 5, 5, dtype="float16"))
    assert len(report.folded) == 1
    assert {tensor.dtype for tensor in graph.state_dict().values()} == {torch.float16}
    exact, norm = copy.deepcopy(model).double(), model[1].double()
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    expected = (exact[0].weight * scale.reshape(-1, 1, 1, 1)).detach().half()
    assert torch.equal(graph.state_dict()["0.weight"], expected)


def test_bfloat16_inputs_are_refused_in_one_sentence() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).bfloat16()
    with pytest.raises(ModelError, match=r"bfloat16.*use float32"):
        fold(model, spec(2, 5, 5, dtype="bfloat16"))


# outputs of every kind


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.right = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.left(x)
        return {"left": y, "right": self.right(x), "positive": y > 0, "best": y.argmax(1), "log": y.log()}


def test_outputs_of_every_kind_fold_even_if_they_are_not_finite() -> None:
    model = randomise_norms(TwoHeads())
    _, report = fold(model, spec(1, 5, 5))
    assert paths(report) == {"left.1": "left.0", "right.1": "right.0"}
    assert (report.error_float64 is None) == (not report.folded)
    assert (report.error_float64 or 0.0) <= EXACT


# models that cannot be traced


class FixedDtype(Skip):
    def forward(self, x: Tensor) -> Any:
        return self.norm(self.conv(x.float()))


def test_a_model_that_fixes_a_dtype_folds_all_the_same() -> None:
    _, report = fold(randomise_norms(FixedDtype()), spec(1, 5, 5))
    assert paths(report) == {"norm": "conv"}
    assert (report.error_float64 or 0.0) <= EXACT


class Amplifier(Skip):
    """Amplifies rounding by a sine of large values."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(1e5 * self.norm(self.conv(x)))


def test_the_limit_of_a_model_that_amplifies_rounding_is_its_own_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomise_norms(Amplifier())
    _, report = fold(model, spec(1, 5, 5))
    assert paths(report) == {"norm": "conv"}
    assert EXACT < (report.error_float64 or 0.0) < 1e-9
    monkeypatch.setattr("edgekit.fold.proof.NOISE_FACTOR", 1e-3)
    with pytest.raises(ModelError, match="changed its float64 outputs"):
        fold(model, spec(1, 5, 5))


def test_a_wrong_input_shape_is_named() -> None:
    with pytest.raises(ModelError, match="Sequential does not take an input of 2x3x5x5") as caught:
        fold(nn.Sequential(nn.Conv2d(1, 2, 3)), spec(3, 5, 5))
    assert "\n" not in str(caught.value)
