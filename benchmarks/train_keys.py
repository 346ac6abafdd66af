"""What each key of ``[train]`` does to a training: held-out accuracy and seconds per epoch with the key, and without.

    python benchmarks/train_keys.py [--epochs 8] [--only KEY ...]

Every row trains EdgeNet as ``recipes/edgenet.toml`` says, in few epochs and without ``average``, with one key changed, on the
same pictures with the same seeds; the test set is not read. A difference below the noise says that the key is not needed here,
and not that it never is.
Rows that the result file ``benchmarks/results/train_keys.json`` holds with the same settings are not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from edgekit.commands.train import train
from edgekit.files import write_text
from edgekit.machine.cpu import machine_facts
from edgekit.recipe import TrainRecipe, load_recipe

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "train_keys.json"
CHANGES: dict[str, dict[str, Any]] = {
    "the recipe without average": {},
    "optimizer = adam": {"optimizer": "adam", "learning_rate": 0.01, "learning_rate_rest": None},
    "optimizer = sgd": {"optimizer": "sgd", "learning_rate": 0.1, "learning_rate_rest": None, "weight_decay": 5e-4},
    "schedule = cosine": {"schedule": "cosine"},
    "schedule = one-cycle": {"schedule": "one-cycle"},
    "schedule = constant": {"schedule": "constant"},
    "flip = true": {"flip": True},
    "flip = false": {"flip": False},
    "pad = 0": {"pad": 0},
    "pad = 2": {"pad": 2},
    "erase = 0.25": {"erase": 0.25},
    "label_smoothing = 0": {"label_smoothing": 0.0},
    "weight_decay = 0": {"weight_decay": 0.0},
    "average = 0.998": {"average": 0.998},
    "schedule = constant, average = 0.998": {"schedule": "constant", "average": 0.998},
    "clip_norm = 1": {"clip_norm": 1.0},
    "precision = float32": {"precision": "float32"},
    "channels_last = false": {"channels_last": False},
    "compile = true": {"compile": True},
}


def as_stored(settings: TrainRecipe) -> Any:
    """The settings as the result file gives them back."""
    return msgspec.json.decode(msgspec.json.encode(settings))


def row(name: str, settings: TrainRecipe, seeds: list[int]) -> dict[str, Any]:
    base = load_recipe(ROOT / "recipes" / "edgenet.toml")
    reached, seconds = [], []
    for seed in seeds:
        recipe = msgspec.structs.replace(base, train=msgspec.structs.replace(settings, seed=seed, min_accuracy=0.0))
        with tempfile.TemporaryDirectory() as run:
            report = train(recipe, Path(run))
        assert report.holdout_accuracy is not None
        reached.append(report.holdout_accuracy)
        seconds += [epoch.seconds for epoch in report.epochs]
    result = {"held_out": reached, "epoch_seconds": statistics.median(seconds), "first_epoch_seconds": seconds[0]}
    print(f"{name}: {result}", flush=True)
    return {"settings": as_stored(settings), "seeds": seeds, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {"rows": {}}
    recipe = load_recipe(ROOT / "recipes" / "edgenet.toml")
    base = msgspec.structs.replace(recipe.train, epochs=arguments.epochs, average=0.0)
    for name in arguments.only:
        settings = msgspec.structs.replace(base, **CHANGES[name])
        known = results["rows"].get(name, {})
        if known.get("settings") == as_stored(settings) and known.get("seeds") == arguments.seeds:
            continue
        results["rows"][name] = row(name, settings, arguments.seeds)
        results["rows"] = {key: results["rows"][key] for key in CHANGES if key in results["rows"]}
        results["machine"] = machine_facts()
        write_text(RESULT, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
