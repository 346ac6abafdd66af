"""Models whose outputs depend on more than their inputs, models that write to their inputs, and outputs that are None."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.errors import ModelError
from edgekit.graphs.golden import record
from edgekit.graphs.repeat import check_repeatable
from edgekit.graphs.trace import run_module, tensors_of_feed, trace
from edgekit.tensors import TensorSpec, sample_feed

INPUTS = (TensorSpec("picture", "float32", ("batch", 3, 5, 5)),)


class Net(nn.Module):
    """A convolution, a batch norm and what ``change`` makes of their output."""

    def __init__(self, change: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.norm, self.inner = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Identity()
        self.change = change
        self.calls = 0
        self.seen: list[Tensor] = []
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        return self.change(self, self.norm(self.conv(x)).mean((2, 3)))


class Noisy(nn.Module):
    """Adds noise."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(4)


def noisy_inside() -> Net:
    model = Net(lambda net, x: net.inner(x))
    model.inner = Noisy()  # type: ignore[assignment]
    return model


def counted(net: Net, x: Tensor) -> Tensor:
    net.calls += 1
    return x * net.calls


def counted_in_a_buffer(net: Net, x: Tensor) -> Tensor:
    net.count += 1
    return x * net.count


def remembered(net: Net, x: Tensor) -> Tensor:
    net.seen.append(x)
    return sum(net.seen, torch.zeros(()))


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (Net(lambda net, x: F.dropout(x)), r"draws random numbers in inference mode: aten\.\w*dropout"),
        (Net(lambda net, x: x + torch.randn(4)), r"draws random numbers in inference mode: aten\.randn"),
        (noisy_inside(), r"draws random numbers in inference mode: aten\.rand in inner"),
        (Net(lambda net, x: x + time.time()), r"depends on more than its inputs, such as the clock .*: aten\.add was given"),
        (Net(lambda net, x: x * random.random()), r"depends on more than its inputs, .*: aten\.mul was given"),
        (Net(counted), r"keeps state from run to run: it changes 'calls', .* aten\.mul"),
        (Net(counted_in_a_buffer), r"keeps state from run to run: it changes 'count', .* aten\.add_"),
        (Net(remembered), r"keeps state from run to run: it changes 'seen'"),
        (
            Net(lambda net, x: x.relu() if counted(net, x).sum() is not None and net.calls % 2 else x.abs()),
            r"keeps state|another way",
        ),
    ],
    ids=["dropout", "noise", "noise inside", "clock", "random", "counter", "buffer", "list", "branch"],
)
def test_a_forward_that_does_not_repeat_is_told_with_its_operator(model: Net, fault: str) -> None:
    with pytest.raises(ModelError, match=f"forward\\(\\) .*{fault}"):
        check_repeatable(model, INPUTS)


def seeded(net: Net, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return x + torch.randn(4)


def of_its_own_generator(net: Net, x: Tensor) -> Tensor:
    return x + torch.randn(4, generator=torch.Generator().manual_seed(1))


def into_empty_memory(net: Net, x: Tensor) -> Tensor:
    return x + torch.empty(2, 2).view(4).normal_()


@pytest.mark.parametrize(
    ("change", "operator"),
    [
        (lambda net, x: x + 1e-12 * torch.randn(4), "randn"),
        (lambda net, x: x * torch.bernoulli(torch.full((2, 4), 0.999999)), "bernoulli"),
        (lambda net, x: F.dropout(x, 1e-9), "dropout"),
        (lambda net, x: x * (1 if torch.rand(()).item() < 2 else 0), "rand"),
        (seeded, "randn"),
        (of_its_own_generator, "randn"),
        (into_empty_memory, "normal_"),
    ],
    ids=["tiny", "seldom", "dropout", "read by Python", "seeded", "own generator", "empty memory"],
)
def test_random_numbers_that_two_runs_do_not_show_are_found(change: Callable[[Any, Tensor], Any], operator: str) -> None:
    with pytest.raises(ModelError, match=rf"draws random numbers in inference mode: aten\.{operator}\b"):
        check_repeatable(Net(change), INPUTS)


def test_memory_that_nobody_has_written_to_is_not_named_in_place_of_what_differs() -> None:
    def clocked(net: Net, x: Tensor) -> Tensor:
        return x + torch.empty(4).fill_(time.time())

    with pytest.raises(ModelError, match=r"such as the clock .*: aten\.fill_ was given"):
        check_repeatable(Net(clocked), INPUTS)


def unused_noise(net: Net, x: Tensor) -> Tensor:
    torch.randn(4)
    return x


def attention(net: Net, x: Tensor) -> Tensor:
    one = x[:, None]
    return F.scaled_dot_product_attention(one, one, one)[:, 0] + F.rrelu(x, training=net.training)


def harmless_counter(net: Net, x: Tensor) -> Tensor:
    net.count += 1
    return x


@pytest.mark.parametrize(
    "change",
    [lambda net, x: x, harmless_counter, lambda net, x: F.dropout(x, training=net.training), unused_noise, attention],
    ids=["plain", "count", "off", "unused", "attention"],
)
def test_a_forward_that_repeats_passes_without_a_note(change: Callable[[Any, Tensor], Any]) -> None:
    model = Net(change)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert check_repeatable(model, INPUTS) == ()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())  # checked on a copy


class Normalising(nn.Module):
    """Normalises the caller's tensor in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Any:
        x.sub_(0.5).div_(0.25)
        return self.conv(x)


def test_a_forward_that_writes_to_its_input_gets_copies() -> None:
    model = Normalising().eval()
    assert check_repeatable(model, INPUTS) == ("forward() writes to its input 'picture': every run gets a copy of its own",)
    feed = sample_feed(INPUTS, 2)
    before = feed["picture"].copy()
    graph = trace(model, INPUTS)
    golden = record(model, graph, feed, None, 2)
    assert np.array_equal(golden.inputs["picture"], before)
    expected = model.conv((torch.from_numpy(before) - 0.5) / 0.25).detach().numpy()
    np.testing.assert_allclose(golden.float64["output"], expected, atol=1e-5)
    np.testing.assert_allclose(golden.original["output"], expected, atol=1e-5)
    tensors = tensors_of_feed(feed)
    run_module(graph, tensors)
    assert np.array_equal(tensors[0].numpy(), before)


@dataclass
class Answer:
    """What a model of a library returns."""

    logits: Tensor
    loss: Tensor | None = None
    hidden: tuple[Tensor, ...] | None = None


@pytest.mark.parametrize(
    ("change", "names", "none"),
    [
        (lambda net, x: Answer(x), ["logits"], ["loss", "hidden"]),
        (lambda net, x: Answer(x, hidden=(x, x * 2)), ["logits", "hidden_0", "hidden_1"], ["loss"]),
        (lambda net, x: {"logits": x, "loss": None}, ["logits"], ["loss"]),
        (lambda net, x: (x, None, x * 2), ["output0", "output2"], ["output1"]),
    ],
    ids=["dataclass", "nested dataclass", "dict", "tuple"],
)
def test_outputs_of_dataclasses_have_names_and_none_is_left_out(
    change: Callable[[Any, Tensor], Any], names: list[str], none: list[str]
) -> None:
    model = Net(change).eval()
    assert check_repeatable(model, INPUTS) == tuple(f"output {name!r} is None and was left out" for name in none)
    graph = trace(model, INPUTS)
    golden = record(model, graph, sample_feed(INPUTS, 2), None, 2)
    assert list(golden.float64) == list(golden.original) == names


def test_an_output_that_is_no_tensor_is_named() -> None:
    with pytest.raises(ModelError, match=r"forward\(\) returned a float as 'loss'; return tensors alone"):
        check_repeatable(Net(lambda net, x: {"logits": x, "loss": 1.5}), INPUTS)
