"""Training: it learns, repeats bit for bit, and goes on after Ctrl-C as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load as load_safetensors

from edgekit import atomic
from edgekit.data import Dataset
from edgekit.errors import Interrupted, MissingError, ModelError, OutputError, RecipeError, UsageError
from edgekit.files import sha256_of
from edgekit.machine import stops
from edgekit.progress import SILENT, Advance, Progress
from edgekit.recipe import DataRecipe, ModelRecipe, Recipe, StageRecipe, TrainRecipe
from edgekit.reports.train import Epoch, StatisticsReport, TrainReport
from edgekit.sources.module import load_source
from edgekit.training.batches import batch_count
from edgekit.training.checkpoint import unfinished
from edgekit.training.device import pick_device
from edgekit.training.fit import fit
from edgekit.training.folder import Begin
from edgekit.training.state import _average
from tests.networks import dataset

SAMPLES, BATCH, EPOCHS = 96, 4, 3
BEGIN_UNASKED: tuple[Begin, ...] = ("anew", "resume", "update")
"""Ways to begin that may lose no training."""
STEPS = SAMPLES // BATCH

DROPOUT = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(576, 10)
    )

def leaves_out_a_class():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 9))

def gives_a_tuple():
    class Pair(nn.Linear):
        def forward(self, x):
            return x, x
    return Pair(1, 1)
"""


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset(SAMPLES)


@pytest.fixture(scope="module")
def apart() -> Dataset:
    """Four classes: their bands are seven rows apart, so that moved by two rows a picture is of its own class still."""
    return dataset(SAMPLES, classes=4)


@pytest.fixture(scope="module")
def few() -> Dataset:
    """Three classes of few pictures: soon learnt, also where steps are slow."""
    return dataset(SAMPLES // 2, classes=3)


@pytest.fixture
def dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that draws random numbers while it trains."""
    (tmp_path / "dropout_net_of_a_user.py").write_text(DROPOUT)
    monkeypatch.chdir(tmp_path)
    return "dropout_net_of_a_user:net"


def recipe(model: str = "lenet", **settings: Any) -> Recipe:
    defaults = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.01, "flip": True, "label_smoothing": 0.05}
    return Recipe("tiny", DataRecipe("fashion-mnist"), ModelRecipe(model), TrainRecipe(**{**defaults, **settings}))


class Stopping:
    """Sends a signal to this process at one moment: the n-th report of an epoch's progress, or the n-th finished epoch."""

    def __init__(self, *, advance: int = 0, say: int = 0, number: int = signal.SIGINT) -> None:
        self.advance_at, self.say_at, self.number = advance, say, number
        self.advances = self.says = 0

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        def advance(steps: int, note: str) -> None:
            self.advances += title.startswith("epoch")
            if title.startswith("epoch") and self.advances == self.advance_at:
                os.kill(os.getpid(), self.number)

        yield advance

    def say(self, line: str) -> None:
        self.says += 1
        if self.says == self.say_at:
            os.kill(os.getpid(), self.number)


def without_seconds(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def weights(run: Path) -> bytes:
    return (run / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "lenet-scratch"},
        {"optimizer": "sgd", "learning_rate": 0.05},
        {"schedule": "constant"},
        {"schedule": "linear", "learning_rate": 0.03},
        {"schedule": "cosine", "clip_norm": 1.0, "learning_rate": 0.03},
        {"optimizer": "muon", "learning_rate": 0.05, "schedule": "linear", "weight_decay": 0.02},
        {"average": 0.9},
        {"pad": 2, "erase": 0.2, "flip": "alternating"},
    ],
    ids=["lenet", "lenet-scratch", "sgd", "constant", "linear", "cosine", "muon", "average", "augmented"],
)
def test_training_learns(settings: dict[str, object], apart: Dataset, tmp_path: Path) -> None:
    report = fit(recipe(**{"flip": False, **settings}), apart, tmp_path / "run")  # type: ignore[arg-type]  # the settings are of several types
    assert report.test_accuracy > 0.9
    assert report.epochs[-1].loss < report.epochs[0].loss
    assert report.passed


def test_a_training_that_hardly_moves_does_not_learn(apart: Dataset, tmp_path: Path) -> None:
    assert fit(recipe(flip=False, learning_rate=1e-6), apart, tmp_path / "run").test_accuracy < 0.9


def test_bfloat16_with_channels_last_learns_and_leaves_float32_weights(few: Dataset, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"precision": "bfloat16", "channels_last": True, "flip": False}
    report = fit(recipe(**settings), few, tmp_path / "run")
    assert report.test_accuracy > 0.8
    kinds = {tensor.dtype for tensor in load_safetensors(weights(tmp_path / "run")).values()}
    assert kinds == {torch.float32, torch.int64}
    fit(recipe(flip=False), few, tmp_path / "float32")
    assert weights(tmp_path / "run") != weights(tmp_path / "float32")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(data: Dataset, tmp_path: Path, dropout: str) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(7)  # what was drawn before must not matter
        fit(recipe(dropout, epochs=1, seed=seed), data, tmp_path / name)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert without_seconds(tmp_path / "a") == without_seconds(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


def test_an_epoch_records_the_learning_rate_of_its_last_step(data: Dataset, tmp_path: Path) -> None:
    report = fit(recipe(schedule="linear", warmup=0.0, learning_rate=0.01), data, tmp_path / "run")
    last = [STEPS - 1, 2 * STEPS - 1, 3 * STEPS - 1]
    falling = [0.01 * (1 - (step - 1) / (EPOCHS * STEPS - 1)) for step in last]  # the first step is the warm-up
    assert [epoch.learning_rate for epoch in report.epochs] == pytest.approx(falling, rel=1e-9)


def test_every_epoch_has_an_order_and_flips_of_its_own(data: Dataset, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"learning_rate": 1e-12, "schedule": "constant", "label_smoothing": 0.0}
    plain = fit(recipe(epochs=2, **{**settings, "flip": False}), data, tmp_path / "plain")
    flipped = fit(recipe(epochs=2, **{**settings, "flip": True}), data, tmp_path / "flipped")
    losses = [epoch.loss for report in (plain, flipped) for epoch in report.epochs]
    assert len(set(losses)) == 4  # the weights stand still: only which pictures share a batch, and how they lie, differs


# a task reports at its start and after each of its 24 steps: 25 times an epoch
MOMENTS = {
    "before the first step of all": Stopping(advance=1),
    "in the first epoch": Stopping(advance=21),
    "before the second epoch's first step": Stopping(advance=26),
    "in the second epoch": Stopping(advance=46),
    "after the second epoch's last step": Stopping(advance=50),
    "after the second epoch's evaluation": Stopping(say=2),
    "by SIGTERM in the third epoch": Stopping(advance=71, number=signal.SIGTERM),
    "by SIGHUP in the third epoch": Stopping(advance=71, number=signal.SIGHUP),
}


@pytest.fixture
def _at_a_terminal() -> Iterator[None]:
    """What nohup starts ignores SIGHUP."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def whole(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "dropout_net_of_a_user.py").write_text(DROPOUT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit(recipe("dropout_net_of_a_user:net"), data, folder / "run")
    return folder / "run"


@pytest.mark.usefixtures("_at_a_terminal")
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_training_resumes_to_the_same_bytes(
    moment: str, whole: Path, data: Dataset, dropout: str, tmp_path: Path
) -> None:
    plan, stop = recipe(dropout), MOMENTS[moment]
    run = tmp_path / "run"
    handlers = [signal.getsignal(number) for number in stops.SIGNALS]
    with pytest.raises(Interrupted, match=rf"training stopped in epoch \d of {EPOCHS} after \d+ of {STEPS} steps; .*--resume"):
        fit(plan, data, run, progress=Stopping(advance=stop.advance_at, say=stop.say_at, number=stop.number))
    assert [signal.getsignal(number) for number in stops.SIGNALS] == handlers
    assert unfinished(run)
    assert not (run / "weights.safetensors").exists()
    torch.rand(11)
    report = fit(plan, data, run, begin="resume")
    assert weights(run) == weights(whole)
    assert without_seconds(run) == without_seconds(whole)
    assert [epoch.epoch for epoch in report.epochs] == [1, 2, 3]
    assert not unfinished(run)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd"},
        {"precision": "bfloat16", "channels_last": True},
        {"schedule": "constant"},
        {"optimizer": "muon", "schedule": "linear", "average": 0.9, "flip": "alternating", "pad": 1, "erase": 0.5},
        {"stages": (StageRecipe("0", thaw=2), StageRecipe("4", rate=0.5)), "schedule": "cosine", "clip_norm": 0.5},
    ],
    ids=["sgd", "bfloat16", "constant", "muon", "stages"],
)
def test_every_kind_of_training_resumes_to_the_same_bytes(settings: dict[str, object], data: Dataset, tmp_path: Path) -> None:
    plan = recipe("lenet-scratch", epochs=2, **settings)
    fit(plan, data, tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(plan, data, tmp_path / "run", progress=Stopping(advance=21))
    fit(plan, data, tmp_path / "run", begin="resume")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_training_interrupted_twice_resumes_to_the_same_bytes(whole: Path, data: Dataset, dropout: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"in epoch 1 of 3 after 20 of 24"):
        fit(recipe(dropout), data, run, progress=Stopping(advance=21))
    with pytest.raises(Interrupted, match=r"in epoch 3 of 3 after 20 of 24"):
        fit(recipe(dropout), data, run, begin="resume", progress=Stopping(advance=51))
    fit(recipe(dropout), data, run, begin="resume")
    assert weights(run) == weights(whole)
    assert without_seconds(run) == without_seconds(whole)


def test_a_stop_after_the_last_epoch_finishes(whole: Path, data: Dataset, dropout: str, tmp_path: Path) -> None:
    fit(recipe(dropout), data, tmp_path / "run", progress=Stopping(say=EPOCHS))
    assert weights(tmp_path / "run") == weights(whole)


class Recording:
    """Keeps every task with its steps and notes."""

    say = SILENT.say

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int, list[tuple[int, str]]]] = []

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        steps: list[tuple[int, str]] = []
        self.tasks.append((title, total, steps))
        yield lambda done, note: steps.append((done, note))


def test_every_step_moves_the_bar_and_its_note_has_the_loss_and_the_time_left(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.training.pace.TOLD_EVERY", 0.0)
    monkeypatch.setattr("edgekit.training.pace.FEWEST", 1)
    recording = Recording()
    report = fit(recipe(epochs=2, schedule="constant"), data, tmp_path / "run", progress=recording)
    epochs = [task for task in recording.tasks if task[0].startswith("epoch")]
    assert [(title, total) for title, total, _ in epochs] == [("epoch 1/2", STEPS), ("epoch 2/2", STEPS)]
    for (_, _, steps), epoch in zip(epochs, report.epochs, strict=True):
        assert [done for done, _ in steps] == [0, *[1] * STEPS]
        notes = [re.fullmatch(r"loss (\d\.\d{3})(, [\d hmins]+ left)?", note) for _, note in steps[1:]]
        assert [bool(note and note[2]) for note in notes] == [epoch.epoch > 1 or step > 0 for step in range(STEPS)]
        assert notes[-1] is not None
        assert float(notes[-1][1]) == pytest.approx(epoch.loss, abs=6e-4)


def test_what_comes_between_and_after_epochs_is_shown_too(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.training.batches.EVALUATION_BATCH", 20)
    monkeypatch.setattr("edgekit.training.statistics.NOTICEABLE", -1.0)
    recording = Recording()
    fit(recipe(epochs=1), data, tmp_path / "run", progress=recording)
    assert [(title, [done for done, _ in steps]) for title, _, steps in recording.tasks[1:]] == [
        ("labelling pictures", [20, 20, 8]),
        *[("comparing training and inference mode", [1] * STEPS)] * 2,
        ("measuring batch norm's statistics anew", [1] * STEPS),
        ("comparing training and inference mode", [1] * STEPS),
        ("labelling pictures", [20, 20, 8]),
    ]
    assert all(total == sum(done for done, _ in steps) for _, total, steps in recording.tasks)


def test_a_resumed_epoch_shows_the_steps_that_were_taken(stopped: Path, data: Dataset) -> None:
    recording = Recording()
    fit(recipe(), data, stopped, begin="resume", progress=recording)
    title, total, steps = recording.tasks[0]
    assert (title, total) == ("epoch 2/3", STEPS)
    assert steps[0][0] > 0
    assert sum(done for done, _ in steps) == STEPS


class Impatient(Stopping):
    """Sends Ctrl-C twice with each report of progress."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        def advance(steps: int, note: str) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        yield advance


@pytest.mark.usefixtures("_at_a_terminal")
def test_a_second_ctrl_c_stops_at_once(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stops, "SAME", 0.0)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe(), data, tmp_path / "run", progress=Impatient())
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.usefixtures("_at_a_terminal")
def test_a_ctrl_c_that_comes_twice_is_one_and_keeps_a_checkpoint(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the process and to its group, as a launcher passes it on."""
    monkeypatch.setattr(stops, "SAME", 1000.0)
    with pytest.raises(Interrupted):
        fit(recipe(), data, tmp_path / "run", progress=Impatient())
    assert unfinished(tmp_path / "run")


@pytest.mark.usefixtures("_at_a_terminal")
@pytest.mark.parametrize("number", stops.SIGNALS, ids=lambda number: number.name)
def test_a_signal_that_the_program_ignores_or_handles_itself_is_left_to_it(
    data: Dataset, tmp_path: Path, number: signal.Signals
) -> None:
    handled = list[int]()
    for handler, count in ((signal.SIG_IGN, 0), (lambda number, frame: handled.append(number), 1)):
        signal.signal(number, handler)
        fit(recipe(epochs=1), data, tmp_path / str(count), progress=Stopping(advance=5, number=number))
        assert len(handled) == count


def test_resuming_a_finished_training_changes_nothing(data: Dataset, tmp_path: Path) -> None:
    plan = recipe(epochs=1)
    first = fit(plan, data, tmp_path / "run")
    before = weights(tmp_path / "run")
    assert fit(plan, data, tmp_path / "run", begin="resume") == first
    assert weights(tmp_path / "run") == before


def test_training_works_outside_the_main_thread(data: Dataset, tmp_path: Path) -> None:
    done: list[TrainReport] = []
    thread = threading.Thread(target=lambda: done.append(fit(recipe(epochs=1), data, tmp_path / "run")))
    thread.start()
    thread.join()
    assert len(done) == 1


@pytest.fixture
def stopped(data: Dataset, tmp_path: Path) -> Path:
    """A run interrupted in its second epoch."""
    with pytest.raises(Interrupted):
        fit(recipe(), data, tmp_path / "run", progress=Stopping(advance=46))
    return tmp_path / "run"


def test_an_unfinished_training_is_kept_unless_told_otherwise(stopped: Path, data: Dataset, tmp_path: Path) -> None:
    before = (stopped / "checkpoint.pt").read_bytes()
    with pytest.raises(UsageError, match=r"holds an unfinished training; --resume continues it, --restart begins anew"):
        fit(recipe(), data, stopped)
    assert (stopped / "checkpoint.pt").read_bytes() == before
    fit(recipe(), data, stopped, begin="restart")
    fit(recipe(), data, tmp_path / "fresh")
    assert weights(stopped) == weights(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("other", "changed"),
    [
        (recipe(seed=1), r"train.seed \(0, now 1\)"),
        (recipe(epochs=4), r"train.epochs \(\d, now 4\)"),
        (recipe(batch_size=8), r"train.batch_size \(4, now 8\)"),
        (recipe("lenet-scratch"), r'model.name \("lenet", now "lenet-scratch"\)'),
    ],
    ids=["seed", "epochs", "batch size", "model"],
)
def test_a_checkpoint_of_another_recipe_is_refused_and_the_setting_named(
    other: Recipe, changed: str, stopped: Path, data: Dataset
) -> None:
    before = (stopped / "checkpoint.pt").read_bytes()
    with pytest.raises(UsageError, match=rf"checkpoint\.pt was made with other {changed}"):
        fit(other, data, stopped, begin="resume")
    assert (stopped / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_may_be_continued_under_other_export_settings(stopped: Path, data: Dataset) -> None:
    """It goes on where it stopped, to the bytes of a training that nobody interrupted."""
    plan = recipe()
    other = msgspec.structs.replace(plan, export=msgspec.structs.replace(plan.export, golden=7))
    rest, whole = Stopping(), Stopping()
    assert len(fit(other, data, stopped, progress=rest, begin="resume").epochs) == EPOCHS
    fit(plan, data, stopped.parent / "whole", progress=whole)
    assert 0 < rest.advances < whole.advances
    assert weights(stopped) == weights(stopped.parent / "whole")
    assert without_seconds(stopped) == without_seconds(stopped.parent / "whole")


def test_a_checkpoint_of_other_pictures_is_refused(stopped: Path) -> None:
    with pytest.raises(UsageError, match="was made with other pictures or classes"):
        fit(recipe(), dataset(SAMPLES // 2), stopped, begin="resume")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-100],
        lambda content: content[: len(content) // 2],
        lambda content: b"\x80" * 500,
    ],
    ids=["empty", "end missing", "half", "noise"],
)
def test_a_damaged_checkpoint_is_named_and_restart_helps(damage: Callable[[bytes], bytes], stopped: Path, data: Dataset) -> None:
    file = stopped / "checkpoint.pt"
    file.write_bytes(damage(file.read_bytes()))
    damaged = file.read_bytes()
    for begin in BEGIN_UNASKED:
        with pytest.raises(ModelError, match=r"checkpoint\.pt is damaged: .*; --restart begins anew"):
            fit(recipe(), data, stopped, begin=begin)
    assert file.read_bytes() == damaged
    assert fit(recipe(epochs=1), data, stopped, begin="restart").epochs


def test_a_checkpoint_that_lacks_parts_is_damaged(stopped: Path, data: Dataset) -> None:
    file = stopped / "checkpoint.pt"
    content = torch.load(file, weights_only=True)
    for part, value in (("model", {}), ("optimizers", []), ("history", [{"epoch": "one"}])):
        torch.save({**content, part: value}, file)
        with pytest.raises(ModelError, match=r"checkpoint\.pt is damaged"):
            fit(recipe(), data, stopped, begin="resume")
    torch.save({"model": {}}, file)
    with pytest.raises(ModelError, match=r"checkpoint\.pt is damaged: it holds no training; --restart begins anew"):
        fit(recipe(), data, stopped, begin="update")


@pytest.mark.parametrize("lacking", [(), ("epochs",), ("epoch", "epochs", "key")])
def test_an_unfinished_training_of_another_version_is_not_lost_unasked(
    lacking: tuple[str, ...], stopped: Path, data: Dataset
) -> None:
    content = torch.load(stopped / "checkpoint.pt", weights_only=True)
    other = {key: value for key, value in content.items() if key not in lacking}
    torch.save({**other, "version": 2}, stopped / "checkpoint.pt")
    before = (stopped / "checkpoint.pt").read_bytes()
    for begin in BEGIN_UNASKED:
        with pytest.raises(ModelError, match=r"checkpoint\.pt was made by another version of edgekit; --restart begins anew"):
            fit(recipe(), data, stopped, begin=begin)
    assert (stopped / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("begin", ["anew", "update"])
def test_a_finished_training_of_another_version_is_replaced(begin: Begin, data: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "run" / "checkpoint.pt"
    fit(recipe(epochs=1), data, tmp_path / "run")
    torch.save({**torch.load(file, weights_only=True), "version": 2}, file)
    assert len(fit(recipe(epochs=1), data, tmp_path / "run", begin=begin).epochs) == 1


def test_a_training_that_restart_discarded_does_not_come_back(stopped: Path, data: Dataset, tmp_path: Path) -> None:
    """The new one is killed before its first checkpoint."""

    class Killed:
        say = SILENT.say

        def task(self, title: str, total: int) -> AbstractContextManager[Advance]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(recipe(), data, stopped, begin="restart", progress=Killed())
    again, fresh = Stopping(), Stopping()
    fit(recipe(), data, stopped, begin="update", progress=again)
    fit(recipe(), data, tmp_path / "fresh", progress=fresh)
    assert again.advances == fresh.advances


def test_a_checkpoint_that_cannot_be_removed_is_named(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoint.pt").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"cannot write .*checkpoint\.pt"):
        fit(recipe(epochs=1), data, tmp_path / "run", begin="restart")


def test_resuming_without_a_checkpoint_says_so(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no checkpoint .*; train without --resume"):
        fit(recipe(), data, tmp_path / "run", begin="resume")


def test_more_epochs_than_a_finished_training_had_begin_anew(data: Dataset, tmp_path: Path) -> None:
    fit(recipe(epochs=1), data, tmp_path / "run")
    assert len(fit(recipe(epochs=2), data, tmp_path / "run").epochs) == 2


def test_an_interrupted_new_training_leaves_the_finished_one_whole(data: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    old, new = recipe(epochs=1), recipe(epochs=2, seed=5)
    fit(old, data, run)
    with pytest.raises(Interrupted):
        fit(new, data, run, progress=Stopping(advance=21))
    source = load_source(str(run))
    assert source.recipe == old
    assert source.report is not None
    assert source.report.weights_sha256 == sha256_of(run / "weights.safetensors")


PUTS = ("metrics.jsonl", "metrics.jsonl", "weights.safetensors", "recipe.json", "curve.png", "train.json")
"""What a training of one epoch puts in its place after its last checkpoint."""


@pytest.mark.parametrize("killed", range(len(PUTS)))
def test_a_kill_at_any_moment_of_the_end_loses_no_training_and_mixes_none(
    killed: int, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, old, new = tmp_path / "run", recipe(epochs=1), recipe(epochs=1, seed=5)
    fit(new, data, tmp_path / "whole")
    fit(old, data, run)
    put, placed = atomic.put, list[str]()

    def put_until_killed(temporary: Path, place: Path, *check: Any) -> None:
        if placed[-killed - 1 :] == ["checkpoint.pt", *PUTS[:killed]]:
            raise KeyboardInterrupt
        placed.append(place.name)
        put(temporary, place, *check)

    monkeypatch.setattr(atomic, "put", put_until_killed)
    with pytest.raises(KeyboardInterrupt):
        fit(new, data, run)
    monkeypatch.setattr(atomic, "put", put)
    if killed <= PUTS.index("weights.safetensors"):
        assert load_source(str(run)).recipe == old  # its weights have the checksum of its report
    else:
        with pytest.raises(ModelError, match="does not have the checksum"):
            load_source(str(run))
    with pytest.raises(UsageError, match="holds an unfinished training; --resume continues it"):
        fit(new, data, run)
    with pytest.raises(UsageError, match=r"holds an unfinished training, which was made with other train\.seed"):
        fit(old, data, run, begin="update")
    steps = Stopping()
    fit(new, data, run, begin="resume", progress=steps)
    assert steps.advances == 0
    assert weights(run) == weights(tmp_path / "whole")
    assert load_source(str(run)).recipe == new
    assert not unfinished(run)


def test_a_finished_run_has_metrics_a_curve_a_report_and_weights(data: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny"
    report = fit(recipe(), data, run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(msgspec.to_builtins(report.epochs))
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert set(lines[0]) == set(Epoch.__struct_fields__)
    assert TrainReport.from_json((run / "train.json").read_bytes()) == report
    assert report.weights_sha256 == sha256_of(run / "weights.safetensors")
    assert report.parameters == 44878
    assert report.test_accuracy == lines[-1]["test_accuracy"]
    assert (report.labels, report.preprocess) == (data.classes, data.preprocess)
    with Image.open(run / "curve.png") as curve:
        curve.load()
        assert curve.format == "PNG"
        assert len(np.unique(np.asarray(curve.convert("RGB")).reshape(-1, 3), axis=0)) > 3
    assert sorted(file.name for file in run.iterdir()) == [
        "checkpoint.pt", "curve.png", "metrics.jsonl", "recipe.json", "train.json", "weights.safetensors",
    ]  # fmt: skip


def test_what_came_out_of_a_training_is_said(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Said(Stopping):
        lines: tuple[str, ...] = ()

        def say(self, line: str) -> None:
            self.lines += (line,)

    said = Said()
    monkeypatch.setattr("edgekit.training.finish.make_fit", lambda *anything, **settings: StatisticsReport(1.0, 0.5, 0.9))
    report = fit(recipe(), data, tmp_path / "run", progress=said)
    assert report.outcome_notes
    assert said.lines[-len(report.outcome_notes) :] == tuple(f"note: {text}" for text in report.outcome_notes)
    assert any("measured anew over the training pictures" in line for line in said.lines)


def test_after_statistics_are_measured_anew_the_curve_ends_with_the_reports_accuracy(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured_anew(model: torch.nn.Module, *anything: object, **settings: object) -> StatisticsReport:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
        return StatisticsReport(1.0, 0.5, 0.9)

    drawn: list[str] = []
    monkeypatch.setattr("edgekit.training.finish.make_fit", measured_anew)
    monkeypatch.setattr("matplotlib.axes.Axes.set", lambda axes, **texts: drawn.append(texts.get("title")))
    report = fit(recipe(learning_rate=0.001), data, tmp_path / "run")
    assert report.test_accuracy != report.epochs[-1].test_accuracy
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(msgspec.to_builtins(report.epochs))
    assert drawn[-1] == f"test accuracy {report.test_accuracy:.4f}"


def test_accuracy_is_the_share_of_pictures_that_the_saved_model_gets_right(data: Dataset, tmp_path: Path) -> None:
    report = fit(recipe(epochs=1), data, tmp_path / "run")
    model = load_source(str(tmp_path / "run")).module.eval()
    for pictures in (data.test,):
        logits = model(torch.from_numpy(data.preprocess.normalise(pictures.images)))
        share = float((logits.argmax(1).numpy() == pictures.labels).mean())
        assert report.test_accuracy == pytest.approx(share, abs=1e-9)
    assert 0.1 < report.test_accuracy < 1


@pytest.mark.parametrize(("bar", "passed"), [(0.0, True), (1.0, False)])
def test_the_report_fails_below_the_recipes_bar(bar: float, passed: bool, data: Dataset, tmp_path: Path) -> None:
    report = fit(recipe(epochs=1, learning_rate=1e-6, min_accuracy=bar), data, tmp_path / "run")
    assert report.passed is passed
    assert json.loads((tmp_path / "run" / "train.json").read_bytes())["passed"] is passed


def test_a_diverging_loss_is_a_clear_error(data: Dataset, tmp_path: Path, dropout: str) -> None:
    with pytest.raises(RecipeError, match=r"the loss became (nan|inf) in epoch 1; lower train\.learning_rate"):
        fit(recipe(dropout, optimizer="sgd", learning_rate=1e30, schedule="constant"), data, tmp_path / "run")
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_pictures_the_model_does_not_take_are_a_clear_error(data: Dataset, tmp_path: Path, dropout: str) -> None:
    with pytest.raises(ModelError, match="LeNet takes pictures of 28x28, got 32x32; set resize = 28"):
        fit(recipe(), dataset(8, size=32), tmp_path / "run")
    with pytest.raises(
        ModelError, match=r"dropout_net_of_a_user:net does not take pictures of 1x32x32: .*; see data and model\.args"
    ):
        fit(recipe(dropout), dataset(8, size=32), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("factory", "given"), [("leaves_out_a_class", "2x9 values"), ("gives_a_tuple", "a tuple")])
def test_a_model_without_a_logit_per_class_is_a_clear_error(
    factory: str, given: str, data: Dataset, tmp_path: Path, dropout: str
) -> None:
    with pytest.raises(ModelError, match=f"gives {given} for 2 pictures, but the data has 10 classes"):
        fit(recipe(dropout.replace(":net", f":{factory}")), data, tmp_path / "run")


def test_the_shipped_models_get_the_datas_classes(tmp_path: Path) -> None:
    fit(recipe(epochs=1), dataset(16, classes=3), tmp_path / "run")
    model: Any = load_source(str(tmp_path / "run")).module
    assert model[-1].out_features == 3


def test_a_run_that_cannot_be_written_is_a_clear_error(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write .*file/run"):
        fit(recipe(epochs=1), data, tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_cuda_that_is_not_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(MissingError, match="no usable CUDA device on this machine; use --device cpu"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")


class Saved:
    """A tensor that autograd keeps for the backward pass."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


@pytest.mark.parametrize("model", ["lenet", "lenet-scratch"])
def test_nothing_of_a_step_is_kept_after_it(model: str, data: Dataset, tmp_path: Path) -> None:
    alive: weakref.WeakSet[Saved] = weakref.WeakSet()
    most, kept = [0], []

    def pack(tensor: torch.Tensor) -> Saved:
        saved = Saved(tensor)
        alive.add(saved)
        most[0] = max(most[0], len(alive))
        return saved

    class Counting:
        task = SILENT.task

        def say(self, line: str) -> None:
            kept.append((len(alive), most[0]))

    progress: Progress = Counting()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        fit(recipe(model), data, tmp_path / "run", progress=progress)
    assert most[0] > 0
    assert kept == [kept[0]] * EPOCHS  # the first epoch needed as much as the third
    # between two steps the last batch's logits still hang on their graph, and no batch before it
    assert kept[0][0] == 0


@given(samples=st.integers(2, 5000), batch_size=st.integers(2, 600))
def test_batches_are_even_never_single_and_near_the_size_asked_for(samples: int, batch_size: int) -> None:
    count = batch_count(samples, batch_size)
    sizes = [len(part) for part in torch.tensor_split(torch.arange(samples), count)]
    assert sum(sizes) == samples
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(2 * batch_size, 3)
    assert samples < batch_size or min(sizes) >= batch_size // 2


@pytest.mark.parametrize(
    ("samples", "batch_size", "count"), [(60000, 256, 234), (96, 4, 24), (5, 2, 2), (3, 256, 1), (257, 256, 1)]
)
def test_batch_counts(samples: int, batch_size: int, count: int) -> None:
    assert batch_count(samples, batch_size) == count


def test_an_odd_sample_over_trains_without_a_batch_of_one(tmp_path: Path) -> None:
    assert fit(recipe(epochs=1, batch_size=16), dataset(33), tmp_path / "run").epochs


def test_a_training_starts_from_weights_and_says_what_it_changed(data: Dataset, tmp_path: Path) -> None:
    first = fit(recipe(epochs=1), data, tmp_path / "first")
    start = str(tmp_path / "first" / "weights.safetensors")
    fresh = fit(recipe(epochs=1), data, tmp_path / "fresh")
    tuned = recipe(epochs=1)
    tuned = msgspec.structs.replace(tuned, model=ModelRecipe("lenet", {}, start))
    second = fit(tuned, data, tmp_path / "second")
    assert second.epochs[0].loss < fresh.epochs[0].loss  # it begins where the first one ended
    assert (first.notes, second.notes) == ((), ())
    halves = {
        half: msgspec.structs.replace(getattr(data, half), labels=getattr(data, half).labels % 5) for half in ("train", "test")
    }
    few = msgspec.structs.replace(data, classes=tuple("abcde"), **halves)
    third = fit(tuned, few, tmp_path / "third")
    assert third.notes == ("15 begins anew: the file has 10 classes, the data 5",)
    assert load_source(str(tmp_path / "third")).notes == third.notes


def test_a_training_from_other_weights_is_another_training(data: Dataset, tmp_path: Path) -> None:
    fit(recipe(epochs=1), data, tmp_path / "first")
    start = tmp_path / "first" / "weights.safetensors"
    tuned = msgspec.structs.replace(recipe(), model=ModelRecipe("lenet", {}, str(start)))
    with pytest.raises(Interrupted):
        fit(tuned, data, tmp_path / "second", progress=Stopping(say=1))
    moved = start.rename(tmp_path / "moved.safetensors")
    elsewhere = msgspec.structs.replace(tuned, model=ModelRecipe("lenet", {}, str(moved)))
    plain = msgspec.structs.replace(tuned, model=ModelRecipe("lenet"))
    with pytest.raises(UsageError, match="was made with other initial weights"):
        fit(plain, data, tmp_path / "second", begin="resume")
    assert len(fit(elsewhere, data, tmp_path / "second", begin="resume").epochs) == EPOCHS


def test_checkpoint_every_loses_no_more_than_so_many_steps_to_a_kill(
    data: Dataset, tmp_path: Path, whole: Path, dropout: str
) -> None:
    """A kill leaves what the last checkpoint holds: of the 20 steps taken in the second epoch, 14."""

    class Killed(Stopping):
        @contextmanager
        def task(self, title: str, total: int) -> Iterator[Advance]:
            def advance(steps: int, note: str) -> None:
                self.advances += title.startswith("epoch")
                if self.advances == 46:
                    raise MemoryError  # as abrupt as a kill: nothing is saved on the way out

            yield advance

    with pytest.raises(MemoryError):
        fit(recipe(dropout, checkpoint_every=7), data, tmp_path / "run", progress=Killed())
    content = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert (content["epoch"], content["step"]) == (1, 14)
    assert content["seconds"] > 0
    fit(recipe(dropout), data, tmp_path / "run", begin="resume")
    assert weights(tmp_path / "run") == weights(whole)


def test_a_loss_that_diverges_later_leaves_the_last_good_checkpoint(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.training import loop

    take_step, steps = loop.take_step, [0]

    def diverging(*job: Any) -> torch.Tensor:
        steps[0] += 1
        return take_step(*job) * (float("nan") if steps[0] > STEPS + 10 else 1.0)

    monkeypatch.setattr(loop, "take_step", diverging)
    with pytest.raises(
        RecipeError, match=r"the loss became nan in epoch 2; the checkpoint from before is kept; lower train\.learning"
    ):
        fit(recipe(checkpoint_every=2), data, tmp_path / "run")
    content = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert (content["epoch"], content["step"]) == (1, 10)
    assert steps[0] < STEPS + 14  # it does not go on to the end of the epoch


def test_a_training_that_diverges_at_once_names_no_checkpoint_and_leaves_no_old_metrics(data: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(recipe(), data, run)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == EPOCHS
    with pytest.raises(RecipeError, match=r"^the (loss became \S+|weights are no longer finite) in epoch 1; lower train\."):
        fit(recipe(learning_rate=1e30), data, run, begin="restart")
    assert not (run / "metrics.jsonl").exists()


def test_the_average_is_what_is_judged_and_kept(data: Dataset, tmp_path: Path) -> None:
    report = fit(recipe(average=0.9999, flip=False), data, tmp_path / "run")
    kept = load_safetensors(weights(tmp_path / "run"))
    content = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    for name, value in kept.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, content["average"][f"module.{name}"])
            assert not torch.equal(value, content["model"][name])
    assert report.test_accuracy > 0.5  # the weights at the start are forgotten in a short training too


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_buffers_of_whole_numbers_are_not_averaged(decay: float) -> None:
    model = torch.nn.Linear(2, 2)
    model.register_buffer("index", torch.arange(2401))
    average = _average(model, decay)
    assert average is not None
    for _ in range(20):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update_parameters(model)
    assert torch.equal(average.module.get_buffer("index"), torch.arange(2401))
    assert 0 < float((model.weight - average.module.get_parameter("weight")).detach().mean()) < 20


def test_stopping_after_weights_have_diverged_keeps_the_checkpoint_from_before(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.training import loop

    take_step, steps = loop.take_step, [0]

    def diverging(state: Any, *job: Any) -> torch.Tensor:
        steps[0] += 1
        totals = take_step(state, *job)
        if steps[0] == STEPS + 10:
            with torch.no_grad():
                next(state.model.parameters()).fill_(float("nan"))
        return totals

    monkeypatch.setattr(loop, "take_step", diverging)
    with pytest.raises(
        RecipeError, match=r"the weights are no longer finite in epoch 2; the checkpoint from before is kept; lower"
    ):
        fit(recipe(), data, tmp_path / "run", progress=Stopping(advance=25 + 11))
    content = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert (content["epoch"], content["step"]) == (1, 0)
    assert all(value.isfinite().all() for value in content["model"].values())


def test_automatic_precision_is_resolved_once_and_goes_on_as_it_began(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.training import numerics

    monkeypatch.setattr(numerics, "bfloat16_pays", lambda: True)
    with pytest.raises(Interrupted):
        fit(recipe(precision="auto", epochs=1), few, tmp_path / "run", progress=Stopping(advance=6))
    monkeypatch.setattr(numerics, "bfloat16_pays", lambda: False)
    report = fit(recipe(precision="auto", epochs=1), few, tmp_path / "run", begin="resume")
    assert report.facts["precision"] == "bfloat16"
    fit(recipe(precision="bfloat16", epochs=1), few, tmp_path / "bfloat16")
    assert weights(tmp_path / "run") == weights(tmp_path / "bfloat16")
    assert fit(recipe(precision="auto", epochs=1), few, tmp_path / "fresh").facts["precision"] == "float32"


def test_compiling_without_a_compiler_is_a_sentence(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(MissingError, match=r"train\.compile needs a C\+\+ compiler, and none is found; install g\+\+"):
        fit(recipe(compile=True), data, tmp_path / "run")
