"""Fine-tuning: a training that begins with another's weights, whose stages stand still and thaw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from edgekit.data import Dataset
from edgekit.errors import RecipeError
from edgekit.recipe import ModelRecipe, Recipe, StageRecipe
from edgekit.training.fit import fit
from tests.networks import dataset
from tests.training.test_loop import recipe

CONVOLUTIONS = ("0", "1", "4", "5", "7", "8", "11", "12", "14", "15")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of EdgeNet that know ten classes."""
    run = tmp_path_factory.mktemp("start")
    fit(recipe("edgenet", batch_size=8, epochs=4), dataset(240, seed=1), run)
    return run / "weights.safetensors"


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Few pictures of three classes."""
    return dataset(36, classes=3)


def tuned(start: Path | None, **settings: Any) -> Recipe:
    plan = recipe("edgenet", batch_size=6, epochs=3, **settings)
    return msgspec.structs.replace(plan, model=ModelRecipe("edgenet", weights=str(start) if start else None))


def stages(**settings: Any) -> tuple[StageRecipe, ...]:
    return tuple(StageRecipe(module, **settings) for module in CONVOLUTIONS)


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_stages_that_never_thaw_keep_their_weights_and_statistics_to_the_bit(
    average: float, start: Path, data: Dataset, tmp_path: Path
) -> None:
    report = fit(tuned(start, stages=stages(thaw=0), average=average), data, tmp_path / "run")
    before, after = load_file(start), load_file(tmp_path / "run" / "weights.safetensors")
    for name, value in after.items():
        if not name.startswith("19."):
            assert torch.equal(value, before[name]), name
    assert after["19.weight"].shape == (3, 72)
    assert any("19 begins anew" in note for note in report.notes)


def test_stages_thaw_in_the_epoch_that_they_name(start: Path, data: Dataset, tmp_path: Path) -> None:
    fit(tuned(start, stages=stages(thaw=3)), data, tmp_path / "thawed")
    before, after = load_file(start), load_file(tmp_path / "thawed" / "weights.safetensors")
    assert not torch.equal(after["0.weight"], before["0.weight"])
    late = fit(tuned(start, stages=stages(thaw=4)), data, tmp_path / "late")  # after the last epoch
    assert torch.equal(load_file(tmp_path / "late" / "weights.safetensors")["0.weight"], before["0.weight"])
    assert late.epochs[0].loss == pytest.approx(fit(tuned(start, stages=stages(thaw=0)), data, tmp_path / "never").epochs[0].loss)


def test_a_smaller_rate_moves_weights_less(start: Path, data: Dataset, tmp_path: Path) -> None:
    before, moved = load_file(start), []
    for rate in (1.0, 0.01):
        fit(tuned(start, stages=stages(rate=rate)), data, tmp_path / str(rate))
        after = load_file(tmp_path / str(rate) / "weights.safetensors")
        moved.append(float((after["0.weight"] - before["0.weight"]).norm()))
    assert moved[1] < 0.1 * moved[0]


def test_weights_that_have_seen_others_teach_faster_than_none(start: Path, data: Dataset, tmp_path: Path) -> None:
    fine_tuned, fresh = (fit(tuned(weights), data, tmp_path / str(bool(weights))) for weights in (start, None))
    assert fine_tuned.epochs[-1].loss < fresh.epochs[-1].loss


def test_a_stage_that_is_no_module_is_told_before_anything_is_written(start: Path, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'features' is no module of the model with weights; name one like 0, 1"):
        fit(tuned(start, stages=(StageRecipe("features"),)), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()
