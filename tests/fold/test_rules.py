"""Folding through operators, into following layers, and beside: outputs are compared in float64, refusals by their code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from edgekit.fold import fold, search
from edgekit.models.batchnorm import BatchNorm
from edgekit.tensors import TensorSpec
from tests.fold.checks import EXACT, Calls, error, fold_exactly, norm_nodes, paths, seq, spec
from tests.networks import randomise_norms


def fixed(model: nn.Module, *, positive: bool = False, centred: bool = False) -> nn.Module:
    """The model in float64 with random batch norms; ``positive``: gamma positive; ``centred``: mean and beta zero."""
    randomise_norms(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                module.weight.abs_() if positive else None
                if centred:
                    module.bias.zero_()
                    module.running_mean.zero_()  # type: ignore[union-attr]  # torch's buffers may be None
    return model.double()


def folded_paths(model: nn.Module, *shape: int) -> dict[str, str]:
    inputs = spec(*shape, dtype="float64")
    graph, report = fold(model, inputs)
    assert error(graph, model, inputs) <= EXACT
    assert norm_nodes(graph) == sum(item.nodes for item in report.kept)
    return {norm: f"{into} {report.folded[index].side}" for index, (norm, into) in enumerate(paths(report).items())}


BEFORE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dropout and identity": (seq(nn.Conv2d(2, 4, 3), nn.Dropout(), nn.Identity(), nn.BatchNorm2d(4)), (2, 6, 6)),
    "average pooling": (seq(nn.Conv2d(2, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4)), (2, 6, 6)),
    "adaptive pooling": (seq(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(2), nn.BatchNorm2d(4)), (2, 6, 6)),
    "maximum": (seq(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2, padding=1), nn.BatchNorm2d(4)), (2, 6, 6)),
    "upsampling": (seq(nn.Conv2d(2, 4, 3), nn.Upsample(scale_factor=2, mode="bilinear"), nn.BatchNorm2d(4)), (2, 6, 6)),
    "flatten": (seq(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4)), (2, 6, 6)),
    "reflected padding": (seq(nn.Conv2d(2, 4, 3), nn.ReflectionPad2d(1), nn.BatchNorm2d(4)), (2, 6, 6)),
    "channel shuffle": (
        lambda: Calls(
            lambda m, x: m.norm(m.conv(x).view(-1, 2, 2, 4, 4).transpose(1, 2).reshape(-1, 4, 4, 4)),
            conv=nn.Conv2d(2, 4, 3),
            norm=nn.BatchNorm2d(4),
        ),
        (2, 6, 6),
    ),
    "in-place dropout": (seq(nn.Conv2d(2, 4, 3), nn.Dropout(inplace=True), nn.BatchNorm2d(4)), (2, 6, 6)),
    "mean over the picture": (
        lambda: Calls(lambda m, x: m.norm(m.conv(x).mean((2, 3))), conv=nn.Conv2d(2, 4, 3), norm=nn.BatchNorm1d(4)),
        (2, 6, 6),
    ),
    "a transposition": (
        lambda: Calls(lambda m, x: m.norm(m.conv(x).transpose(2, 3)), conv=nn.Conv2d(2, 4, 3), norm=nn.BatchNorm2d(4)),
        (2, 6, 5),
    ),
    "linear on tokens, normalised as one batch": (
        lambda: Calls(
            lambda m, x: m.norm((y := m.conv(x)).flatten(0, 1)).reshape_as(y), conv=nn.Linear(3, 4), norm=nn.BatchNorm1d(4)
        ),
        (5, 3),
    ),
    "a view and back": (
        lambda: Calls(lambda m, x: m.norm(m.conv(x).permute(0, 2, 1)), conv=nn.Linear(3, 4), norm=nn.BatchNorm1d(4)),
        (5, 3),
    ),
}


@pytest.mark.parametrize(("build", "shape"), BEFORE.values(), ids=BEFORE)
def test_a_norm_folds_back_through(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    places = folded_paths(fixed(build(), positive=True), *shape)
    assert list(places.values()) in (["0 before"], ["conv before"])


def padded(mode: Any) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode))


AFTER: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (seq(nn.BatchNorm1d(2), nn.Conv1d(2, 3, 3)), (2, 7)),
    "strided conv2d": (seq(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, stride=2, dilation=2, bias=False)), (2, 9, 9)),
    "conv3d": (seq(nn.BatchNorm3d(2), nn.Conv3d(2, 3, 2)), (2, 4, 4, 4)),
    "grouped conv": (seq(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)), (4, 5, 5)),
    "depthwise conv": (seq(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, groups=4, bias=False)), (4, 5, 5)),
    "conv with nothing to pad": (seq(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1, padding="same")), (2, 5, 5)),
    "pointwise transposed conv": (seq(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 1, groups=2)), (4, 5, 5)),
    "linear": (seq(nn.BatchNorm1d(4), nn.Linear(4, 3)), (4,)),
    "flatten, linear": (seq(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3, bias=False)), (2, 3, 3)),
    "pooling, flatten, linear": (seq(nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)), (2, 3, 3)),
    "average pooling, conv": (seq(nn.BatchNorm2d(2), nn.AvgPool2d(2), nn.Conv2d(2, 3, 2)), (2, 6, 6)),
    "reflected conv": (lambda: padded("reflect"), (2, 5, 5)),
    "replicated conv": (lambda: padded("replicate"), (2, 5, 5)),
    "circular conv": (lambda: padded("circular"), (2, 5, 5)),
}


@pytest.mark.parametrize(("build", "shape"), AFTER.values(), ids=AFTER)
def test_a_norm_folds_into_the_layer_that_follows(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = fixed(build())
    (place,) = folded_paths(model, *shape).values()
    assert place == f"{len(list(model.children())) - 1} after"


def test_a_norm_folds_into_all_layers_that_read_it_or_into_none() -> None:
    def both(m: Any, x: Tensor) -> Any:
        y = m.norm(x)
        return m.first(y), m.second(y)

    model = Calls(both, norm=nn.BatchNorm2d(2), first=nn.Conv2d(2, 3, 1), second=nn.Conv2d(2, 3, 3))
    assert folded_paths(fixed(model), 2, 5, 5) == {"norm": "first, second after"}
    model = Calls(both, norm=nn.BatchNorm2d(2), first=nn.Conv2d(2, 3, 1), second=nn.Tanh())
    assert folded_paths(fixed(model), 2, 5, 5) == {}


def test_a_scale_without_shift_passes_zero_padding_and_relu() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Conv2d(2, 3, 3, padding=1))

    assert folded_paths(fixed(build(), positive=True, centred=True), 2, 5, 5) == {"0": "2 after"}
    assert folded_paths(fixed(build(), positive=True), 2, 5, 5) == {}
    negative: Any = fixed(build(), positive=True, centred=True)
    with torch.no_grad():
        negative[0].weight[0] = -1.0
    _, report = fold(negative, spec(2, 5, 5, dtype="float64"))
    assert [obstacle.code for obstacle in report.kept[0].obstacles] == ["input", "nonlinear"]


def test_every_branch_of_a_concatenation_takes_its_share() -> None:
    model = Calls(
        lambda m, x: m.norm(torch.cat([m.first(x), m.second(x)], 1)),
        first=nn.Conv2d(2, 3, 3), second=nn.ConvTranspose2d(2, 2, 3, padding=2, bias=False), norm=nn.BatchNorm2d(5),
    )  # fmt: skip
    assert folded_paths(fixed(model), 2, 6, 6) == {"norm": "first, second before"}


def test_a_branch_that_cannot_take_its_share_leaves_all_as_they_were() -> None:
    model = Calls(lambda m, x: m.norm(torch.cat([m.conv(x), torch.tanh(x)], 1)), conv=nn.Conv2d(2, 3, 1), norm=nn.BatchNorm2d(5))
    graph, report = fold(fixed(model), spec(2, 6, 6, dtype="float64"))
    assert report.folded == ()
    assert torch.equal(graph.state_dict()["conv.weight"], model.conv.weight)  # type: ignore[arg-type,union-attr]  # torch's modules take and give Tensor | Module


def test_a_sum_and_a_product_share() -> None:
    total = Calls(
        lambda m, x: m.norm(m.first(x) - m.second(x)), first=nn.Conv2d(2, 3, 3), second=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3)
    )
    assert folded_paths(fixed(total), 2, 6, 6) == {"norm": "first, second before"}
    gated = Calls(
        lambda m, x: m.norm(m.first(x) * torch.sigmoid(m.second(x))),
        first=nn.Conv2d(2, 3, 3), second=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3),
    )  # fmt: skip
    assert folded_paths(fixed(gated, centred=True), 2, 6, 6) == {"norm": "first before"}
    assert folded_paths(fixed(gated), 2, 6, 6) == {}


def test_an_identity_beside_convolutions_folds_into_one_of_them() -> None:
    for groups, conv in ((1, nn.Conv2d(4, 4, 3, padding=1)), (2, nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False))):
        model = Calls(
            lambda m, x: torch.relu(m.norm(x) + m.small_norm(m.small(x)) + m.large_norm(m.large(x))),
            norm=nn.BatchNorm2d(4), small=nn.Conv2d(4, 4, 1, groups=groups), small_norm=nn.BatchNorm2d(4), large=conv,
            large_norm=nn.BatchNorm2d(4),
        )  # fmt: skip
        places = folded_paths(fixed(model), 4, 6, 6)
        assert places["norm"] in ("small beside", "large beside")
        assert len(places) == 3
    dilated = nn.Conv2d(4, 4, 3, padding="same", dilation=2)
    model = Calls(lambda m, x: m.norm(x) + m.conv(x), norm=nn.BatchNorm2d(4), conv=dilated)
    assert folded_paths(fixed(model), 4, 6, 6) == {"norm": "conv beside"}


class Scaled(nn.Module):
    def __init__(self, write: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.write = write
        self.scale, self.shift = nn.Parameter(torch.rand(1, 3, 1, 1) + 0.5), nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self, x)


WRITTEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "x * s + t": lambda m, x: x * m.scale + m.shift,
    "s * x": lambda m, x: m.scale * x,
    "(x - t) / s": lambda m, x: (x - m.shift) / m.scale,
    "t - x * s": lambda m, x: m.shift - x * m.scale,
    "addcmul": lambda m, x: torch.addcmul(m.shift, x, m.scale, value=0.5),
    "-x * s": lambda m, x: -x * m.scale,
    "sqrt of a parameter": lambda m, x: (x + m.shift) * torch.rsqrt(m.scale**2 + 1e-3),
    "in place": lambda m, x: x.mul_(m.scale).add_(m.shift),
    "alpha": lambda m, x: torch.add(x * m.scale, m.shift, alpha=3),
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_a_norm_that_is_written_out_folds(write: Callable[[Any, Tensor], Tensor]) -> None:
    _, report = fold_exactly(nn.Sequential(nn.Conv2d(2, 3, 3), Scaled(write)), 2, 5, 5)
    assert [(item.norm, item.into, item.nodes) for item in report.folded] == [("1", ("0",), 0)]


def test_frozen_batch_norm_and_layer_scale_fold() -> None:
    frozen = FrozenBatchNorm2d(3)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(frozen, name).uniform_(0.5, 2)
    _, report = fold_exactly(nn.Sequential(nn.Conv2d(2, 3, 3), frozen), 2, 5, 5)
    assert [(item.kind, item.into) for item in report.folded] == [("FrozenBatchNorm2d", ("0",))]
    model = Calls(
        lambda m, x: x + m.norm(m.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        linear=nn.Linear(3, 3),
        norm=Scaled(WRITTEN["s * x"]),
    )
    assert folded_paths(model.double(), 3, 5, 5) == {"norm": "linear before"}


def test_single_numbers_biases_and_embeddings_are_no_normalisations() -> None:
    model = Calls(lambda m, x: (m.conv(x) + m.place) * 2 + 1, conv=nn.Conv2d(2, 3, 3))
    model.place = nn.Parameter(torch.randn(1, 3, 4, 4))
    _, report = fold_exactly(model, 2, 6, 6)
    assert report.before == 0


def test_three_norms_in_a_row_are_rounded_once() -> None:
    model: Any = randomise_norms(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), BatchNorm(3), nn.BatchNorm2d(3)))
    graph, report = fold(model, spec(2, 5, 5))
    assert len(report.folded) == 3
    scale = torch.ones(3, dtype=torch.float64)
    for index in (1, 2, 3):
        norm = model[index].double()
        gamma, variance = (norm.weight, norm.running_var)
        scale = scale * gamma.reshape(-1) / torch.sqrt(variance.reshape(-1) + norm.eps)
    expected = (model[0].weight.double() * scale.reshape(-1, 1, 1, 1)).float()
    assert torch.allclose(graph.state_dict()["0.weight"], expected, rtol=6e-8, atol=0)


def test_a_value_written_in_place_is_folded_only_without_views() -> None:
    def used_again(m: Any, x: Tensor) -> Any:
        y = m.norm(m.conv(x))
        return F.relu(y, inplace=True) + y

    reused = Calls(used_again, conv=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3))
    assert folded_paths(fixed(reused), 2, 5, 5) == {"norm": "conv before"}

    def through_a_view(m: Any, x: Tensor) -> Any:
        y = m.conv(x)
        y[:, :1].mul_(2)
        return m.norm(y)

    viewed = Calls(through_a_view, conv=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3))
    _, report = fold(fixed(viewed), spec(2, 5, 5, dtype="float64"))
    assert report.kept[0].obstacles[0].code in ("in-place", "other-users")


def test_a_mean_far_from_zero_folds_into_the_layer_before_only() -> None:
    conv, norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
    norm.running_mean.fill_(1e4)  # type: ignore[union-attr]  # torch's buffers may be None
    _, report = fold(nn.Sequential(conv, norm), spec(2, 5, 5))
    assert len(report.folded) == 1
    _, report = fold(nn.Sequential(norm, conv), spec(2, 5, 5))
    assert [obstacle.code for obstacle in report.kept[0].obstacles] == ["input", "conditioning"]


def test_numbers_beyond_float16_are_not_folded() -> None:
    model: Any = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, eps=1e-12))
    model[1].running_var.fill_(1e-12)
    _, report = fold(model, spec(2, 5, 5))
    assert len(report.folded) == 1
    _, report = fold(model.half(), spec(2, 5, 5, dtype="float16"))
    assert report.kept[0].obstacles[0].code in ("overflow", "not-finite")


class WrittenOut(nn.Module):
    """A norm as arithmetic: (x - mean) / deviation * gamma."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int, mean: float, deviation: float, gamma: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), gamma))
        for name, value in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.full((channels, 1, 1), value))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation * self.gamma


def normed(variance: float, mean: float, gamma: float, *, written: bool = False, channels: int = 8) -> nn.Module:
    """A norm for an input of this variance, with a mean of ``mean`` standard deviations."""
    if written:
        return WrittenOut(channels, mean * variance**0.5, variance**0.5, gamma)
    norm = nn.BatchNorm2d(channels, eps=1e-3 * variance)
    norm.running_var.fill_(variance)  # type: ignore[union-attr]  # torch's buffers may be None
    norm.running_mean.fill_(mean * variance**0.5)  # type: ignore[union-attr]  # torch's buffers may be None
    nn.init.constant_(norm.weight, gamma)
    return norm


def float32_errors(model: nn.Module, graph: nn.Module, x: Tensor) -> tuple[float, float]:
    """The errors of scale of the folded and the unfolded model against float64."""
    with torch.inference_mode():
        truth = copy.deepcopy(model).eval().double()(x.double())
        return tuple(float((run(x) - truth).abs().max() / truth.abs().max()) for run in (graph, model.eval()))  # type: ignore[return-value]  # two models give two numbers


@pytest.mark.parametrize(("gamma", "written"), [(1.0, False), (-2.0, True), (1e-3, True)])
@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0])
@pytest.mark.parametrize("variance", [1e-20, 1.0, 1e6])
def test_in_float32_a_folded_model_is_as_exact_as_unfolded_or_stays_unfolded(
    variance: float, mean: float, gamma: float, written: bool
) -> None:
    torch.manual_seed(0)
    x = (torch.randn(4, 8, 8, 8) + mean) * variance**0.5
    model = nn.Sequential(normed(variance, mean, gamma, written=written), nn.Conv2d(8, 8, 3))
    graph, report = fold(model, spec(8, 8, 8))
    assert [item.obstacles[-1].code for item in report.kept] == (["conditioning"] if mean > 4 else [])
    folded, unfolded = float32_errors(model, graph, x)
    assert folded <= 8 * unfolded + 3e-7


def test_a_norm_far_from_zero_would_lose_digits_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FARTHEST_MEAN", 1e9)
    torch.manual_seed(0)
    model = nn.Sequential(normed(1.0, 500.0, 1.0), nn.Conv2d(8, 8, 3))
    graph, report = fold(model, spec(8, 8, 8))
    assert len(report.folded) == 1
    folded, unfolded = float32_errors(model, graph, torch.randn(4, 8, 8, 8) + 500)
    assert folded > 8 * unfolded + 3e-7


@pytest.mark.parametrize("mean", [1e2, 1e5])
def test_a_norm_far_from_zero_behind_a_layer_folds_and_gains(mean: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3), normed(1.0, mean, 1.0))
    nn.init.constant_(model[0].bias, mean)  # type: ignore[arg-type]  # torch's modules take and give Tensor | Module
    graph, report = fold(model, spec(8, 8, 8))
    assert len(report.folded) == 1
    folded, unfolded = float32_errors(model, graph, torch.randn(4, 8, 8, 8))
    assert folded < unfolded


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("gamma", "folds"), [(1e-2, True), (1e-7, False)])
def test_a_channel_that_float16_cannot_hold_is_not_folded(transposed: bool, gamma: float, folds: bool) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 4, 3) if transposed else nn.Conv2d(4, 4, 3)
    model: Any = randomise_norms(nn.Sequential(layer, nn.BatchNorm2d(4)))
    with torch.no_grad():
        model[1].weight[0] = gamma
    _, report = fold(model.half(), spec(4, 5, 5, dtype="float16"))
    assert [item.obstacles[0].code for item in report.kept] == ([] if folds else ["underflow"])


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_folded_graph_takes_any_batch(batch: int) -> None:
    model = fixed(BEFORE["linear on tokens, normalised as one batch"][0]())
    graph, _ = fold(model, spec(5, 3, dtype="float64"))
    x = torch.randn(batch, 5, 3, dtype=torch.float64)
    assert torch.allclose(graph(x), model.eval()(x), rtol=1e-10)


def test_several_inputs_keep_their_names() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.norm = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"sum": self.norm(self.left(a) + self.right(b))}

    inputs = tuple(TensorSpec(name, "float32", ("batch", 1, 5, 5)) for name in ("a", "b"))
    _, report = fold(randomise_norms(Two()), inputs)
    assert paths(report) == {"norm": "left, right"}
