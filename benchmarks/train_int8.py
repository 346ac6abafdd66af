"""Train networks briefly, then for int8, and hold that against calibration of the same network.

    python benchmarks/train_int8.py                          # every case
    python benchmarks/train_int8.py --only edgenet

Each case is trained by its recipe on the first ``pictures`` training pictures of Fashion-MNIST, in float, and then for int8, as
``edgekit train`` does it. Accuracies are of all 10,000 test pictures, in PyTorch. The script writes a row for each case into
``benchmarks/results/train_int8.json`` and prints it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from torch import nn
from torchvision.models import mobilenet_v3_small

from edgekit import data
from edgekit.accuracy import share_interval
from edgekit.data import Dataset
from edgekit.data.pictures import Pictures
from edgekit.machine.cpu import machine_facts
from edgekit.progress import SILENT
from edgekit.recipe import DataRecipe, Int8Recipe, ModelRecipe, Recipe, TrainRecipe, load_recipe
from edgekit.training.fit import fit
from edgekit.training.int8 import train_int8

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "train_int8.json"


class Case(NamedTuple):
    """A recipe with [train.int8], and how many training pictures it sees."""

    recipe: Recipe
    pictures: int


class Printing:
    """Progress as lines."""

    def task(self, title: str, total: int) -> Any:
        return SILENT.task(title, total)

    def say(self, line: str) -> None:
        print(line, flush=True)


def mobilenet(num_classes: int = 10) -> nn.Module:
    """Torchvision's MobileNetV3-Small from scratch."""
    network: nn.Module = mobilenet_v3_small(num_classes=num_classes)
    return network


def cases() -> dict[str, Case]:
    edgenet = load_recipe(ROOT / "recipes" / "edgenet.toml")
    brief = msgspec.structs.replace(
        edgenet.train, epochs=6, average=0.0, min_accuracy=0.0, int8=Int8Recipe(epochs=2, learning_rate=1e-4)
    )
    mobile = Recipe(
        "mobilenet_v3_small",
        DataRecipe("fashion-mnist", resize=64, color="rgb"),
        ModelRecipe("benchmarks.train_int8:mobilenet"),
        TrainRecipe(
            epochs=5, batch_size=64, learning_rate=4e-3, channels_last=True, int8=Int8Recipe(epochs=2, learning_rate=2e-4)
        ),
    )
    data_of_all = msgspec.structs.replace(edgenet.data, holdout=0)
    return {
        "edgenet": Case(msgspec.structs.replace(edgenet, train=brief, data=data_of_all), 30_000),
        "mobilenet_v3_small": Case(mobile, 10_000),
    }


def fewer(dataset: Dataset, count: int) -> Dataset:
    train = Pictures(dataset.train.images[:count].copy(), dataset.train.labels[:count].copy())
    return msgspec.structs.replace(dataset, train=train)


def measured(case: Case) -> dict[str, Any]:
    settings = case.recipe.train.int8
    assert settings is not None
    dataset = fewer(data.load_dataset(case.recipe.data), case.pictures)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / case.recipe.name
        before = fit(case.recipe, dataset, run, progress=Printing())
        report = train_int8(case.recipe, settings, dataset, run, before, progress=Printing()).int8
    assert report is not None
    shares = {name: getattr(report, name) for name in ("before", "calibrated", "after", "trained")}
    return {
        "parameters": before.parameters,
        "training_pictures": case.pictures,
        "float_epochs": case.recipe.train.epochs,
        "float_seconds": before.seconds,
        "settings": msgspec.to_builtins(settings),
        "intervals": {name: share_interval(share, report.pictures) for name, share in shares.items()},
        **msgspec.to_builtins(report),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=[*cases()], help="one case")
    only = parser.parse_args().only
    for name, case in cases().items():
        if only in (None, name):
            row = measured(case)
            document = json.loads(RESULT.read_text()) if RESULT.exists() else {"cases": {}}
            document |= {"machine": machine_facts(), "cases": {**document["cases"], name: row}}
            RESULT.write_text(json.dumps(document, indent=2) + "\n")
            print(json.dumps({key: value for key, value in row.items() if key not in ("epochs", "settings")}, indent=2))


if __name__ == "__main__":
    main()
