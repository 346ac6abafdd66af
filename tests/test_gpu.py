"""What only a machine with an NVIDIA GPU can show."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgekit.backends import absence, open_backend
from edgekit.bundle import open_bundle
from edgekit.commands import bench_bundle, verify_bundle
from edgekit.cuda import cuda_problem
from edgekit.doctor import doctor
from edgekit.recipe import DataRecipe, ModelRecipe, Recipe, TrainRecipe
from edgekit.train import train
from tests.networks import dataset

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(cuda_problem()), reason=f"no CUDA: {cuda_problem()}")]


@pytest.fixture
def _ort_cuda() -> None:
    problem = absence("ort-cuda")
    if problem:
        pytest.skip(problem)


@pytest.mark.usefixtures("_ort_cuda")
def test_cuda_computes_what_the_original_model_does(bundle: Path) -> None:
    report = verify_bundle(bundle, backends=["ort-cuda"])
    assert report.passed
    assert report.parities[0].candidate == "ort-cuda"
    assert 0 < report.parities[0].outputs[0].normalised < 1e-5


@pytest.mark.usefixtures("_ort_cuda")
def test_cuda_is_really_what_runs(bundle: Path) -> None:
    with open_backend("ort-cuda", open_bundle(bundle).model_files()) as opened:
        assert opened.facts["providers"].startswith("CUDAExecutionProvider")
        assert opened.facts["TF32"] == "off"


@pytest.mark.usefixtures("_ort_cuda")
def test_cuda_is_timed_at_both_boundaries(bundle: Path) -> None:
    report = bench_bundle(bundle, backends=["ort-cpu", "ort-cuda"], batches=(1, 8), seconds=0.05)
    rows = [row for row in report.rows if row.backend == "ort-cuda"]
    assert [(row.batch, row.boundary) for row in rows] == [
        (batch, boundary) for batch in (1, 8) for boundary in ("device", "end-to-end")
    ]
    assert all(row.count >= 5 for row in rows)
    assert {one.baseline for one in report.comparisons} == {"ort-cpu"}


@pytest.mark.usefixtures("_ort_cuda")
def test_the_doctor_says_that_onnxruntime_runs_on_cuda() -> None:
    found = {finding.name: finding for finding in doctor().findings}
    assert found["NVIDIA driver"].status == "ok"
    assert found["onnxruntime-gpu"].runs_on == "CUDA, CPU"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_runs_on_cuda_and_learns(tmp_path: Path, precision: str) -> None:
    recipe = Recipe(
        "gpu",
        DataRecipe("fashion-mnist"),
        ModelRecipe("lenet"),
        TrainRecipe(epochs=8, batch_size=64, learning_rate=0.01, precision=precision, seed=1),
    )
    torch.cuda.reset_peak_memory_stats()
    report = train(recipe, dataset(2000), tmp_path / "run", device="cuda")
    assert torch.cuda.max_memory_allocated() > 0
    assert report.test_accuracy > 0.5
