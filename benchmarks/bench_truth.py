"""Medians of ``edgekit bench`` beside those of the least that a program can do: C++ over ONNX Runtime's C API, and bare Python.

    python benchmarks/bench_truth.py                                  # about five minutes on a quiet machine
    python benchmarks/bench_truth.py --pairs 2 --seconds 0.05 --file trial.json

All sides load the library of the installed onnxruntime, with one thread, and take one and the same input, host array in, host
array out. They take turns in fresh processes, in another order each round; the processes of a round are a pair. A network that
takes at least 200 us must be *equivalent*: both one-sided 95 % bounds of edgekit over C++ (exact sign-flip test of paired
log-ratios) are within 3 %. Of a faster one what edgekit adds is told, in microseconds.

The program is ``bench_truth.cpp``; the headers come as those of ``examples/cpp`` do (``.ci/setup``, or ``--include FOLDER``).
Writes ``benchmarks/results/bench_truth.json``; exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from edgekit.bundle.folder import open_bundle
from edgekit.files import cache_root, write_text
from edgekit.latency.control import NETWORK
from edgekit.latency.signflip import MOST_PAIRS, lower_bound, upper_bound
from edgekit.latency.turns import Thing, shuffled, timed
from edgekit.machine.cpu import machine_facts
from edgekit.setups import Setup
from edgekit.tensors import Array, sample_feed

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "bench_truth.json"
SETUP = Setup("ort-cpu", threads=1)
CASES = (("lenet", 1), ("lenet", 32), ("reference network", 1), ("edgenet", 1), ("densenet", 1))
SIDES = ("edgekit", "c++", "python")
PAIRS, SECONDS = 12, 0.5
WARM_SECONDS = 0.1
EQUIVALENT, FASTEST_MS, ALPHA = 0.03, 0.2, 0.05


class Case(NamedTuple):
    """A bundle at a batch; ``input`` is the file of its raw values, of this ``shape``."""

    name: str
    bundle: Path
    batch: int
    input: Path
    shape: tuple[int, ...]

    @property
    def words(self) -> list[str]:
        """What both loops are given: the model, the input and the threads; the seconds and the shape follow."""
        return [str(self.bundle / "model.onnx"), str(self.input), "1"]


def header_folder(given: Path | None) -> Path:
    """The folder of onnxruntime_c_api.h; ends the program where there is none."""
    named = os.environ.get("EDGEKIT_ONNXRUNTIME_INCLUDE")
    roots = [given, Path(named) if named else None, cache_root() / "cpp" / "usr" / "include", Path("/usr/include")]
    folders = [root / inside for root in roots if root for inside in ("", "onnxruntime")]
    found = next((folder for folder in folders if (folder / "onnxruntime_c_api.h").is_file()), None)
    if found is None:
        sys.exit("onnxruntime_c_api.h is nowhere; run .ci/setup, or name its folder with --include")
    return found


def built(folder: Path, headers: Path) -> Path:
    """The program, linked with the library of Python's package."""
    library = next((Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    (folder / "libonnxruntime.so.1").symlink_to(library)
    program, source = folder / "bench_truth", Path(__file__).with_suffix(".cpp")
    words = ["c++", "-O2", "-std=c++17", "-isystem", headers, source, folder / "libonnxruntime.so.1", f"-Wl,-rpath,{folder}"]
    subprocess.run([*map(str, words), "-o", str(program)], check=True)
    return program


def case_of(name: str, batch: int, folder: Path) -> Case:
    """A case with its input written."""
    root = NETWORK if name == "reference network" else ROOT / "exported" / name
    ((_, values),) = sample_feed(open_bundle(root).manifest.inputs, batch).items()
    file = folder / f"{name} {batch}.bin"
    file.write_bytes(np.ascontiguousarray(values, np.float32).tobytes())
    return Case(f"{name}, batch {batch}", root, batch, file, values.shape)


def bare(model: str, input_file: str, threads: str, seconds: str, *shape: str) -> str:
    """What the child in Python does: the loop of the C++ program."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    values: Array = np.fromfile(input_file, np.float32).reshape([int(size) for size in shape])
    feed, names = {session.get_inputs()[0].name: values}, [output.name for output in session.get_outputs()]
    end = perf_counter_ns() + WARM_SECONDS * 1e9
    while perf_counter_ns() < end:
        session.run(names, feed)
    samples = []
    end = perf_counter_ns() + float(seconds) * 1e9
    while perf_counter_ns() < end:
        before = perf_counter_ns()
        session.run(names, feed)
        samples.append((perf_counter_ns() - before) / 1e6)
    return f"{statistics.median(samples):.6f} {len(samples)}"


def median_ms(command: Sequence[str]) -> float:
    """The median that a child prints first."""
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0])


def timers(program: Path) -> dict[str, Callable[[Case, float], float]]:
    """How each side's median in ms is measured, in a fresh process for so many seconds."""
    python = [sys.executable, __file__, "--bare"]
    return {
        "edgekit": lambda case, s: timed(Thing(case.name, case.bundle, SETUP, case.batch, "end-to-end"), s).median_ms,
        "c++": lambda case, s: median_ms([str(program), *case.words, str(s), *map(str, case.shape)]),
        "python": lambda case, s: median_ms([*python, *case.words, str(s), *map(str, case.shape)]),
    }


def measured(cases: Sequence[Case], program: Path, pairs: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """The medians in ms of every case and side, round by round; one round before them is short and does not count."""
    sides = timers(program)
    medians: dict[str, dict[str, list[float]]] = {case.name: {side: [] for side in SIDES} for case in cases}
    everything = [(case, side) for case in cases for side in SIDES]
    for case, side in everything:
        sides[side](case, min(seconds, WARM_SECONDS))
    for case, side in shuffled(everything, pairs, seed=0):
        medians[case.name][side].append(sides[side](case, seconds))
    return medians


def compared(medians: dict[str, list[float]]) -> dict[str, Any]:
    """Both Python sides over C++: the median ratio with its one-sided 95 % bounds, and what edgekit adds."""
    logs = {side: np.log(medians[side]) for side in SIDES}
    row: dict[str, Any] = {"medians_ms": medians, "ms": {side: statistics.median(medians[side]) for side in SIDES}}
    for side in ("edgekit", "python"):
        ratio = logs[side] - logs["c++"]
        bounds = (float(np.median(ratio)), lower_bound(ratio, ALPHA), upper_bound(ratio, ALPHA))
        row[f"{side} over c++"] = dict(zip(("ratio", "low", "high"), map(math.exp, bounds), strict=True))
    row["added_us"] = 1e3 * statistics.median(np.asarray(medians["edgekit"]) - np.asarray(medians["c++"]))
    row["slow_enough"] = row["ms"]["c++"] >= FASTEST_MS
    over = row["edgekit over c++"]
    row["equivalent"] = 1 / (1 + EQUIVALENT) <= over["low"] <= over["high"] <= 1 + EQUIVALENT
    return row


def told(name: str, row: dict[str, Any]) -> str:
    """A line of a case."""
    over, python, ms = row["edgekit over c++"], row["python over c++"], row["ms"]
    verdict = (
        ("equivalent" if row["equivalent"] else "NOT equivalent") if row["slow_enough"] else f"adds {row['added_us']:.1f} us"
    )
    return (
        f"{name:28}{ms['c++']:10.4f}{ms['edgekit']:10.4f}{ms['python']:10.4f}  {over['ratio']:.3f} "
        f"({over['low']:.3f} .. {over['high']:.3f})  {python['ratio']:.3f}  {verdict}"
    )


def main() -> int:
    if sys.argv[1:2] == ["--bare"]:
        print(bare(*sys.argv[2:]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=RESULT)
    parser.add_argument("--include", type=Path, help="the folder of onnxruntime_c_api.h")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    given = parser.parse_args()
    if not 1 <= given.pairs <= MOST_PAIRS:
        parser.error(f"--pairs takes 1 to {MOST_PAIRS}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        program = built(folder, header_folder(given.include))
        cases = [case_of(name, batch, folder) for name, batch in CASES]
        medians = measured(cases, program, given.pairs, given.seconds)
    rows = {name: compared(own) for name, own in medians.items()}
    result = {
        "pairs": given.pairs,
        "seconds": given.seconds,
        "onnxruntime": ort.__version__,
        "compiler": subprocess.run(["c++", "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0],
        "machine": machine_facts(),
        "cases": rows,
    }
    write_text(given.file, json.dumps(result, indent=1) + "\n")
    print(f"{'median in ms':28}{'C++':>10}{'edgekit':>10}{'Python':>10}  edgekit/C++ (95 %)  Python/C++")
    for name, row in rows.items():
        print(told(name, row))
    return int(not all(row["equivalent"] for row in rows.values() if row["slow_enough"]))


if __name__ == "__main__":
    sys.exit(main())
