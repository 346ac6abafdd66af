"""What a call of ``edgekit.load``'s Model costs beyond a bare call of ONNX Runtime: one file, one sample, in turns.

    python benchmarks/load_overhead.py        # exits with 1 beyond 20 us; writes benchmarks/results/load_overhead.json

Each side has a session of its own, with the same options. In every other pair the Model goes first. The difference of a pair is
between calls that are next to each other, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import onnxruntime as ort

from edgekit import load
from edgekit.machine.cpu import machine_facts

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "load_overhead.json"
BUNDLE = ROOT / "exported" / "lenet"
LIMIT_US, PAIRS, WARM = 20.0, 20_000, 500


def differences_us() -> tuple[list[float], list[float]]:
    """Microseconds of each bare call, and of the Model's call beside it less that."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(BUNDLE / "model.onnx", options, providers=["CPUExecutionProvider"])
    sample = np.load(BUNDLE / "golden.npz")["input.input"][:1]
    with load(BUNDLE, "ort-cpu threads=1") as model:
        given, wanted = model.inputs[0].name, [model.outputs[0].name]
        calls = (lambda: session.run(wanted, {given: sample})[0], lambda: model(sample))
        assert np.array_equal(calls[0](), calls[1]())
        ns = [[0, 0] for _ in range(WARM + PAIRS)]
        for turn, pair in enumerate(ns):
            for side in (turn % 2, 1 - turn % 2):
                before = perf_counter_ns()
                calls[side]()
                pair[side] = perf_counter_ns() - before
    return [bare / 1e3 for bare, _ in ns[WARM:]], [(mine - bare) / 1e3 for bare, mine in ns[WARM:]]


def median_interval(values: list[float]) -> list[float]:
    """The 95 % interval of the median, by order statistics: places n/2 -+ 0.98 sqrt(n) of the sorted values."""
    ordered, half = sorted(values), 0.98 * math.sqrt(len(values))
    return [ordered[round(len(values) / 2 - half)], ordered[round(len(values) / 2 + half)]]


def main() -> int:
    bare, differences = differences_us()
    result = {
        "bundle": BUNDLE.name,
        "batch": 1,
        "pairs": PAIRS,
        "bare_median_us": round(statistics.median(bare), 2),
        "difference_median_us": round(statistics.median(differences), 2),
        "difference_interval_us": [round(value, 2) for value in median_interval(differences)],
        "limit_us": LIMIT_US,
        "onnxruntime": ort.__version__,
        "machine": machine_facts(),
    }
    RESULT.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    print(json.dumps({name: result[name] for name in ("bare_median_us", "difference_median_us", "difference_interval_us")}))
    return int(statistics.median(differences) > LIMIT_US)


if __name__ == "__main__":
    sys.exit(main())
