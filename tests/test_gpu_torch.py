"""What only PyTorch on an NVIDIA GPU can show."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from edgekit.commands.bench import bench
from edgekit.commands.verify import verify
from edgekit.latency.loop import Timing
from edgekit.recipe import DataRecipe, ModelRecipe, Recipe, TrainRecipe
from edgekit.training.loop import fit
from tests.gpu_checks import ON_GPU, check_own_clock
from tests.networks import dataset
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
