"""One LeNet epoch: edgekit's loop against the tutorial's, interleaved in one process.

    python benchmarks/train_lenet.py --rounds 3

The tutorial's loop is a DataLoader with two workers, ToTensor for every sample, default Adam, batch 256. An epoch is the
60,000 training pictures and the accuracy on the 10,000 test pictures, on all sides. Each round runs every side once;
the best epoch of each side counts. ``lenet-scratch`` runs edgekit's loop on the hand-written batch norm, and its
memory is read after every epoch. Writes ``benchmarks/results/train_lenet.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from edgekit import data
from edgekit.data import fashion_mnist
from edgekit.machine import machine_facts
from edgekit.models.build import build_module
from edgekit.progress import SILENT
from edgekit.recipe import load
from edgekit.train import Batches, State, batch_count, train_one_epoch

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "train_lenet.json"
BATCH = 256


class Tutorial:
    """The loop that the tutorials teach."""

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
            total += float(loss) * len(labels)
            correct += float((logits.argmax(1) == labels).sum())
        self.model.eval()
        with torch.no_grad():
            sum(float((self.model(images).argmax(1) == labels).sum()) for images, labels in self.test)


class Ours:
    """What ``edgekit train`` runs for a recipe."""

    def __init__(self, path: Path) -> None:
        recipe = load(path)
        dataset = data.load(recipe.data)
        device = torch.device("cpu")
        self.settings = recipe.train
        self.steps = batch_count(len(dataset.train), recipe.train.batch_size)
        self.state = State(build_module(recipe.model.name), recipe.train, self.steps, device)
        self.train = Batches(dataset.train, dataset.preprocess, device)
        self.test = Batches(dataset.test, dataset.preprocess, device)

    def epoch(self) -> None:
        train_one_epoch(self.state, self.settings, self.train, self.test, self.steps, lambda: False, SILENT)


def torchvision_root(folder: Path) -> Path:
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    source = fashion_mnist.locate()
    for name in fashion_mnist.SHA256:
        (raw / name).write_bytes(fashion_mnist.read_checked(source, name))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sides = {
            "tutorial": Tutorial(torchvision_root(Path(scratch))),
            "edgekit lenet": Ours(ROOT / "recipes" / "lenet.toml"),
            "edgekit lenet-scratch": Ours(ROOT / "recipes" / "lenet-scratch.toml"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        peaks: list[int] = []
        for _ in range(arguments.rounds):
            for name, side in sides.items():
                started = time.perf_counter()
                side.epoch()
                seconds[name].append(round(time.perf_counter() - started, 3))
                print(f"{name}: {seconds[name][-1]:.2f} s", flush=True)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    best = {name: min(values) for name, values in seconds.items()}
    result = {
        "seconds": seconds,
        "speedup_over_tutorial": round(best["tutorial"] / best["edgekit lenet"], 2),
        "scratch_over_lenet": round(best["edgekit lenet-scratch"] / best["edgekit lenet"], 2),
        "peak_memory_mib_after_each_round": [round(peak / 1024) for peak in peaks],
        "torch": str(torch.__version__),
        "machine": machine_facts(),
    }
    RESULT.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    print(f"edgekit's epoch takes 1/{result['speedup_over_tutorial']} of the tutorial's")


if __name__ == "__main__":
    main()
