"""What only PyTorch on an NVIDIA GPU can show."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from edgekit.commands.bench import bench
from edgekit.commands.verify import verify
from edgekit.errors import Interrupted
from edgekit.latency.loop import Timing
from edgekit.recipe import DataRecipe, ModelRecipe, Recipe, TrainRecipe
from edgekit.training.fit import fit
from edgekit.training.state import State
from tests.gpu_checks import ON_GPU, check_own_clock
from tests.networks import dataset
from tests.training.test_loop import Stopping
from tests.ways import ways

pytestmark = [*ON_GPU, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA")]


def test_pytorch_on_cuda_computes_without_tf32_what_it_computes_on_the_cpu(bundle: Path) -> None:
    report = verify(bundle, ways("torch-cuda"))
    assert report.passed
    assert 0 < report.parities[0].outputs[0].normalised < 1e-5
    check_own_clock(bench(bundle, ways("torch-cuda"), Timing(batches=(1, 8), seconds=0.05)).rows)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_runs_on_cuda_and_learns(tmp_path: Path, precision: Literal["float32", "bfloat16"]) -> None:
    recipe = Recipe(
        "gpu",
        DataRecipe("fashion-mnist"),
        ModelRecipe("lenet"),
        TrainRecipe(epochs=8, batch_size=64, learning_rate=0.01, precision=precision, seed=1),
    )
    torch.cuda.reset_peak_memory_stats()
    report = fit(recipe, dataset(2000), tmp_path / "run", device="cuda")
    assert torch.cuda.max_memory_allocated() > 0
    assert report.test_accuracy > 0.5


def test_every_way_to_train_runs_on_cuda_and_stops_and_goes_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "optimizer": "muon",
        "learning_rate": 0.05,
        "schedule": "linear",
        "average": 0.9,
        "clip_norm": 1.0,
    }
    settings |= {"flip": "alternating", "pad": 2, "erase": 0.25, "channels_last": True, "precision": "auto"}
    plan = Recipe("gpu", DataRecipe("fashion-mnist"), ModelRecipe("edgenet"), TrainRecipe(epochs=4, batch_size=64, **settings))
    with pytest.raises(Interrupted):
        fit(plan, dataset(2000), tmp_path / "run", device="cuda", progress=Stopping(advance=40))
    report = fit(plan, dataset(2000), tmp_path / "run", device="cuda", begin="resume")
    assert report.facts["precision"] == "bfloat16"
    assert report.test_accuracy > 0.5


def test_dropout_on_cuda_goes_on_with_the_numbers_it_would_have_drawn(tmp_path: Path) -> None:
    device, model = torch.device("cuda"), torch.nn.Dropout(0.5)
    state = State(torch.nn.Linear(2, 2), TrainRecipe(epochs=2), 3, device)
    ones = torch.ones(1000, device=device)
    torch.manual_seed(3)
    model(ones)
    state.save(tmp_path / "checkpoint.pt", {})
    drawn = model(ones)
    torch.manual_seed(4)
    state.load(tmp_path / "checkpoint.pt", {})
    assert torch.equal(model(ones), drawn)
