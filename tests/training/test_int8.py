"""Training for int8 follows a training, goes on after Ctrl-C as if nothing had happened, and says what it wins."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from edgekit.commands.train import Wanted
from edgekit.data import Dataset
from edgekit.errors import Interrupted, ModelError, UsageError
from edgekit.files import sha256_of
from edgekit.progress import SILENT, Progress
from edgekit.recipe import DataRecipe, Int8Recipe, ModelRecipe, Recipe, TrainRecipe
from edgekit.reports.train import Int8Report, TrainReport
from edgekit.training.checkpoint import unfinished
from edgekit.training.fit import fit
from edgekit.training.folder import INT8_CHECKPOINT, Begin, run_report
from edgekit.training.int8 import train_int8
from tests.networks import dataset
from tests.training.test_loop import Stopping

SAMPLES, BATCH = 96, 16
STEPS = SAMPLES // BATCH
WIDTHS = (16, 16, 16)
FILES = ("int8.safetensors", "int8.json")


class Squeezed(nn.Module):
    """A squeeze-and-excitation block: its pooling is written otherwise where weights lie in memory as channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.squeeze, self.excite = nn.Conv2d(1, 16, 3, stride=2), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.last, self.head = nn.Conv2d(16, 16, 3, stride=2), nn.Linear(16, 10)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(self.pool(x)))))
        return cast(Tensor, self.head(torch.relu(self.last(x)).mean((2, 3))))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset(SAMPLES)


def recipe(int8: Int8Recipe | None = None, **settings: Any) -> Recipe:
    usual = {
        "epochs": 2,
        "batch_size": BATCH,
        "learning_rate": 0.01,
        "flip": True,
        "int8": int8 or Int8Recipe(learning_rate=1e-3),
    }
    return Recipe(
        "tiny", DataRecipe("fashion-mnist"), ModelRecipe("edgenet", {"widths": WIDTHS}), TrainRecipe(**{**usual, **settings})
    )


def train(asked: Recipe, data: Dataset, run: Path, begin: Begin = "anew", progress: Progress = SILENT) -> TrainReport:
    """As ``edgekit train`` does."""
    before = fit(asked, data, run, begin=begin)
    assert asked.train.int8 is not None
    return train_int8(asked, asked.train.int8, data, run, before, progress=progress)


@pytest.fixture(scope="module")
def alone(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training that none for int8 has followed yet; not to be changed."""
    place = tmp_path_factory.mktemp("alone") / "tiny"
    fit(recipe(), data, place)
    return place


def follow(alone: Path, asked: Recipe, data: Dataset, place: Path, progress: Progress = SILENT) -> None:
    """The training for int8 that follows ``alone``, in ``place``."""
    shutil.copytree(alone, place)
    assert asked.train.int8 is not None
    train_int8(asked, asked.train.int8, data, place, run_report(place), progress=progress)


@pytest.fixture(scope="module")
def run(alone: Path, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training for int8 of two epochs; not to be changed."""
    place = tmp_path_factory.mktemp("runs") / "tiny"
    follow(alone, recipe(), data, place)
    return place


@pytest.fixture(scope="module")
def stopped(alone: Path, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, Path], Path]:
    """Copies a training for int8 that was stopped after so many of its steps to a place."""

    @functools.cache
    def made(step: int) -> Path:
        place = tmp_path_factory.mktemp("stopped") / "tiny"
        with pytest.raises(Interrupted, match=r"int8 epoch . of 2 after . of 6 steps; .*int8-checkpoint.pt keeps it, --resume"):
            follow(alone, recipe(), data, place, StoppingInt8(advance=step + 1 + step // STEPS))
        return place

    return lambda step, place: Path(shutil.copytree(made(step), place))


def report_of(run: Path) -> Int8Report:
    report = run_report(run).int8
    assert report is not None
    return report


def contents(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in FILES]


def test_the_report_tells_all_four_accuracies_and_what_is_won(run: Path) -> None:
    report = report_of(run)
    assert [epoch.epoch for epoch in report.epochs] == [1, 2]
    assert report.before == run_report(run).test_accuracy
    assert report.trained - report.calibrated == pytest.approx((report.gained - report.lost) / report.pictures)
    assert report.low <= report.trained - report.calibrated <= report.high
    assert all(text in " ".join(report.lines()) for text in (f"{report.trained:.4f}", f"{report.after:.4f}", "95 %"))


def test_pytorch_and_the_int8_file_agree_within_a_step_at_the_end(run: Path) -> None:
    assert report_of(run).apart < 1


def test_the_runs_own_weights_stay_and_the_folded_ones_are_beside_them(alone: Path, run: Path) -> None:
    assert unfinished(alone)  # until the training for int8 has ended
    assert run_report(run).weights_sha256 == sha256_of(run / "weights.safetensors") == sha256_of(alone / "weights.safetensors")
    folded = load_safetensors((run / "int8.safetensors").read_bytes())
    assert not any("running" in name for name in folded)


def test_the_range_table_has_the_ranges_of_every_group(run: Path) -> None:
    table = json.loads((run / "int8.json").read_bytes())
    assert table["calibration"]["method"] == "trained"
    assert table["calibration"]["samples"] == SAMPLES
    assert all(row["lowest"] <= row["highest"] and row["limit"] > 0 for row in table["tensors"])


def test_repeated_it_gives_the_same_bytes(run: Path, data: Dataset, tmp_path: Path) -> None:
    report = train(recipe(), data, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(run)
    before = run_report(run)
    assert "are the same bytes" in Wanted(recipe(), run, before).compared(report).repetition
    assert report.int8 is not None
    other = msgspec.structs.replace(report, int8=msgspec.structs.replace(report.int8, weights_sha256="0"))
    assert "are others than those" in Wanted(recipe(), run, before).compared(other).repetition


@pytest.mark.parametrize(("step", "begin"), [(2, "resume"), (STEPS + 3, "update")])
def test_stopped_it_goes_on_to_the_same_bytes(
    run: Path, stopped: Callable[[int, Path], Path], data: Dataset, tmp_path: Path, step: int, begin: Begin
) -> None:
    place = stopped(step, tmp_path / "stopped")
    assert unfinished(place)
    assert run_report(place).int8 is None
    with pytest.raises(UsageError, match="holds an unfinished training"):
        train(recipe(), data, place)
    train(recipe(), data, place, begin)
    assert contents(place) == contents(run)
    assert not unfinished(place)


class StoppingInt8(Stopping):
    """Counts the epochs of the training for int8."""

    def task(self, title: str, total: int) -> Any:
        return super().task(title.removeprefix("int8 "), total)


def test_a_change_of_its_settings_keeps_the_training_before_and_repeats_what_follows(
    run: Path, data: Dataset, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(run, tmp_path / "changed"))
    said: list[str] = []
    report = fit(recipe(Int8Recipe(epochs=1)), data, place, begin="update", progress=Saying(said))
    assert any("after its last epoch" in line for line in said)
    after = train_int8(recipe(), Int8Recipe(epochs=1), data, place, report)
    assert after.int8 is not None
    assert len(after.int8.epochs) == 1
    assert contents(place) != contents(run)


class Saying:
    """Keeps what is said."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def task(self, title: str, total: int) -> Any:
        return SILENT.task(title, total)

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_an_unfinished_training_for_int8_with_other_settings_is_not_lost_unasked(
    stopped: Callable[[int, Path], Path], data: Dataset, tmp_path: Path
) -> None:
    place = stopped(2, tmp_path / "other")
    with pytest.raises(UsageError, match=r"made with other train.int8.learning_rate \(0.001, now 0.002\)"):
        train(recipe(Int8Recipe(learning_rate=2e-3)), data, place, "update")
    assert (place / INT8_CHECKPOINT).exists()
    train(recipe(Int8Recipe(learning_rate=2e-3)), data, place, "restart")
    assert report_of(place).trained >= 0


def test_limits_stand_still_in_the_last_epochs(run: Path, stopped: Callable[[int, Path], Path], tmp_path: Path) -> None:
    place = stopped(STEPS + 3, tmp_path / "stopped")
    state = torch.load(place / INT8_CHECKPOINT, weights_only=True)["model"]
    limits = {group: float(tensor) for group, tensor in state.items() if group.startswith("limits") and group.endswith("limit")}
    table = json.loads((run / "int8.json").read_bytes())
    assert {row["limit"] for row in table["tensors"]} == set(limits.values())
    assert int(state["steps"]) == STEPS + 3


def test_the_layout_of_weights_in_memory_is_of_no_matter(data: Dataset, tmp_path: Path) -> None:
    net = ModelRecipe("tests.training.test_int8:Squeezed")
    train(msgspec.structs.replace(recipe(Int8Recipe(epochs=1), channels_last=True), model=net), data, tmp_path)
    assert report_of(tmp_path).apart < 1


def test_a_network_without_a_layer_for_8_bits_is_refused(data: Dataset, tmp_path: Path) -> None:
    narrow = ModelRecipe("edgenet", {"widths": (4, 4, 4)})
    with pytest.raises(ModelError, match="no layer that 8 bits would suit"):
        train(msgspec.structs.replace(recipe(), model=narrow), data, tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "gained", "lost", "said"),
    [
        (-0.01, 0.02, 5, 4, "wins nothing here"),
        (-0.03, -0.01, 1, 30, "has lost accuracy"),
        (0.01, 0.03, 30, 1, None),
        (0.01, 0.03, 40, 1, "the float network gains 1.00 points by the same epochs: that is further training"),
    ],
)
def test_what_is_not_won_is_said(run: Path, low: float, high: float, gained: int, lost: int, said: str | None) -> None:
    trained = 0.9 + (gained - lost) / 1000
    changes = {
        "snr_db": 30.0,
        "low": low,
        "high": high,
        "gained": gained,
        "lost": lost,
        "calibrated": 0.9,
        "trained": trained,
        "pictures": 1000,
        "before": 0.9,
        "after": 0.91 if gained == 40 else 0.9,
    }
    lines = msgspec.structs.replace(report_of(run), **changes).lines()
    assert len(lines) == 1 + (said is not None)
    assert said is None or said in lines[1]


def test_the_bar_of_the_recipe_holds_for_int8_too(run: Path) -> None:
    report = msgspec.structs.replace(run_report(run), min_accuracy=0.5, test_accuracy=0.9)
    assert report.int8 is not None
    low, high = (msgspec.structs.replace(report.int8, trained=share) for share in (0.4, 0.6))
    assert not msgspec.structs.replace(report, int8=low).passed
    assert msgspec.structs.replace(report, int8=high).passed


@pytest.mark.parametrize(("snr_db", "said"), [(15.9, True), (16.1, False)])
def test_an_int8_file_that_the_export_will_refuse_is_told_after_the_training(run: Path, snr_db: float, said: bool) -> None:
    report = msgspec.structs.replace(report_of(run), snr_db=snr_db)
    assert any("the export asks for 16: lower train.int8.learning_rate" in line for line in report.lines()) is said
