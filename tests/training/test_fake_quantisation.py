"""Fake quantisation computes what the int8 file computes, passes gradients within ranges, and learns limits that then stand."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.onnx.calibration import limits_of, observe, values_of
from edgekit.onnx.qdq import CODES, MOST_BIAS, quantised_model, weight_codes
from edgekit.onnx.run import open_unoptimised
from edgekit.onnx.signed import signed_codes
from edgekit.recipe import ExportRecipe
from edgekit.tensors import Array, Feed
from edgekit.training import int8_places
from edgekit.training.fake_quantisation import FakeQuantised, Limit, RoundedWeight, rounded
from edgekit.training.int8_places import Places, find_places, folded
from tests.networks import randomise_norms
from tests.onnx_files import image_spec

SETTINGS = ExportRecipe()
MOVING = 3
STEP = 1 / CODES


class Net(nn.Module):
    """A residual Add, a Concat, two kinds of pooling, a signed input of a layer, a norm in front of each ReLU, a Gemm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.right = nn.Sequential(nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24), nn.ReLU())
        self.signed = nn.Conv2d(40, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 16, 3)
        self.hidden, self.head = nn.Linear(16, 32), nn.Linear(32, 10)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.first(x))
        y = x + self.left(x)
        y = torch.cat([torch.relu(y), self.right(x)], 1)
        y = self.last(self.signed(y))
        return cast(Tensor, self.head(torch.relu(self.hidden(y.mean((2, 3))))))


class Trained(NamedTuple):
    """A network with fake quantisation, and the limits that its int8 file has."""

    places: Places
    module: FakeQuantised

    def file(self, limits: dict[str, float] | None = None) -> onnx.ModelProto:
        return quantised_model(self.places.model, self.places.placement, limits or self.module.limits_now(), {})

    def outputs(self, feed: Feed) -> Array:
        with torch.no_grad():
            return np.asarray(self.module.eval()(torch.from_numpy(feed["input"])))


def pictures(count: int, seed: int) -> dict[str, Array]:
    return {"input": np.random.default_rng(seed).standard_normal((count, 1, 28, 28)).astype(np.float32)}


def trained(model: nn.Module, moving: int = MOVING) -> Trained:
    places = find_places(folded(model.eval(), image_spec(), SETTINGS), SETTINGS)
    batches = values_of(places.model, set(places.placement.groups), pictures(32, 1))
    observed = observe(places.placement, batches)
    limits, largest = (limits_of(places.placement, observed, method) for method in ("mse", "minmax"))
    return Trained(places, FakeQuantised(places, limits, largest, moving))


@pytest.fixture(scope="module")
def net() -> Trained:
    torch.manual_seed(0)
    return trained(randomise_norms(Net()))


def outputs_of(file: onnx.ModelProto, feed: Feed) -> Array:
    """What ONNX Runtime computes of the file as TensorRT reads it, whose codes end at 127."""
    return open_unoptimised(signed_codes(file), Path("file.onnx"))(feed)["output"]


def steps_apart(array: Array, other: Array) -> float:
    return float(np.abs(array - other).max() / (np.abs(other).max() * STEP))


def test_every_kind_of_place_is_in_the_network(net: Trained) -> None:
    placement = net.places.placement
    operators = {node.op_type for node in net.places.model.graph.node}
    assert {"Conv", "Gemm", "Add", "Concat", "MaxPool", "Relu"} <= operators
    assert len(placement.layers) == 5
    assert any(placement.groups[layer.data] in placement.signed for layer in placement.layers)
    assert any(len(values) > 1 for values in placement.members().values())


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_pytorch_computes_what_unoptimised_onnxruntime_computes_of_the_file_within_a_step(net: Trained, seed: int) -> None:
    feed = pictures(16, seed)
    assert steps_apart(net.outputs(feed), outputs_of(net.file(), feed)) < 1


def wrong_limit(net: Trained, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    limits = net.module.limits_now()
    return net.file({**limits, next(iter(limits)): 1.02 * next(iter(limits.values()))})


def wrong_codes(net: Trained, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    monkeypatch.setattr("edgekit.onnx.qdq.CODES_OF_SIGNED", 127)
    return net.file()


@pytest.mark.parametrize("wrong", [wrong_limit, wrong_codes])
def test_a_limit_off_by_2_percent_and_127_codes_for_63_show(net: Trained, wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(wrong)
    feed = pictures(16, 2)
    own = net.outputs(feed)
    assert steps_apart(own, outputs_of(net.file(), feed)) < 0.1 * steps_apart(own, outputs_of(wrong(net, monkeypatch), feed))


def test_the_gradient_is_1_within_the_range_and_0_beyond() -> None:
    scale = torch.tensor(0.5)
    values = torch.tensor([-70.0, -64.0, -1.0, 0.3, 63.5, 63.9, 80.0], requires_grad=True)
    result = rounded(values, scale, -128, 127)
    result.backward(torch.full_like(values, 3.0))  # type: ignore[no-untyped-call]
    assert result.tolist() == [-64.0, -64.0, -1.0, 0.5, 63.5, 63.5, 63.5]
    assert values.grad is not None
    assert values.grad.tolist() == [0, 3, 3, 3, 3, 0, 0]


@pytest.mark.parametrize(("signed", "codes"), [(False, [0, 0, 3, 127]), (True, [-128, -3, 3, 127])])
def test_codes_end_at_127_and_begin_at_0_where_no_value_is_negative(signed: bool, codes: list[int]) -> None:
    limit = Limit(127.0, 127.0, signed)
    assert rounded(torch.tensor([-200.0, -3.0, 3.4, 200.0]), limit.scale, limit.low, CODES).tolist() == codes


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bias", [None, 1e6])
def test_a_weight_is_rounded_as_the_file_stores_it(signed: bool, bias: float | None) -> None:
    torch.manual_seed(1)
    weight, limit = torch.randn(5, 3, 2, 2), Limit(2.0, 2.0, signed)
    weight[3] = 0
    biases = None if bias is None else torch.full((5,), bias)
    steps = np.zeros(5) if bias is None else np.full(5, bias) / (MOST_BIAS * 2.0 / CODES)
    codes = weight_codes(weight.numpy(), 0, steps, 63 if signed else 127)
    assert np.array_equal(RoundedWeight(limit, 0)(weight, biases).numpy(), codes.values.astype(np.float32))


def stepped(net: Trained, seed: int) -> None:
    net.module.train()(torch.from_numpy(pictures(16, seed)["input"] * 3))


def test_limits_follow_the_batches_and_then_stand_still() -> None:
    torch.manual_seed(0)
    net = trained(randomise_norms(Net()))
    history = [net.module.limits_now()]
    for seed in range(MOVING + 2):
        stepped(net, seed)
        history.append(net.module.limits_now())
    assert all(history[step][group] != history[step + 1][group] for step in range(MOVING) for group in history[0])
    assert history[MOVING] == history[MOVING + 1] == history[MOVING + 2]
    first = net.places.placement.groups["input"] if "input" in net.places.placement.groups else net.module.groups[0]
    assert history[1][first] > history[0][first]


def test_a_limit_is_the_mean_of_what_batches_show_and_later_moves_by_a_hundredth() -> None:
    limit = Limit(2.0, 4.0, signed=False)
    for seen, mean in ((8.0, 3.0), (12.0, 4.0)):
        limit.seen.fill_(seen)
        limit.follow()
        assert float(limit.limit) == pytest.approx(mean)
        assert float(limit.seen) == 0
    limit.steps.fill_(1000)
    limit.seen.fill_(16.0)
    limit.follow()
    assert float(limit.limit) == pytest.approx(4.0 + 0.01 * (8.0 - 4.0))


def test_extremes_are_those_since_the_limits_stand_still() -> None:
    torch.manual_seed(0)
    net = trained(randomise_norms(Net()), moving=1)
    stepped(net, 0)
    assert all(lowest == np.inf for lowest, _ in net.module.extremes().values())
    stepped(net, 1)
    assert all(np.isfinite(each).all() and each[0] < each[1] for each in net.module.extremes().values())


def test_evaluation_moves_nothing() -> None:
    torch.manual_seed(0)
    net = trained(randomise_norms(Net()))
    before = {name: tensor.clone() for name, tensor in net.module.state_dict().items()}
    net.outputs(pictures(4, 5))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.module.state_dict().items())


def test_training_moves_every_parameter_of_the_folded_network_and_no_other_tensor() -> None:
    torch.manual_seed(0)
    net = trained(randomise_norms(Net()))
    before = {name: parameter.detach().clone() for name, parameter in net.places.graph.named_parameters()}
    net.module.train()
    optimizer = torch.optim.SGD(net.module.parameters(), 0.1)
    net.module(torch.from_numpy(pictures(8, 1)["input"])).square().mean().backward()
    optimizer.step()
    after = dict(net.places.graph.named_parameters())
    assert {name for name in before if torch.equal(before[name], after[name])} == set()
    assert not any("norm" in name or "running" in name for name in before)


class Rows(nn.Module):
    """Linear layers over rows, whose biases the ONNX file adds in other nodes; one has none."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.more, self.head = nn.Linear(28, 32), nn.Linear(32, 24, bias=False), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(torch.relu(self.more(torch.relu(self.rows(x))))).mean((1, 2)))


def test_linear_layers_over_more_than_two_axes_are_rounded_as_in_the_file() -> None:
    torch.manual_seed(0)
    net, feed = trained(Rows()), pictures(16, 2)
    assert len(net.places.layers) == 2
    assert steps_apart(net.outputs(feed), outputs_of(net.file(), feed)) < 1
    assert steps_apart(net.outputs(feed), outputs_of(net.places.model, feed)) > 0.1


def test_a_value_that_pytorch_does_not_compute_by_itself_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_places, "SAME", -1.0)
    with pytest.raises(ModelError, match=r"of the ONNX file .*\[train.int8\]"):
        find_places(folded(Net().eval(), image_spec(), SETTINGS), SETTINGS)


def test_a_network_without_layers_for_8_bits_is_refused() -> None:
    with pytest.raises(ModelError, match="no layer that 8 bits would suit"):
        find_places(folded(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), image_spec(), SETTINGS), SETTINGS)


def test_tensor_ranges_are_plain_numbers(net: Trained) -> None:
    assert msgspec.json.decode(msgspec.json.encode(net.module.limits_now())) == net.module.limits_now()
