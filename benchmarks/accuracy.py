"""Train recipes with several seeds, export them, and record the accuracies of the files, their spread and the training times.

    python benchmarks/accuracy.py recipes/lenet.toml --seeds 0 1 2

A seed that ``--runs`` holds with the same settings is read, not trained again. The accuracies are those of the exported ONNX
files in ONNX Runtime on the test set, which nothing was chosen by: float32's for each seed, int8's for the first. Seconds are
those of the training on this machine; the fastest epoch tells what other work took of them. The result is added to
``benchmarks/results/accuracy.json``, one entry for each recipe.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgekit.accuracy import share_interval
from edgekit.bundle.folder import open_bundle
from edgekit.commands.export import export
from edgekit.commands.quantize import quantize
from edgekit.commands.train import train
from edgekit.errors import EdgekitError
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


class Files(NamedTuple):
    """What a run exports to: test accuracies of the files; int8's with its SNR, or why there is none."""

    float32: float
    int8: dict[str, Any]


def exported(run: Path, scratch: Path, *, with_int8: bool) -> Files:
    bundle = scratch / run.name
    export(str(run), bundle)
    accuracy = open_bundle(bundle).manifest.test_accuracy
    assert accuracy is not None
    if not with_int8:
        return Files(accuracy, {})
    try:
        report = quantize(bundle, "int8")
    except EdgekitError as problem:
        return Files(accuracy, {"refused": str(problem)})
    (change,) = report.accuracy
    lost = {"accuracy": change.after, "low": change.low, "high": change.high, "flips": change.flips}
    return Files(accuracy, {**lost, "snr_db": round(report.snr_db, 1), "bytes": report.onnx_bytes})


def measured(base: Recipe, seeds: list[int], runs: Path, scratch: Path) -> dict[str, Any]:
    reports, files = [], []
    for seed in seeds:
        recipe = msgspec.structs.replace(base, train=msgspec.structs.replace(base.train, seed=seed))
        run = runs / f"{base.name}-seed{seed}"
        reports.append(trained(recipe, run))
        files.append(exported(run, scratch, with_int8=seed == seeds[0]))
        print(f"{base.name} seed {seed}: {files[-1].float32:.4f} in {reports[-1].seconds:.1f} s", flush=True)
    accuracies = [each.float32 for each in files]
    pictures = sum(row.test for row in reports[0].data.classes) if reports[0].data else 0
    return {
        "seeds": seeds,
        "epochs": base.train.epochs,
        "parameters": reports[0].parameters,
        "pictures": pictures,
        "accuracies": accuracies,
        "held_out": [report.holdout_accuracy for report in reports],
        "mean": statistics.mean(accuracies),
        "spread": max(accuracies) - min(accuracies),
        "interval": share_interval(accuracies[0], pictures),
        "int8": files[0].int8,
        "seconds": [report.seconds for report in reports],
        "fastest_epoch": min(epoch.seconds for report in reports for epoch in report.epochs),
        "facts": reports[0].facts,
        "machine": {key: value for key, value in machine_facts().items() if key != "load"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        for path in arguments.recipes:
            base = load_recipe(path)
            results[base.name] = measured(base, arguments.seeds, arguments.runs, Path(scratch))
            RESULT.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
