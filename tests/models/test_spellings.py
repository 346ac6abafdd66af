"""Weights under other names than the model's: norms of weights, tied tensors, counters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from edgekit.errors import ModelError
from edgekit.models.weights import load_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*")
Norm = Callable[[nn.Module], nn.Module]


def normed(weight_norm: Any, spectral_norm: Any, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    conv, spectral, linear = weight_norm(nn.Conv2d(1, 4, 3)), spectral_norm(nn.Conv2d(4, 4, 3)), weight_norm(nn.Linear(4, 2))
    return nn.Sequential(conv, nn.ReLU(), spectral, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).eval()


def old(seed: int) -> nn.Module:
    return normed(nn.utils.weight_norm, nn.utils.spectral_norm, seed)


def new(seed: int) -> nn.Module:
    return normed(parametrizations.weight_norm, parametrizations.spectral_norm, seed)


@pytest.mark.parametrize(("saved", "loaded"), [(old, new), (new, old), (new, new), (old, old)])
def test_normed_weights_are_loaded_under_either_name(
    saved: Callable[[int], nn.Module], loaded: Callable[[int], nn.Module], tmp_path: Path
) -> None:
    before, after = saved(0), loaded(1)
    torch.save({"model": {f"module.{key}": value for key, value in before.state_dict().items()}}, tmp_path / "c.pth")
    notes = load_checkpoint(after, str(tmp_path / "c.pth"))
    assert any("7 of the weights have another name in the model" in note for note in notes) == (saved is not loaded)
    picture = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(after(picture), before(picture))
    assert not torch.allclose(after(picture), loaded(1)(picture))


def test_a_normed_weight_of_another_shape_is_named_by_its_shape(tmp_path: Path) -> None:
    state = old(0).state_dict()
    torch.save({**state, "5.weight_v": torch.ones(2, 5)}, tmp_path / "c.pth")
    with pytest.raises(ModelError, match=r"5.parametrizations.weight.original1 is \(2, 5\) in the file and \(2, 4\)"):
        load_checkpoint(new(0), str(tmp_path / "c.pth"))


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        """One layer after the other."""
        return self.second(self.first(x).relu())  # type: ignore[no-any-return]


def test_a_tied_weight_may_be_in_the_file_once(tmp_path: Path) -> None:
    before, after = Tied(), Tied()
    save_model(before, str(tmp_path / "c.safetensors"))
    notes = load_checkpoint(after, str(tmp_path / "c.safetensors"))
    assert notes == ("second.weight is first.weight, and the file holds it under that name only",)
    torch.testing.assert_close(after(torch.ones(1, 4)), before(torch.ones(1, 4)))
    with pytest.raises(ModelError, match=r"the file lacks second\.weight"):
        load_checkpoint(Tied(tied=False), str(tmp_path / "c.safetensors"))


def test_two_weights_for_a_tied_one_are_refused(tmp_path: Path) -> None:
    torch.save(Tied(tied=False).state_dict(), tmp_path / "c.pth")
    with pytest.raises(ModelError, match=r"different numbers for first.weight and second.weight, which are one tensor"):
        load_checkpoint(Tied(), str(tmp_path / "c.pth"))
    torch.save(Tied().state_dict(), tmp_path / "same.pth")
    assert load_checkpoint(Tied(), str(tmp_path / "same.pth")) == ()


@pytest.mark.parametrize("counter", [torch.tensor([7]), torch.tensor(7.0), torch.tensor([1, 2])])
def test_a_counter_of_another_shape_or_dtype_fits(counter: Tensor, tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(2))
    torch.save({**model.state_dict(), "0.num_batches_tracked": counter}, tmp_path / "c.pth")
    load_checkpoint(model, str(tmp_path / "c.pth"))
    assert model[0].num_batches_tracked == (7 if counter.numel() == 1 else 0)


class WithState(nn.Linear):
    """A layer with a state that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        """Any object."""
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Nothing to set."""


def test_a_state_that_is_no_tensor_stays_the_models_own(tmp_path: Path) -> None:
    before, after = WithState(4, 2), WithState(4, 2)
    torch.save(before.state_dict(), tmp_path / "c.pth")
    load_checkpoint(after, str(tmp_path / "c.pth"))
    assert torch.equal(before.weight, after.weight)
