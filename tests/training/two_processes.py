"""What tests/training/test_distributed.py lets two processes do: started once by torchrun, with a folder for the results."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit.data import Dataset, PictureShape
from edgekit.errors import EdgekitError
from edgekit.models.batchnorm import BatchNorm
from edgekit.progress import SILENT, Advance, Progress
from edgekit.recipe import DataRecipe, Int8Recipe, ModelRecipe, Recipe, StageRecipe, TrainRecipe
from edgekit.reports.train import TrainReport
from edgekit.training import fit as fitting
from edgekit.training import loop, numerics
from edgekit.training.augment import Augmentation
from edgekit.training.batches import Batches, predictions
from edgekit.training.distributed import Peers, Together, joined
from edgekit.training.int8 import train_int8
from edgekit.training.state import State
from edgekit.training.untrained import build_model
from tests.networks import dataset

SAMPLES, BATCH = 98, 5
"""Batches of 4 and of 5, so that shares are unequal too; the 49 test pictures do not divide by two."""
HERE = "tests.training.two_processes"


def norms(dropout: float = 0.0) -> nn.Module:
    """Batch norms of PyTorch in one and two dimensions and edgekit's own, and a layer that no step reaches."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(1, 4, 5, stride=3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), BatchNorm(4), nn.ReLU(), nn.Flatten())
            self.third = nn.Sequential(nn.Linear(144, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(dropout))
            self.last, self.unused = nn.Linear(12, 10), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.third(self.second(self.first(x))))  # type: ignore[no-any-return]

    return Net()


def recipe(dropout: float = 0.0, **settings: Any) -> Recipe:
    defaults = {"epochs": 2, "batch_size": BATCH, "optimizer": "sgd", "learning_rate": 0.02, "flip": True, "label_smoothing": 0.1}
    model = ModelRecipe(f"{HERE}:norms", {"dropout": dropout})
    return Recipe("two", DataRecipe("fashion-mnist"), model, TrainRecipe(**{**defaults, **settings}))


EQUAL = {
    "plain": recipe(),
    "stages": recipe(stages=(StageRecipe("first", thaw=2), StageRecipe("second", rate=0.5)), clip_norm=1.0, average=0.5),
}
"""Trainings that are the same on one process and on two."""
DROPS = recipe(0.3, checkpoint_every=3)
INT8 = msgspec.structs.replace(
    recipe(epochs=1, int8=Int8Recipe(epochs=1, optimizer="sgd", learning_rate=1e-3)),
    model=ModelRecipe("edgenet", {"widths": (16, 16, 16)}),
)


class Signalled:
    """Sends SIGINT to its own process after so many steps."""

    say = SILENT.say

    def __init__(self, steps: int) -> None:
        self.left = steps

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        def advance(steps: int, note: str) -> None:
            self.left -= title.startswith("epoch")
            if not self.left:
                os.kill(os.getpid(), signal.SIGINT)

        yield advance


def fit(plan: Recipe, data: Dataset, folder: Path, progress: Progress = SILENT, **how: Any) -> None:
    """Train; an error is written down, for each process."""
    try:
        fitting.fit(plan, data, folder, device="cpu", progress=progress, **how)
    except EdgekitError as problem:
        folder.mkdir(exist_ok=True)
        (folder / f"error{os.environ['RANK']}").write_text(f"{type(problem).__name__}: {problem}")


def equal(folder: Path, data: Dataset, together: Peers) -> None:
    for name, plan in EQUAL.items():
        fit(plan, data, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Together, "synchronised", Peers.synchronised)
        fit(EQUAL["plain"], data, folder / "without")


def resumed(folder: Path, data: Dataset, together: Peers) -> None:
    """Ctrl-C reaches the second process alone."""
    fit(DROPS, data, folder / "whole")
    fit(DROPS, data, folder / "stopped", SILENT if together.first else Signalled(28))
    fit(DROPS, data, folder / "stopped", begin="resume")


class Noting(Batches):
    """Notes which pictures are taken."""

    def __init__(self, *what: Any) -> None:
        super().__init__(*what)
        self.taken: list[Tensor] = []

    def take(self, index: Tensor, augmentation: Augmentation | None = None) -> tuple[Tensor, Tensor]:
        self.taken.append(index)
        return super().take(index, augmentation)


def labelled(folder: Path, data: Dataset, together: Peers) -> None:
    """The labels that both have in the end, and how many each has made."""
    model = build_model(EQUAL["plain"], data_shape(data)).module
    batches = Noting(data.test, data.preprocess, torch.device("cpu"))
    labels = predictions(model, batches, together=together)
    np.savez(folder / f"labels{together.rank}.npz", labels=labels.numpy(), own=torch.cat(batches.taken).numpy())


def data_shape(data: Dataset) -> PictureShape:
    channels, height, width = data.train.images.shape[1:]
    return PictureShape(channels, height, width, len(data.classes))


def refused(folder: Path, data: Dataset, together: Peers) -> None:
    """What both refuse: a loss that is no number in one of them, other pictures, a batch without a picture for each."""
    with pytest.MonkeyPatch.context() as patch:
        take_step = loop.take_step
        patch.setattr(loop, "take_step", lambda *job: take_step(*job) * (1.0 if together.first else float("nan")))
        fit(EQUAL["plain"], data, folder / "diverged")
    fit(EQUAL["plain"], data if together.first else dataset(SAMPLES, seed=1), folder / "other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "batch_count", lambda samples, batch_size: samples)
        fit(EQUAL["plain"], data, folder / "tiny")


def traced(folder: Path, data: Dataset, together: Peers) -> None:
    """Through the compiler's reading of the model, in which a batch norm could be lost; its pieces then run as they are."""
    pieces = []

    def backend(piece: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        pieces.append(piece)
        return piece.forward

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend=backend))
        train = msgspec.structs.replace(EQUAL["stages"].train, compile=True)
        fit(msgspec.structs.replace(EQUAL["stages"], train=train), data, folder / "compiled")
    (folder / f"pieces{together.rank}").write_text(str(len(pieces)))


def decided(folder: Path, data: Dataset, together: Peers) -> None:
    """The dtype of both, of which the second alone is on a CPU that is faster in bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numerics, "bfloat16_pays", lambda: not together.first)
        state = State(nn.Linear(2, 2), TrainRecipe(epochs=2, precision="auto"), 3, torch.device("cpu"), together)
    (folder / f"precision{together.rank}").write_text(state.precision)


def for_int8(plan: Recipe, data: Dataset, folder: Path) -> TrainReport:
    """Train, and then for int8, as ``edgekit train`` does; gives the report from before that."""
    assert plan.train.int8 is not None
    report = fitting.fit(plan, data, folder, device="cpu")
    train_int8(plan, plan.train.int8, data, folder, report, device="cpu")
    return report


def quantised(folder: Path, data: Dataset, together: Peers) -> None:
    """With ranges of the whole batch, and with those of each process's share; the second process has no folder of its own."""
    assert INT8.train.int8 is not None
    own = folder if together.first else folder / "of-the-second"
    report = for_int8(INT8, data, own / "int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Together, "largest", Peers.largest)
        if together.first:
            shutil.copytree(own / "int8", own / "int8-apart", ignore=shutil.ignore_patterns("int8*"))
        train_int8(INT8, INT8.train.int8, data, own / "int8-apart", report, device="cpu")


CASES: tuple[Callable[[Path, Dataset, Peers], None], ...] = (equal, resumed, labelled, refused, traced, decided, quantised)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined() as together:
        for case in CASES:
            case(folder, dataset(SAMPLES), together)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
