"""Time steps of training in float32 and in bfloat16, in turns, to see whether ``precision = "auto"`` takes the faster.

    python benchmarks/train_dtypes.py
    python benchmarks/train_dtypes.py --recipes densenet --rounds 20

Both sides take steps of the recipe, on random pictures of its size, a step each in every round after one that warms up. They
compute on one thread, and its CPU time counts, which other processes change little. The script adds this machine to
``benchmarks/results/train_dtypes.json``: median milliseconds of both, and the median of the rounds' ratios, which says how many
times as fast a step in bfloat16 is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import msgspec
import torch
from train_speed import lasting_facts

from edgekit import data
from edgekit.files import write_text
from edgekit.recipe import load_recipe
from edgekit.training.device import reuse_memory
from edgekit.training.loop import take_step
from edgekit.training.numerics import PRECISIONS, bfloat16_pays
from edgekit.training.optimizers import freeze
from edgekit.training.state import State
from edgekit.training.untrained import build_model

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "train_dtypes.json"
RECIPES = ("resnet18", "densenet", "edgenet", "edgenet-300k")


def steps_ms(name: str, rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of a step in every round, of each dtype."""
    recipe = load_recipe(ROOT / "recipes" / f"{name}.toml")
    settings = {each: msgspec.structs.replace(recipe.train, precision=each) for each in PRECISIONS}
    shape, states = data.picture_shape(recipe.data), {}
    for each in PRECISIONS:
        states[each] = State(build_model(recipe, shape).module.train(), settings[each], rounds + 1, torch.device("cpu"))
        freeze(states[each].model, settings[each], 0)
    images = torch.randn(recipe.train.batch_size, shape.channels, shape.height, shape.width)
    labels = torch.randint(shape.classes, (len(images),))
    times: dict[str, list[float]] = {each: [] for each in PRECISIONS}
    for number in range(rounds + 1):
        for each in PRECISIONS if number % 2 else PRECISIONS[::-1]:
            began = time.thread_time()
            take_step(states[each], settings[each], images, labels, 1.0)
            times[each].append(1e3 * (time.thread_time() - began))
    return {each: values[1:] for each, values in times.items()}


def row(times: dict[str, list[float]]) -> dict[str, float]:
    """What is kept of the steps of a recipe."""
    ratios = [old / new for old, new in zip(times["float32"], times["bfloat16"], strict=True)]
    medians = {f"{each}_ms": round(statistics.median(values), 1) for each, values in times.items()}
    return {**medians, "times_as_fast": round(statistics.median(ratios), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--rounds", type=int, default=6)
    words = parser.parse_args()
    reuse_memory()
    torch.set_num_threads(1)
    facts = lasting_facts()
    rows = {name: row(steps_ms(name, words.rounds)) for name in words.recipes}
    machines = json.loads(RESULT.read_text())["machines"] if RESULT.exists() else []
    others = [each for each in machines if each["machine"] != facts]
    entry = {"machine": facts, "torch": str(torch.__version__), "auto_is_bfloat16": bfloat16_pays(), "recipes": rows}
    write_text(RESULT, f"{json.dumps({'machines': [*others, entry]}, indent=1)}\n")
    for name, values in rows.items():
        print(f"{name:14} {values}")


if __name__ == "__main__":
    main()
