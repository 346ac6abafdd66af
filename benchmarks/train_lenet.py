"""Time one LeNet epoch of edgekit's loop and of the tutorial's loop, in turns.

    python benchmarks/train_lenet.py --rounds 3

The tutorial's loop is a DataLoader with two workers, ToTensor for every sample, default Adam, batch 256. An epoch is the
60,000 training pictures and the accuracy on the 10,000 test pictures, for every side. Every side runs in a process of its
own, because edgekit changes how its process keeps memory. The processes take turns: each round runs every side once,
and the best epoch of each side counts. ``lenet-scratch`` runs edgekit's loop on the hand-written batch norm; its peak
memory is read after every epoch. The script writes ``benchmarks/results/train_lenet.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from edgekit import data
from edgekit.data import fashion_mnist
from edgekit.machine.cpu import machine_facts
from edgekit.models.factory import build_module
from edgekit.recipe import load_recipe
from edgekit.training.batches import Batches, batch_count
from edgekit.training.checkpoint import State
from edgekit.training.distributed import ALONE
from edgekit.training.loop import EpochWork, Stop, reuse_memory, train_one_epoch
from edgekit.training.pace import Pace

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "train_lenet.json"
BATCH = 256


class Tutorial:
    """The training loop of the tutorials."""

    def __init__(self, root: Path) -> None:
        to_tensor = transforms.ToTensor()
        self.train = DataLoader(FashionMNIST(root, True, to_tensor), BATCH, shuffle=True, num_workers=2)
        self.test = DataLoader(FashionMNIST(root, False, to_tensor), BATCH, num_workers=2)
        self.model = build_module("lenet")
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.loss = nn.CrossEntropyLoss()

    def epoch(self) -> None:
        self.model.train()
        total, correct = 0.0, 0.0
        for images, labels in self.train:
            self.optimizer.zero_grad()
            logits = self.model(images)
            loss = self.loss(logits, labels)
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(labels)
            correct += float((logits.argmax(1) == labels).sum())
        self.model.eval()
        with torch.no_grad():
            sum(float((self.model(images).argmax(1) == labels).sum()) for images, labels in self.test)


class Ours:
    """The training loop of ``edgekit train`` for a recipe."""

    def __init__(self, name: str) -> None:
        reuse_memory()
        recipe = load_recipe(ROOT / "recipes" / f"{name}.toml")
        dataset = data.load_dataset(recipe.data)
        device = torch.device("cpu")
        self.settings = recipe.train
        self.steps = batch_count(len(dataset.train), recipe.train.batch_size)
        self.state = State(build_module(recipe.model.name), recipe.train, self.steps, device)
        self.train = Batches(dataset.train, dataset.preprocess, device)
        self.test = Batches(dataset.test, dataset.preprocess, device)

    def epoch(self) -> None:
        work = EpochWork(self.settings, self.train, None, self.test, self.steps)
        train_one_epoch(self.state, work, Stop(ALONE), Pace(self.steps))


def torchvision_root(folder: Path) -> Path:
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    source = fashion_mnist.locate()
    for name in fashion_mnist.SHA256:
        (raw / name).write_bytes(fashion_mnist.read_checked(source, name))
    return folder


def serve(name: str, root: Path) -> None:
    """Run an epoch for every line on stdin; print the epoch's seconds and the process's peak MiB."""
    side = Tutorial(root) if name == "tutorial" else Ours(name)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        side.epoch()
        elapsed = time.perf_counter() - started
        print(f"{elapsed:.3f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}", flush=True)


def pipes(side: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    """The stdin and the stdout of a side."""
    assert side.stdin is not None
    assert side.stdout is not None
    return side.stdin, side.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", nargs=2, metavar=("SIDE", "ROOT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve[0], Path(arguments.serve[1]))
        return
    names = ("tutorial", "lenet", "lenet-scratch")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, list[int]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        root = torchvision_root(Path(scratch))
        sides = {}
        for name in names:
            command = [sys.executable, __file__, "--serve", name, str(root)]
            side = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            sides[name] = stack.enter_context(side)
            pipes(side)[1].readline()
        for _ in range(arguments.rounds):
            for name, side in sides.items():
                to_side, from_side = pipes(side)
                to_side.write("epoch\n")
                to_side.flush()
                elapsed, peak = from_side.readline().split()
                seconds[name].append(float(elapsed))
                peaks[name].append(int(peak))
                print(f"{name}: {elapsed} s, peak {peak} MiB", flush=True)
    best = {name: min(values) for name, values in seconds.items()}
    result = {
        "seconds": seconds,
        "speedup_over_tutorial": round(best["tutorial"] / best["lenet"], 2),
        "scratch_over_lenet": round(best["lenet-scratch"] / best["lenet"], 2),
        "peak_mib_after_each_epoch": peaks,
        "torch": str(torch.__version__),
        "machine": machine_facts(),
    }
    RESULT.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    print(f"edgekit's epoch takes 1/{result['speedup_over_tutorial']} of the tutorial's")


if __name__ == "__main__":
    main()
