"""What a checkpoint must agree on to be continued, and what it need not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.data import Dataset
from edgekit.data.pictures import Pictures
from edgekit.errors import Interrupted, ModelError, UsageError
from edgekit.recipe import DataRecipe, ModelRecipe, Recipe, TrainRecipe
from edgekit.training.fit import fit
from tests.networks import dataset
from tests.training.test_loop import Stopping

NET = """
import json
import torch
from torch import nn
{extra}

def net(start="start.pt"):
    with open("net.json") as stream:
        rate = json.load(stream)["dropout"]
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Dropout(rate))
    model.load_state_dict(torch.load(start))
    return model
"""
RECIPE = Recipe("tiny", DataRecipe("fashion-mnist"), ModelRecipe("net_with_a_start:net"), TrainRecipe(epochs=2, batch_size=8))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset(48)


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Dataset) -> Path:
    """An interrupted training of a model of a user's, which reads its first weights from a file."""
    import sys

    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "net_with_a_start", raising=False)
    Path("net_with_a_start.py").write_text(NET.format(extra=""))
    Path("net.json").write_text('{"dropout": 0.25}')
    torch.manual_seed(1)
    torch.save({"1.weight": torch.randn(10, 784), "1.bias": torch.zeros(10)}, "start.pt")
    with pytest.raises(Interrupted):
        fit(RECIPE, data, tmp_path / "run", progress=Stopping(advance=4))
    return tmp_path / "run"


def changed_recipe(**settings: object) -> Recipe:
    return msgspec.structs.replace(RECIPE, train=msgspec.structs.replace(RECIPE.train, **settings))


def test_bars_other_files_and_the_datas_path_may_change(stopped: Path, data: Dataset) -> None:
    Path("beside.py").write_text("x = 1")
    other = msgspec.structs.replace(
        changed_recipe(min_accuracy=0.3, min_balanced_accuracy=0.2), data=DataRecipe("fashion-mnist", path="elsewhere")
    )
    report = fit(other, data, stopped, begin="resume")
    assert len(report.epochs) == 2
    assert report.min_accuracy == 0.3


@pytest.mark.parametrize("begin", ["resume", "update"])
def test_relabelled_pictures_are_refused(stopped: Path, data: Dataset, begin: str) -> None:
    labels = np.roll(data.train.labels, 1)
    other = msgspec.structs.replace(data, train=Pictures(data.train.images, labels))
    with pytest.raises(UsageError, match="made with other pictures or classes; --restart begins anew"):
        fit(RECIPE, other, stopped, begin=begin)  # type: ignore[arg-type]  # a parameter is no Literal


def test_renamed_classes_are_refused(stopped: Path, data: Dataset) -> None:
    other = msgspec.structs.replace(data, classes=(*data.classes[1:], "zapple"))
    with pytest.raises(UsageError, match="made with other pictures or classes"):
        fit(RECIPE, other, stopped, begin="resume")


def test_other_code_is_refused(stopped: Path, data: Dataset) -> None:
    Path("net_with_a_start.py").write_text(NET.format(extra="# another net"))
    with pytest.raises(UsageError, match="made with other code of the model; --restart"):
        fit(RECIPE, data, stopped, begin="resume")


def test_other_initial_weights_that_the_model_reads_are_refused(stopped: Path, data: Dataset) -> None:
    import torch

    torch.save({"1.weight": torch.zeros(10, 784), "1.bias": torch.zeros(10)}, "start.pt")
    with pytest.raises(UsageError, match="made with other initial weights; --restart"):
        fit(RECIPE, data, stopped, begin="resume")


def test_other_settings_that_the_model_reads_from_a_file_are_refused(stopped: Path, data: Dataset) -> None:
    Path("net.json").write_text('{"dropout": 0.5}')
    with pytest.raises(UsageError, match="made with other structure of the model; --restart"):
        fit(RECIPE, data, stopped, begin="resume")


def test_several_changes_are_all_named(stopped: Path, data: Dataset) -> None:
    other = msgspec.structs.replace(data, classes=(*data.classes[1:], "zapple"))
    with pytest.raises(UsageError, match=r"other train.epochs \(2, now 3\) and other pictures or classes; --restart"):
        fit(changed_recipe(epochs=3), other, stopped, begin="update")


def test_a_finished_training_of_other_pictures_is_replaced_when_it_is_brought_up_to_date(stopped: Path, data: Dataset) -> None:
    first = fit(RECIPE, data, stopped, begin="resume")
    other = msgspec.structs.replace(data, train=Pictures(data.train.images, np.roll(data.train.labels, 1)))
    second = fit(RECIPE, other, stopped, begin="update")
    assert second.weights_sha256 != first.weights_sha256


def test_a_training_killed_after_its_last_checkpoint_is_finished(stopped: Path, data: Dataset) -> None:
    first = fit(RECIPE, data, stopped, begin="resume")
    for name in ("weights.safetensors", "train.json", "recipe.json"):
        (stopped / name).unlink()
    watching = Stopping()
    second = fit(RECIPE, data, stopped, begin="update", progress=watching)
    assert second == first
    assert watching.advances == 0  # no step is taken again


ODD: dict[str, dict[str, object]] = {
    "epoch as text": {"epoch": "1"},
    "epoch as a fraction": {"epoch": 0.5},
    "epoch below 0": {"epoch": -1},
    "epoch above the last": {"epoch": 3},
    "epoch without its record": {"epoch": 1},
    "step above the last": {"step": 99},
    "other number of steps": {"steps_per_epoch": 5},
    "step is nothing": {"step": None},
    "seconds as text": {"seconds": "long"},
    "history of something": {"history": [{"epoch": 1}]},
    "sessions of something": {"sessions": [{"epoch": 1}]},
    "totals are no tensor": {"totals": 3},
    "totals of another size": {"totals": [1.0, 2.0]},
    "model is nothing": {"model": None},
    "an optimizer of nothing": {"optimizers": [{}]},
    "no optimizer": {"optimizers": []},
    "a schedule of nothing": {"schedules": [{}]},
    "schedules are no list": {"schedules": 3},
    "precision of no name": {"precision": "float8"},
    "generators are text": {"generators": "7"},
    "a generator of nothing": {"generators": [{}]},
}


@pytest.mark.parametrize("begin", ["resume", "update"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_content_is_a_sentence(stopped: Path, data: Dataset, odd: str, begin: str) -> None:
    import torch

    content = torch.load(stopped / "checkpoint.pt", weights_only=True)
    torch.save({**content, **ODD[odd]}, stopped / "checkpoint.pt")
    with pytest.raises(ModelError, match=r"checkpoint .*checkpoint\.pt is damaged: .*; --restart begins anew"):
        fit(RECIPE, data, stopped, begin=begin)  # type: ignore[arg-type]  # a parameter is no Literal


@pytest.mark.parametrize(
    "name",
    ["epoch", "step", "history", "totals", "model", "optimizers", "schedules", "generators", "seconds", "rate", "sessions"],
)
def test_missing_content_is_a_sentence(stopped: Path, data: Dataset, name: str) -> None:
    import torch

    content = torch.load(stopped / "checkpoint.pt", weights_only=True)
    torch.save({key: value for key, value in content.items() if key != name}, stopped / "checkpoint.pt")
    with pytest.raises(ModelError, match=rf"checkpoint\.pt is damaged: .*{name}.*; --restart begins anew"):
        fit(RECIPE, data, stopped, begin="resume")
