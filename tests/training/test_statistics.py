"""Batch norm's running statistics after few steps, and after many."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.data import Dataset
from edgekit.models.batchnorm import BatchNorm
from edgekit.training.batches import Batches
from edgekit.training.statistics import make_fit
from tests.networks import dataset


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset(240)


def trained(norm: type[nn.Module], data: Dataset, *, lagging: bool) -> tuple[nn.Module, Batches]:
    """A network that has learnt its pictures; ``lagging``: its running statistics are those of other weights."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, 2), norm(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 16, 3, 2), norm(16), nn.ReLU(), nn.Flatten(),
        nn.Linear(400, 10),
    )  # fmt: skip
    batches = Batches(data.train, data.preprocess, torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(30):
        images, labels = batches.take(torch.arange(240))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, buffer in model.named_buffers():
        if lagging and name.endswith("running_mean"):
            buffer.fill_(9.0)
    return model, batches


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, BatchNorm])
def test_statistics_that_lag_behind_are_measured_anew(norm: type[nn.Module], data: Dataset) -> None:
    model, batches = trained(norm, data, lagging=True)
    report = make_fit(model, batches, 60, 0)
    assert report is not None
    assert report.training_mode > 0.9
    assert report.inference_mode < 0.5
    assert report.remeasured is not None
    assert report.remeasured > 0.9
    assert not model.training
    assert "were measured anew" in report.notes()[0]
    assert [module.momentum for module in model.modules() if hasattr(module, "momentum")] == [0.1, 0.1]


def test_measured_statistics_are_the_mean_of_the_batches(data: Dataset) -> None:
    model, batches = trained(nn.BatchNorm2d, data, lagging=True)
    make_fit(model, batches, 240, 0)
    convolution, norm = model[0], model[1]  # type: ignore[index]
    images, _ = batches.take(torch.arange(240))
    with torch.no_grad():
        variance, mean = torch.var_mean(convolution(images), (0, 2, 3))
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, BatchNorm])
def test_statistics_that_fit_stay_as_they_are_to_the_last_bit(norm: type[nn.Module], data: Dataset) -> None:
    model, batches = trained(norm, data, lagging=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = make_fit(model, batches, 60, 0)
    assert report is not None
    assert report.remeasured is None
    assert report.notes() == ()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_new_statistics_that_do_not_help_are_not_kept(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = trained(nn.BatchNorm2d, data, lagging=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    monkeypatch.setattr("edgekit.training.statistics._measure", lambda model, norms, sample: norms[0].running_mean.fill_(1e6))
    report = make_fit(model, batches, 60, 0)
    assert report is not None
    assert report.remeasured is None
    assert "does not help" in report.notes()[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_without_batch_norm_has_no_report(data: Dataset) -> None:
    batches = Batches(data.train, data.preprocess, torch.device("cpu"))
    assert make_fit(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), batches, 60, 0) is None


def test_a_norm_without_running_statistics_is_left_alone(data: Dataset) -> None:
    batches = Batches(data.train, data.preprocess, torch.device("cpu"))
    norm = nn.BatchNorm2d(1, track_running_stats=False)
    assert make_fit(nn.Sequential(norm, nn.Flatten(), nn.Linear(784, 10)), batches, 60, 0) is None
