"""edgekit's batch norm, compared with PyTorch's."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.batchnorm import BatchNorm, batch_norm
from edgekit.models.factory import build_module

SHAPES = [(8, 5), (2, 3), (4, 3, 6, 5), (1, 3, 2, 2), (1, 3, 1, 2)]


def torch_norm(channels: int, rank: int) -> nn.Module:
    return nn.BatchNorm1d(channels) if rank == 2 else nn.BatchNorm2d(channels)


def twins(shape: tuple[int, ...], ours: BatchNorm, dtype: torch.dtype) -> tuple[BatchNorm, nn.Module]:
    """edgekit's layer and PyTorch's, with the same random weight and bias."""
    reference = torch_norm(shape[1], len(shape))
    generator = torch.Generator().manual_seed(1)
    for name in ("weight", "bias"):
        value = torch.randn(shape[1], generator=generator)
        for layer in (ours, reference):
            getattr(layer, name).data.copy_(value)
    return ours.to(dtype), reference.to(dtype)


def difference(left: Tensor, right: Tensor) -> float:
    assert left.shape == right.shape
    left, right = left.detach(), right.detach()
    return float((left - right).abs().max() / right.abs().max().clamp_min(1))


def largest_difference(shape: tuple[int, ...], ours: BatchNorm, dtype: torch.dtype, steps: int = 4) -> dict[str, float]:
    """Train both layers for some steps, then infer; name of an output, gradient or statistic -> its largest scaled difference."""
    ours, reference = twins(shape, ours, dtype)
    generator = torch.Generator().manual_seed(2)
    worst: dict[str, float] = {}

    def note(name: str, left: Tensor | None, right: Tensor | None) -> None:
        assert left is not None
        assert right is not None
        worst[name] = max(worst.get(name, 0.0), difference(left, right))

    optimisers = [torch.optim.SGD(layer.parameters(), 0.1) for layer in (ours, reference)]
    for _ in range(steps):
        # two values per channel that nearly agree would make any formula ill-conditioned
        pattern = torch.linspace(-1, 1, math.prod(shape)).reshape(shape)
        x = (3 * pattern + 0.3 * torch.randn(shape, generator=generator) + 2).to(dtype)
        upstream = torch.randn(shape, generator=generator).to(dtype)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [layer(each) for layer, each in zip((ours, reference), inputs, strict=True)]
        for optimiser, output in zip(optimisers, outputs, strict=True):
            optimiser.zero_grad()
            (output * upstream).sum().backward()
        note("output", *outputs)
        note("input gradient", inputs[0].grad, inputs[1].grad)
        for name in ("weight", "bias"):
            note(f"{name} gradient", getattr(ours, name).grad, getattr(reference, name).grad)
        for optimiser in optimisers:
            optimiser.step()
        for name in ("running_mean", "running_var"):
            note(name, getattr(ours, name), getattr(reference, name))
    ours.eval(), reference.eval()
    note("inference", ours(x), reference(x))
    assert int(ours.get_buffer("num_batches_tracked")) == int(reference.get_buffer("num_batches_tracked")) == steps
    return worst


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_batch_norm_trains_like_torch(shape: tuple[int, ...], dtype: torch.dtype, bound: float) -> None:
    worst = largest_difference(shape, BatchNorm(shape[1]), dtype)
    assert len(worst) == 7
    assert max(worst.values()) < bound, worst


class Biased(BatchNorm):
    """A tutorial's mistake: the running variance is the biased one."""

    def forward(self, x: Tensor) -> Tensor:
        before = self.running_var.clone()
        y = super().forward(x)
        if self.training:
            count = x.numel() // x.shape[1]
            unbiased = (self.running_var - 0.9 * before) / 0.1
            self.running_var.copy_(0.9 * before + 0.1 * unbiased * (count - 1) / count)
        return y


class Scaled(BatchNorm):
    """A batch norm with a weight that is off by 1 %."""

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.ones(x.shape[1], dtype=x.dtype)
        scale[0] = 1.01
        return super().forward(x) * scale.view(1, -1, *[1] * (x.dim() - 2))


@pytest.mark.parametrize(
    "wrong",
    [lambda: Biased(3), lambda: Scaled(3), lambda: BatchNorm(3, momentum=0.9), lambda: BatchNorm(3, eps=1e-2)],
    ids=["biased variance", "weight x 1.01", "momentum of the tutorial", "another eps"],
)
def test_comparison_with_torch_catches_wrong_batch_norms(wrong: Callable[[], BatchNorm]) -> None:
    assert max(largest_difference((4, 3, 6, 5), wrong(), torch.float64).values()) > 1e-3


@settings(deadline=None, max_examples=40)
@given(
    shape=st.one_of(
        st.tuples(st.integers(2, 6), st.integers(1, 5)),
        st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(2, 5)),
    ),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    offset=st.sampled_from([-10.0, 0.0, 10.0]),
)
def test_batch_norm_equals_torch_for_any_shape_and_scale(shape: tuple[int, ...], seed: int, scale: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) + offset) * scale
    ours, reference = twins(shape, BatchNorm(shape[1]), torch.float64)
    assert difference(ours(x), reference(x)) < 1e-8
    for name in ("running_mean", "running_var"):
        assert difference(getattr(ours, name), getattr(reference, name)) < 1e-12
    assert difference(ours.eval()(x), reference.eval()(x)) < 1e-12


def test_function_and_layer_are_the_same_arithmetic() -> None:
    x, layer = torch.randn(4, 3, 5, 5), BatchNorm(3)
    mean, var = torch.zeros(3), torch.ones(3)
    y = batch_norm(x, layer.weight, layer.bias, mean, var, training=True)
    assert torch.equal(y, layer(x))
    assert torch.equal(mean, layer.running_mean)
    assert torch.equal(var, layer.running_var)


def test_running_statistics_start_at_zero_and_one_so_untrained_inference_changes_little() -> None:
    layer, x = BatchNorm(3).eval(), torch.randn(4, 3, 5, 5)
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))
    torch.testing.assert_close(layer(x), x, rtol=1e-4, atol=1e-5)


def test_inference_leaves_the_statistics_alone() -> None:
    layer = BatchNorm(3)
    layer(torch.randn(4, 3, 5, 5))
    before = copy.deepcopy(layer.state_dict())
    layer.eval()(torch.randn(4, 3, 5, 5) + 7)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_statistics_hold_no_autograd_graph_and_the_layer_can_be_copied_after_a_step() -> None:
    layer = BatchNorm(3)
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    layer(x).sum().backward()
    layer(x)  # a forward whose backward never comes
    assert [name for name, _ in layer.named_buffers()] == ["running_mean", "running_var", "num_batches_tracked"]
    assert all(not buffer.requires_grad and buffer.grad_fn is None for buffer in layer.buffers())
    assert torch.equal(copy.deepcopy(layer).running_var, layer.running_var)


def test_state_survives_saving_and_is_interchangeable_with_torch(tmp_path: Path) -> None:
    trained = BatchNorm(3)
    for _ in range(3):
        trained(torch.randn(4, 3, 5, 5) * 2 + 1)
    trained.weight.data.uniform_(0.5, 2)
    torch.save(trained.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    x = torch.randn(4, 3, 5, 5)
    again, torchs = BatchNorm(3), nn.BatchNorm2d(3)
    again.load_state_dict(state)
    torchs.load_state_dict(state)
    assert torch.equal(again.eval()(x), trained.eval()(x))
    torch.testing.assert_close(torchs.eval()(x), trained(x))
    assert difference(BatchNorm(3).eval()(x), trained(x)) > 0.1  # forgetting the statistics would show
    back = BatchNorm(3)
    back.load_state_dict(torchs.state_dict())
    assert torch.equal(back.running_mean, trained.running_mean)
    assert torch.equal(back.num_batches_tracked, trained.num_batches_tracked)


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1, 1), (0, 4), (0, 4, 3, 3)])
def test_too_few_values_per_channel_are_an_error_in_training_only(shape: tuple[int, ...]) -> None:
    layer = BatchNorm(4)
    with pytest.raises(ModelError, match="more than one value per channel in training"):
        layer(torch.ones(shape))
    assert torch.equal(layer.running_var, torch.ones(4))
    assert layer.eval()(torch.ones(shape)).shape == shape


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 3, 4, 5, 6)])
def test_other_ranks_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=f"got {len(shape)} axes"):
        BatchNorm(3)(torch.ones(shape))


class Leaky(BatchNorm):
    """The tutorial's layer: its running mean keeps the graph of every batch."""

    moving: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.moving = 0.9 * self.moving + 0.1 * x.mean((0, 2, 3)) ** 2
        return super().forward(x)


class Saved:
    """A tensor that autograd keeps for the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def held_after_steps(model: nn.Module, steps: int = 4) -> list[int]:
    """The number of tensors that autograd still holds after each training step."""
    alive: weakref.WeakSet[Saved] = weakref.WeakSet()
    counts = []

    def pack(tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        alive.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        for _ in range(steps):
            model(torch.randn(4, 1, 28, 28)).square().sum().backward()
            counts.append(len(alive))
    return counts


def test_memory_stays_flat_while_lenet_scratch_trains() -> None:
    assert held_after_steps(build_module("lenet-scratch")) == [0, 0, 0, 0]


def test_memory_check_catches_a_batch_norm_that_keeps_its_graph() -> None:
    model: Any = build_module("lenet-scratch")
    model[1] = Leaky(6)
    counts = held_after_steps(model)
    assert counts[-1] > counts[0] > 0
