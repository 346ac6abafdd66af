"""How far 300 pictures go: a network trained on seven classes of Fashion-MNIST is fine-tuned for the three others.

    python benchmarks/fine_tuning.py

Folders of PNG files, one for each class, stand for a user's pictures: 100 of each of three classes, or all 6,000. EdgeNet is
trained from nothing, and from weights that know the seven other classes, whose convolutions are frozen at first and move at a
smaller rate after. Accuracy is that on the 3,000 test pictures of the three classes. The last step is the way of a user:
``edgekit run`` of the recipe to a verified bundle with an int8 file. The result is ``benchmarks/results/fine_tuning.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgekit.accuracy import share_interval
from edgekit.commands.run import run
from edgekit.commands.train import train
from edgekit.commands.verify import verify
from edgekit.data import load_dataset
from edgekit.data.pictures import Pictures
from edgekit.machine.cpu import machine_facts
from edgekit.recipe import DataRecipe

RESULT = Path(__file__).parent / "results" / "fine_tuning.json"
NEW = {"shoes": ("Sandal", "Sneaker", "Ankle boot"), "tops": ("Pullover", "Coat", "Shirt")}
FEW = 100

RECIPE = """
name = "{name}"

[data]
dataset = "image-folder"
path = "{path}"
resize = 28
color = "grey"

[model]
name = "edgenet"
{weights}

[train]
epochs = {epochs}
batch_size = {batch}
optimizer = "muon"
learning_rate = 0.03
learning_rate_rest = 0.01
weight_decay = 0.03
schedule = "linear"
label_smoothing = 0.05
flip = true
pad = 2
channels_last = true
"""
STAGES = """
[[train.stages]]
modules = "{module}"
rate = 0.3
thaw = {thaw}
"""
CONVOLUTIONS = ("0", "1", "4", "5", "7", "8", "11", "12", "14", "15")
"""EdgeNet's convolutions and their batch norms; its last layer, 19, is trained from the first epoch on."""


def write_folder(root: Path, halves: dict[str, Pictures], names: tuple[str, ...], classes: tuple[str, ...], most: int) -> None:
    """``root/train/<class>/*.png`` and ``root/test``, with at most ``most`` training pictures of each class."""
    for half, pictures in halves.items():
        for name in names:
            folder = root / half / name.replace("/", "-")
            folder.mkdir(parents=True)
            own = pictures.images[pictures.labels == classes.index(name)]
            for number, image in enumerate(own[:most] if half == "train" else own):
                Image.fromarray(np.ascontiguousarray(image[0])).save(folder / f"{number}.png")


def recipe(place: Path, name: str, path: Path, *, epochs: int, batch: int, start: Path | None = None) -> Path:
    weights = f'weights = "{start}"' if start else ""
    text = RECIPE.format(name=name, path=path, weights=weights, epochs=epochs, batch=batch)
    if start:
        text += "".join(STAGES.format(module=module, thaw=1 + epochs // 5) for module in CONVOLUTIONS)
    file = place / f"{name}.toml"
    file.write_text(text)
    return file


def compared(kind: str, place: Path) -> dict[str, Any]:
    """Accuracies on three new classes, by the pictures that were trained on and by the weights at the start."""
    whole = load_dataset(DataRecipe("fashion-mnist"))
    halves = {"train": whole.train, "test": whole.test}
    others = tuple(name for name in whole.classes if name not in NEW[kind])
    write_folder(place / "others", halves, others, whole.classes, 10**6)
    write_folder(place / "few", halves, NEW[kind], whole.classes, FEW)
    write_folder(place / "all", halves, NEW[kind], whole.classes, 10**6)
    train(recipe(place, "others", place / "others", epochs=4, batch=256), place / "runs" / "others")
    start = place / "runs" / "others" / "weights.safetensors"
    ways = {
        "few, from nothing": recipe(place, "few", place / "few", epochs=60, batch=50),
        "few, fine-tuned": recipe(place, "few-tuned", place / "few", epochs=60, batch=50, start=start),
        "all, from nothing": recipe(place, "all", place / "all", epochs=8, batch=256),
        "all, fine-tuned": recipe(place, "all-tuned", place / "all", epochs=8, batch=256, start=start),
    }
    found: dict[str, Any] = {}
    for name, file in ways.items():
        report = train(file, place / "runs" / file.stem, begin="update")
        interval = share_interval(report.test_accuracy, 3000)
        found[name] = {"accuracy": report.test_accuracy, "interval": interval, "seconds": report.seconds}
        print(f"{kind}: {name} {report.test_accuracy:.4f} in {report.seconds:.1f} s", flush=True)
    best = max(found["all, from nothing"]["accuracy"], found["all, fine-tuned"]["accuracy"])
    return {"ways": found, "share": round(found["few, fine-tuned"]["accuracy"] / best, 4), "classes": NEW[kind]}


def to_a_bundle(place: Path) -> dict[str, Any]:
    """``edgekit run`` of the fine-tuning recipe with an int8 file, and ``edgekit verify`` of what it wrote."""
    file = place / "few-tuned.toml"
    file.write_text(file.read_text() + '\n[[variants]]\nto = "int8"\n')
    report = run(file, runs=place / "runs", output=place / "bundle")
    verified = verify(place / "bundle")
    steps = {step.step: step.detail for step in report.steps}
    return {"passed": report.passed and verified.passed, "export": steps["export"].replace(str(place), "")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*NEW], help="one set of classes; the file keeps the others")
    only = parser.parse_args().only
    results: dict[str, Any] = json.loads(RESULT.read_text()) if only and RESULT.exists() else {}
    results |= {"few": FEW}
    for kind in [only] if only else NEW:
        with tempfile.TemporaryDirectory() as scratch:
            results[kind] = compared(kind, Path(scratch))
            results[kind] |= {"bundle": to_a_bundle(Path(scratch)), "machine": machine_facts()}
        RESULT.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
