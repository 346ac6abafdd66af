"""Time edgekit's training against the tutorial's loop: seconds per epoch, and seconds to the tutorial's own accuracy.

    python benchmarks/train_speed.py --seeds 0 1 2
    python benchmarks/train_speed.py --profile

The tutorial's loop is a DataLoader with two workers, ToTensor for every sample, default Adam, batch 256, float32, all 60,000
training pictures. edgekit's is that of the recipe on the same pictures, with so many epochs as ``SHORT`` says. An epoch is the
training pictures and the accuracy on the 10,000 test pictures, for every side. Every side runs in a process of its own, because
edgekit changes how its process keeps memory. The processes take turns, an epoch each, until the tutorial's side has reached
``TARGET`` or ``MOST`` epochs; edgekit's side begins anew where its schedule has ended. ``lenet-scratch`` runs edgekit's loop on
the hand-written batch norm. The script writes ``benchmarks/results/train_speed.json`` after the race of each seed, and goes on
with the seeds that are missing there.

``SHORT`` was chosen by the accuracy on the test set, and both sides read it after every epoch, as the tutorials do. So the times
compare two loops on one task, and the accuracies are no estimate for new pictures: those are in ``accuracy.json``, of recipes
that were chosen on held-out pictures.
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
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import torch
import train_table
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from edgekit import data
from edgekit.data import fashion_mnist
from edgekit.files import write_text
from edgekit.machine.cpu import machine_facts
from edgekit.models.factory import build_module
from edgekit.recipe import Recipe, load_recipe
from edgekit.training.batches import Batches, batch_count
from edgekit.training.device import reuse_memory
from edgekit.training.distributed import ALONE
from edgekit.training.loop import EpochWork, train_one_epoch
from edgekit.training.pace import Pace
from edgekit.training.provenance import PASSING
from edgekit.training.state import State
from edgekit.training.stopping import Stop

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "train_speed.json"
BATCH = 256
TARGET = {"lenet": 0.887, "resnet18": 0.868}
"""The accuracies that the tutorials print at their end."""
SHORT = {"lenet": 2, "resnet18": 1, "lenet-scratch": 2}
"""Epochs of edgekit's schedule: the shortest that ends above the target on the test set."""
MOST = 15
ROUNDS = 3
PROFILED = 40


class Epoch(NamedTuple):
    """Seconds of an epoch with its evaluation, test accuracy after it, peak memory of the process in MiB."""

    seconds: float
    accuracy: float
    peak_mib: int


class Tutorial:
    """The training loop of the tutorials."""

    def __init__(self, model: str, seed: int, root: Path) -> None:
        torch.manual_seed(seed)
        to_tensor = transforms.ToTensor()
        self.train = DataLoader(FashionMNIST(root, True, to_tensor), BATCH, shuffle=True, num_workers=2)
        self.test = DataLoader(FashionMNIST(root, False, to_tensor), BATCH, num_workers=2)
        self.model = build_module(model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.loss = nn.CrossEntropyLoss()

    def epoch(self) -> float:
        """Train on every picture once; gives the test accuracy."""
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
            return sum(float((self.model(images).argmax(1) == labels).sum()) for images, labels in self.test) / 10_000


class Ours:
    """The training loop of ``edgekit train`` for a recipe, whose schedule is that of few epochs."""

    def __init__(self, name: str, seed: int) -> None:
        reuse_memory()
        self.recipe = short(name, seed)
        self.dataset = data.load_dataset(self.recipe.data)
        self.steps = batch_count(len(self.dataset.train), self.recipe.train.batch_size)
        device = torch.device("cpu")
        train, test = (Batches(half, self.dataset.preprocess, device) for half in (self.dataset.train, self.dataset.test))
        # the test set is read after each epoch, as the tutorial does
        self.work = EpochWork(self.recipe.train, train, None, test, self.steps)
        self.begin()

    def begin(self) -> None:
        """Initial weights, and the schedule from its start."""
        torch.manual_seed(self.recipe.train.seed)
        model = build_module(self.recipe.model.name)
        self.state = State(model, self.recipe.train, self.steps, torch.device("cpu"))

    def epoch(self) -> float:
        """Train on every picture once; gives the test accuracy."""
        if self.state.epoch == self.recipe.train.epochs:
            self.begin()
        train_one_epoch(self.state, self.work, Stop(ALONE), Pace(self.steps))
        return self.state.history[-1].accuracy


def short(name: str, seed: int) -> Recipe:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.toml")
    settings = msgspec.structs.replace(recipe.train, epochs=SHORT[name], seed=seed)
    return msgspec.structs.replace(recipe, train=settings, data=msgspec.structs.replace(recipe.data, holdout=0))


def torchvision_root(folder: Path) -> Path:
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    source = fashion_mnist.locate()
    for name in fashion_mnist.SHA256:
        (raw / name).write_bytes(fashion_mnist.read_checked(source, name))
    return folder


def serve(kind: str, model: str, seed: int, root: Path) -> None:
    """Run an epoch for every line on stdin; print it."""
    side = Tutorial(model, seed, root) if kind == "tutorial" else Ours(model, seed)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        reached = side.epoch()
        elapsed = time.perf_counter() - started
        print(f"{elapsed:.3f} {reached:.4f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}", flush=True)


class Side(NamedTuple):
    """A process that trains, an epoch whenever it is told."""

    process: subprocess.Popen[str]

    def pipes(self) -> tuple[IO[str], IO[str]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout

    def epoch(self) -> Epoch:
        to_side, from_side = self.pipes()
        to_side.write("epoch\n")
        to_side.flush()
        seconds, reached, peak = from_side.readline().split()
        return Epoch(float(seconds), float(reached), int(peak))


@contextlib.contextmanager
def sides(model: str, seed: int, root: Path) -> Iterator[dict[str, Side]]:
    names = {"tutorial": ("tutorial", model), "edgekit": ("edgekit", model)}
    if model == "lenet":
        names["scratch"] = ("edgekit", "lenet-scratch")
    with contextlib.ExitStack() as stack:
        started = {}
        for name, (kind, of) in names.items():
            command = [sys.executable, __file__, "--serve", kind, of, str(seed), str(root)]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            started[name] = Side(process)
            started[name].pipes()[1].readline()
        yield started


def raced(model: str, seed: int, root: Path) -> dict[str, list[Epoch]]:
    """Epochs of every side in turns: at least ``ROUNDS``, and until the tutorial's has reached the target."""
    epochs: dict[str, list[Epoch]] = {}
    with sides(model, seed, root) as started:
        while True:
            for name, side in started.items():
                epochs.setdefault(name, []).append(side.epoch())
                print(f"{model} seed {seed} {name}: {epochs[name][-1]}", flush=True)
            done = len(epochs["tutorial"])
            reached = max(epoch.accuracy for epoch in epochs["tutorial"]) >= TARGET[model]
            if done >= ROUNDS and (reached or done >= MOST):
                return epochs


def profiled(name: str) -> list[tuple[str, float]]:
    """Shares of a step's CPU time by operator, the largest first, over some steps of a recipe."""
    side = Ours(name, 0)
    side.work = side.work._replace(batches=PROFILED)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        train_one_epoch(side.state, side.work, Stop(ALONE), Pace(PROFILED))
    rows = recorded.key_averages()
    total = sum(row.self_cpu_time_total for row in rows)
    shares = sorted(((row.key, row.self_cpu_time_total / total) for row in rows), key=lambda row: -row[1])
    return [(key, round(share, 4)) for key, share in shares[:15]]


def circumstances(model: str) -> dict[str, Any]:
    """What times depend on: races of other settings, versions or machines do not go on."""
    settings = msgspec.json.decode(msgspec.json.encode(short(model, 0).train))  # as the file has them
    return {"target": TARGET[model], "torch": str(torch.__version__), "machine": lasting_facts(), "settings": settings}


def lasting_facts() -> dict[str, str]:
    """What this machine is, without what passes, as its load."""
    return {name: fact for name, fact in machine_facts().items() if name not in PASSING}


def stored() -> dict[str, Any]:
    """The result file, or an empty one."""
    document: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    return {"models": {}, **document}


def measure(models: list[str], seeds: list[int], root: Path) -> None:
    """Race the sides of each model for each seed, and write the file after each race; what it holds is not raced again."""
    for model in models:
        results, now = stored(), circumstances(model)
        before = results["models"].get(model, {})
        same = all(before.get(name) == value for name, value in now.items())
        result = results["models"][model] = {**now, "races": before["races"] if same else {}}
        for seed in seeds:
            if str(seed) not in result["races"]:
                result["races"][str(seed)] = raced(model, seed, root)
                write_text(RESULT, json.dumps(results, indent=2) + "\n")
        print("\n".join(train_table.speed({"models": {model: result}})), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=list(TARGET), default=list(TARGET))
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes, instead")
    parser.add_argument("--serve", nargs=4, metavar=("SIDE", "MODEL", "SEED", "ROOT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        kind, model, seed, root = arguments.serve
        serve(kind, model, int(seed), Path(root))
        return
    if arguments.profile:
        of_models = {model: profiled(model) for model in arguments.models}
        results = stored() | {"profile": {"torch": str(torch.__version__), "machine": lasting_facts(), "models": of_models}}
        write_text(RESULT, json.dumps(results, indent=2) + "\n")
        return
    with tempfile.TemporaryDirectory() as scratch:
        measure(arguments.models, arguments.seeds, torchvision_root(Path(scratch)))


if __name__ == "__main__":
    main()
