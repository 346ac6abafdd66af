"""Does ``edgekit tune`` name the best way to run a bundle? Each of several tunings against an exhaustive measurement.

    python benchmarks/tune_truth.py exported/resnet18 exported/densenet

Per bundle: ``edgekit tune`` runs RUNS times, with accuracies known from a first one. Then every way that passes parity is timed
in fresh processes that take turns, TURNS of each; the best of these by the median is the truth. A tuning is right where its
winner's median there is at most 3 % above the best's. The seconds of a tuning are those beyond accuracy. The result is
``benchmarks/results/tune_truth.json``, written after every bundle.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from edgekit import tune
from edgekit.latency.fresh import time_fresh
from edgekit.latency.turns import shuffled
from edgekit.machine.child import Failure
from edgekit.machine.cpu import machine_facts
from edgekit.reports.tune import TuneReport
from edgekit.setups import Setup

RESULT = Path(__file__).parent / "results" / "tune_truth.json"
RUNS, TURNS, SECONDS, GOAL = 5, 8, 0.4, 1.03


def tunings(bundle: Path) -> list[tuple[TuneReport, float]]:
    """The reports of ``RUNS`` tunings with their seconds; one before them learns the accuracies."""
    tune(bundle)
    reports = []
    for run in range(RUNS):
        began = time.perf_counter()
        report = tune(bundle)
        reports.append((report, time.perf_counter() - began))
        print(f"  run {run + 1}: {report.chosen} in {reports[-1][1]:.0f} s", flush=True)
    return reports


def exhaustive(bundle: Path, setups: list[Setup]) -> dict[Setup, float]:
    """The median of the medians of ``TURNS`` fresh processes of every way, in another order every turn."""
    medians: dict[Setup, list[float]] = {setup: [] for setup in setups}
    for setup in shuffled(setups, TURNS, seed=1):
        timed = time_fresh(bundle, setup, 1, "end-to-end", SECONDS)
        if not isinstance(timed, Failure):
            medians[setup].append(timed.median_ms)
    return {setup: float(np.median(values)) for setup, values in medians.items() if values}


def judged(bundle: Path) -> dict[str, object]:
    """What the tunings chose, and how far that is from the best."""
    reports = tunings(bundle)
    truth = exhaustive(bundle, [row.setup for row in reports[0][0].rows if row.parity])
    best = min(truth, key=truth.__getitem__)
    ratios = [truth[report.chosen] / truth[best] for report, _ in reports if report.chosen is not None]
    return {
        "best": str(best),
        "best_ms": truth[best],
        "chosen": [str(report.chosen) for report, _ in reports],
        "ratios": ratios,
        "right": sum(ratio <= GOAL for ratio in ratios),
        "runs": RUNS,
        "seconds": [seconds for _, seconds in reports],
        "ways": {str(setup): ms for setup, ms in sorted(truth.items(), key=lambda item: item[1])},
        "machine": machine_facts(),
    }


def main() -> None:
    """Judge every bundle named, and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for bundle in parser.parse_args().bundles:
        print(bundle, flush=True)
        results[bundle.name] = row = judged(bundle)
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
        worst = max(row["ratios"], default=float("nan"))  # type: ignore[call-overload]
        slowest = max(row["seconds"])  # type: ignore[call-overload]
        print(f"  {row['right']} of {RUNS} right, worst {worst:.3f} of the best, at most {slowest:.0f} s")


if __name__ == "__main__":
    main()
