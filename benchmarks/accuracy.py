"""Train recipes with several seeds; record test accuracies, their spread and the training times.

    python benchmarks/accuracy.py recipes/lenet.toml --seeds 0 1 2

A seed that ``--runs`` holds with the same settings is read, not trained again. The result is added to
``benchmarks/results/accuracy.json``, one entry for each recipe.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
from pathlib import Path

import msgspec

from edgekit.commands.train import train
from edgekit.machine.cpu import machine_facts
from edgekit.progress import Advance
from edgekit.recipe import Recipe, load_recipe
from edgekit.reports.train import TrainReport

RESULT = Path(__file__).parent / "results" / "accuracy.json"


class Lines:
    """Prints progress as lines on stdout."""

    def task(self, title: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        return contextlib.nullcontext(lambda steps, note: None)

    def say(self, line: str) -> None:
        print(line, flush=True)


def trained(recipe: Recipe, run: Path) -> TrainReport:
    report = run / "train.json"
    settings = run / "recipe.json"
    if report.is_file() and settings.is_file():
        previous = msgspec.json.decode(settings.read_bytes(), type=Recipe)
        if (previous.data, previous.model, previous.train) == (recipe.data, recipe.model, recipe.train):
            return TrainReport.from_json(report.read_bytes())
    return train(recipe, run, begin="restart", progress=Lines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for path in arguments.recipes:
        base = load_recipe(path)
        reports = []
        for seed in arguments.seeds:
            recipe = msgspec.structs.replace(base, train=msgspec.structs.replace(base.train, seed=seed))
            report = trained(recipe, arguments.runs / f"{base.name}-seed{seed}")
            reports.append(report)
            print(f"{base.name} seed {seed}: {report.test_accuracy:.4f} in {report.seconds:.1f} s", flush=True)
        accuracies = [report.test_accuracy for report in reports]
        results[base.name] = {
            "seeds": arguments.seeds,
            "epochs": base.train.epochs,
            "accuracies": accuracies,
            "mean": statistics.mean(accuracies),
            "spread": max(accuracies) - min(accuracies),
            "seconds": [report.seconds for report in reports],
            "facts": reports[0].facts,
            "machine": {key: value for key, value in machine_facts().items() if key != "load"},
        }
        RESULT.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
