"""``fold`` itself notices a wrong rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.fold import fold, rules, search
from tests.fold.checks import Calls, seq, spec
from tests.networks import randomise_norms


def _flipped(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda shape, scale, groups: function(shape, scale.flip(0), groups)


def _regrouped(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Assign channels to groups in turn, as if output o belonged to group o modulo groups."""
    return lambda shape, scale, groups: function(shape, scale.reshape(-1, groups).T.reshape(-1), groups)


def _other_axis(axis: int) -> int:
    return 1


ATEN = torch.ops.aten
TRANSPOSED = seq(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6))
WRONG: dict[str, tuple[Any, str, Callable[[Any], Any], Callable[[], nn.Module], tuple[int, ...]]] = {
    "outputs": (ATEN.conv2d.default, "outputs", _flipped, seq(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), (2, 5, 5)),
    "inputs": (ATEN.conv2d.default, "inputs", _flipped, seq(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3)), (2, 5, 5)),
    "groups": (ATEN.conv_transpose2d.input, "outputs", _regrouped, TRANSPOSED, (4, 5, 5)),
    "input groups": (
        ATEN.conv2d.default, "inputs", _regrouped, seq(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, groups=2)), (6, 5, 5),
    ),
    "linear": (ATEN.linear.default, "inputs", _flipped, seq(nn.BatchNorm1d(4), nn.Linear(4, 4)), (4,)),
    "axis": (ATEN.linear.default, "axis", _other_axis, seq(nn.Linear(4, 4), nn.BatchNorm1d(4)), (4, 4)),
}  # fmt: skip


@pytest.mark.parametrize(("target", "part", "wrong", "build", "shape"), WRONG.values(), ids=WRONG)
def test_a_wrong_rule_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    target: Any,
    part: str,
    wrong: Callable[[Any], Any],
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
) -> None:
    model = randomise_norms(build())
    assert bool(fold(model, spec(*shape))[1].folded) == (part != "axis")  # a norm on another axis must not fold at all
    layer = rules.LAYERS[target]
    monkeypatch.setattr(rules, "LAYERS", {**rules.LAYERS, target: layer._replace(**{part: wrong(getattr(layer, part))})})
    with pytest.raises(ModelError, match=r"changed its float64 outputs by .*--no-fold-bn"):
        fold(model, spec(*shape))


@pytest.mark.parametrize("factor", [1 + 1e-9, float("nan")])
def test_a_slightly_wrong_map_is_caught(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    from edgekit.fold import weights

    exact = weights._Pending.weight
    monkeypatch.setattr(weights._Pending, "weight", lambda pending: exact(pending) * factor)
    monkeypatch.setattr(weights._Pending, "check", lambda pending, node: None)
    with pytest.raises(ModelError, match="changed its float64 outputs"):
        fold(randomise_norms(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))), spec(2, 5, 5))


def test_a_wrong_eps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rsqrt = torch.rsqrt
    monkeypatch.setattr("edgekit.fold.norms.torch.rsqrt", lambda value: rsqrt(value + 1e-5))
    with pytest.raises(ModelError, match="changed its float64 outputs"):
        fold(randomise_norms(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))), spec(2, 5, 5))


HIDING: dict[str, Callable[[Tensor], Any]] = {
    "argmax": lambda y: {"place": y.argmax(1)},
    "rounded": lambda y: y.sigmoid().round(),
    "one huge channel": lambda y: torch.cat([y, 1e13 + y[:, :1]], 1),
}


@pytest.mark.parametrize("hide", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize("norm_first", [False, True])
def test_outputs_that_hide_an_error_do_not_hide_it_from_the_proof(
    monkeypatch: pytest.MonkeyPatch, hide: Callable[[Tensor], Any], norm_first: bool
) -> None:
    conv, norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
    model = randomise_norms(
        Calls(lambda m, x: hide(m.conv(m.norm(x)) if norm_first else m.norm(m.conv(x))), conv=conv, norm=norm)
    )
    assert len(fold(model, spec(3, 5, 5))[1].folded) == 1
    rsqrt = torch.rsqrt
    monkeypatch.setattr("edgekit.fold.norms.torch.rsqrt", lambda value: rsqrt(value + 1e-5))
    with pytest.raises(ModelError, match="changed its float64 outputs"):
        fold(model, spec(3, 5, 5))


@pytest.mark.parametrize("check", ["_check_reach", "_check_weight"])
def test_a_missed_refusal_is_caught(monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    def other_user(m: Any, x: Tensor) -> Any:
        y = m.conv(x)
        return m.norm(y) + torch.tanh(y)

    def shared(m: Any, x: Tensor) -> Any:
        return m.norm(m.conv(torch.tanh(m.conv(x))))

    model = Calls(other_user if check == "_check_reach" else shared, conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3))
    fold(randomise_norms(model), spec(3, 5, 5))
    monkeypatch.setattr(search.Search, check, lambda *args: None)
    if check == "_check_weight":
        # folding copies a shared weight; this prevents the copy, so that the other call changes
        monkeypatch.setattr("edgekit.fold.weights.Weights._own", lambda weights, node, current, leaf: str(current.target))
    with pytest.raises(ModelError, match="changed its float64 outputs"):
        fold(model, spec(3, 5, 5))
