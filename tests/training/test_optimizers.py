"""Which parameter is moved by what: rates, decay, schedules, and stages that stand still."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from edgekit.errors import MissingError, RecipeError
from edgekit.recipe import StageRecipe, TrainRecipe
from edgekit.training.optimizers import Moved, check_stages, freeze, frozen, matrices, optimizers


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


def moved(model: nn.Module, steps: int = 20, **settings: Any) -> tuple[Moved, ...]:
    return optimizers(model, TrainRecipe(**settings), steps)


def rates(model: nn.Module, each: Moved) -> dict[str, tuple[float, float]]:
    """Parameter -> (rate, decay)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = each.optimizer.param_groups
    return {names[id(item)]: (group["initial_lr"], group["weight_decay"]) for group in groups for item in group["params"]}


def curve(steps: int, **settings: Any) -> list[float]:
    """The rate of each step."""
    (each,) = moved(net(), steps, **settings)
    found = []
    for _ in range(steps):
        found.append(float(each.optimizer.param_groups[0]["lr"]))
        each.optimizer.step()
        each.schedule.step()
    return found


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weights_decay_and_batch_norms_and_biases_do_not(optimizer: str) -> None:
    model = net()
    (each,) = moved(model, optimizer=optimizer, weight_decay=0.1, learning_rate=0.5, schedule="constant")
    assert rates(model, each) == {
        name: (0.5, 0.1 if name in ("0.weight", "4.weight") else 0.0) for name, _ in model.named_parameters()
    }


def test_muon_takes_the_weights_but_the_last_and_adamw_the_rest_at_a_rate_of_its_own() -> None:
    model = net()
    muon, rest = moved(model, optimizer="muon", learning_rate=0.08, learning_rate_rest=0.01, schedule="constant")
    assert rates(model, muon) == {"0.weight": (0.08, 0.0)}
    assert rates(model, rest) == dict.fromkeys(("4.weight", "0.bias", "1.weight", "1.bias", "4.bias"), (0.01, 0.0))
    usual = moved(model, optimizer="muon", learning_rate=0.08, schedule="constant")[1]
    assert rates(model, usual)["4.weight"] == (0.02, 0.0)


class Mixed(nn.Module):
    """A module of each kind whose weights have two axes or more."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.words = nn.Embedding(20, 16)
        self.stem = nn.Conv2d(1, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 16, 3, groups=2)
        self.wide = nn.Linear(16, 4096)
        self.narrow = nn.Linear(4096, 2)
        self.head = nn.Linear(2, 10)


def test_muon_takes_layers_that_mix_channels_and_nothing_else() -> None:
    model = Mixed()
    assert matrices(model) == {"stem.weight", "wide.weight"}
    muon, rest = moved(model, optimizer="muon", learning_rate=0.08, learning_rate_rest=0.01, schedule="constant")
    assert rates(model, muon).keys() == {"stem.weight", "wide.weight"}
    assert {name for name, (rate, _) in rates(model, rest).items() if rate == 0.01} >= {
        "token",
        "words.weight",
        "depthwise.weight",
    }


def test_timm_moves_by_muon_whatever_muon_is_given() -> None:
    """Left to itself it moves weights of one input channel, and long ones, by NAdamW at Muon's rate."""
    model = Mixed()
    muon, _ = moved(model, optimizer="muon")
    for group in muon.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    muon.optimizer.step()
    assert all(state.keys() == {"use_muon", "momentum_buffer"} for state in muon.optimizer.state.values())


def test_muon_makes_a_step_of_equal_singular_values() -> None:
    """So that a direction with a small gradient moves as far as one with a large: within the error of five iterations."""
    hidden = nn.Linear(8, 8, bias=False)
    model = nn.Sequential(hidden, nn.Linear(8, 2))
    before = hidden.weight.detach().clone()
    muon, _ = moved(model, optimizer="muon", learning_rate=0.1, schedule="constant")
    hidden.weight.grad = torch.diag(torch.tensor([1.0, 0.5, 0.3, 0.2, 0.1, 0.1, 0.05, 0.05]))
    muon.optimizer.step()
    values = torch.linalg.svdvals(before - hidden.weight.detach()) / 0.1
    assert values.min() > 0.6
    assert values.max() < 1.4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_muon_multiplies_in_the_dtype_that_is_faster_on_the_device(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.optim import muon as timm_muon

    monkeypatch.setattr("edgekit.training.optimizers.bfloat16_pays_on", lambda device: dtype == torch.bfloat16)
    usual, layer = timm_muon.zeropower_via_newtonschulz, nn.Linear(12, 8, bias=False)
    muon, _ = moved(
        nn.Sequential(layer, nn.Linear(8, 2)), optimizer="muon", learning_rate=0.1, schedule="constant", weight_decay=0.0
    )
    coefficients = timm_muon.resolve_ns_coefficients(muon.optimizer.param_groups[0]["ns_coefficients"], timm_muon._COEFFICIENTS)
    before, gradient = layer.weight.detach().clone(), torch.randn(8, 12)
    layer.weight.grad = gradient.clone()
    update = gradient.lerp(0.05 * gradient, 0.95)  # the first of Nesterov's momentum
    muon.optimizer.step()
    moved_by = nn.functional.normalize((before - layer.weight.detach()).flatten(), dim=0)
    apart = {}
    for each in (torch.bfloat16, torch.float32):
        orthogonal = usual(update, 5, coefficients, dtype=each).float()
        apart[each] = float((moved_by - nn.functional.normalize(orthogonal.flatten(), dim=0)).abs().max())
    assert apart.pop(dtype) < 1e-5
    assert min(apart.values()) > 1e-4
    assert timm_muon.zeropower_via_newtonschulz is usual


def test_muon_without_timm_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.optim.muon", None)
    with pytest.raises(MissingError, match="the optimizer muon is part of timm, which is not installed; pip install timm"):
        moved(net(), optimizer="muon")


def test_a_linear_schedule_rises_and_falls_in_straight_lines() -> None:
    found = curve(100, schedule="linear", warmup=0.1, learning_rate=1.0)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10:] == pytest.approx([1 - step / 90 for step in range(90)])


def test_a_cosine_schedule_falls_along_half_a_wave() -> None:
    found = curve(101, schedule="cosine", warmup=0.0, learning_rate=1.0)
    assert found[0] == 1.0
    assert found[51] == pytest.approx(0.5)
    assert found[-1] < 1e-3
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("schedule", ["one-cycle", "linear", "cosine", "constant"])
def test_a_single_step_has_a_rate(schedule: str) -> None:
    assert curve(1, schedule=schedule, learning_rate=0.3)[0] == pytest.approx(0.3)


def test_a_stage_has_its_share_of_the_rate_and_the_longest_path_counts() -> None:
    model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), "head": nn.Linear(3, 2)})
    stages = (StageRecipe("body", 0.1), StageRecipe("body.1", 0.5))
    (each,) = moved(model, stages=stages, learning_rate=1.0, schedule="constant")
    found = {name: rate for name, (rate, _) in rates(model, each).items()}
    assert found == {
        "body.0.weight": 0.1, "body.0.bias": 0.1, "body.1.weight": 0.5, "body.1.bias": 0.5, "head.weight": 1.0, "head.bias": 1.0,
    }  # fmt: skip


def test_a_frozen_stage_gets_no_gradient_keeps_its_statistics_and_thaws() -> None:
    model, settings = net(), TrainRecipe(stages=(StageRecipe("0", thaw=3), StageRecipe("1", thaw=0)))
    statistics = model.get_buffer("1.running_mean")
    seen = []
    for epoch in (1, 2):
        freeze(model, settings, epoch)
        model.zero_grad()
        mean = statistics.clone()
        model(torch.randn(4, 1, 8, 8)).sum().backward()
        gradients = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert torch.equal(statistics, mean)
        seen.append(gradients)
    assert seen == [{"4.weight", "4.bias"}, {"0.weight", "0.bias", "4.weight", "4.bias"}]


def test_a_path_is_no_prefix_of_another_name() -> None:
    settings = TrainRecipe(stages=(StageRecipe("layer1", thaw=0),))
    assert frozen("layer1.0.weight", settings, 0)
    assert not frozen("layer10.weight", settings, 0)


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        ((StageRecipe("feature"),), r"train.stages: 'feature' is no module of the model with weights; name one like features"),
        ((StageRecipe("features.1"),), "'features.1' is no module of the model with weights"),
        ((StageRecipe("features", thaw=2), StageRecipe("head", thaw=0)), "leaves nothing to train in the first epoch"),
    ],
)
def test_stages_that_do_nothing_or_all_are_refused(stages: tuple[StageRecipe, ...], reason: str) -> None:
    model = nn.ModuleDict({"features": nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "head": nn.Linear(2, 2)})
    with pytest.raises(RecipeError, match=reason):
        check_stages(model, TrainRecipe(stages=stages))
