"""Medians of ``edgekit bench`` beside those of the least that a program can do: C++ over ONNX Runtime's C API, and bare Python.

    python benchmarks/bench_truth.py                                   # about five minutes on a quiet machine
    python benchmarks/bench_truth.py --rounds 5 --seconds 0.05 --file trial.json

All sides load the library of the installed onnxruntime, with one thread, and take one and the same input, host array in, host
array out. edgekit's side is the command itself, as a user types it, and its end-to-end median. Every round takes the networks in
a random order, and of each network the three sides, each in a fresh process, in a random order; these three are compared with
each other.

A network that takes at least 200 us must be *equivalent* for edgekit and each of the other sides: the 90 % interval of the ratio
(both one-sided 95 % bounds, by the exact sign-flip test of paired log-ratios) lies within 3 % (TOST, two one-sided tests). Of a
faster one what edgekit adds is told in microseconds, with its 90 % interval.

The C++ program is ``bench_truth.cpp``, the Python one ``bare_loop.py``; the headers come as those of ``examples/cpp`` do
(``.ci/setup``, or ``--include FOLDER``). ResNet-18 is exported here with random weights. Writes
``benchmarks/results/bench_truth.json`` as it goes, goes on where it was stopped, and exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import onnxruntime as ort

import edgekit
from edgekit.bundle.folder import open_bundle
from edgekit.files import cache_root, write_bytes
from edgekit.latency.control import NETWORK
from edgekit.latency.signflip import MOST_PAIRS, fewest_pairs, lower_bound, upper_bound
from edgekit.latency.statistics import Vector
from edgekit.latency.turns import shuffled
from edgekit.machine.cpu import machine_facts
from edgekit.tensors import sample_feed

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "bench_truth.json"
REFERENCE, GENERATED = "reference network", "resnet18"
CASES = (("lenet", 1), ("edgenet", 1), ("densenet", 1), (REFERENCE, 1), (GENERATED, 1), (GENERATED, 8))
OTHERS = ("C++", "Python")
SIDES = ("edgekit", *OTHERS)
ROUNDS, SECONDS, WARM_SECONDS = 10, 0.4, 0.05
EQUIVALENT, FASTEST_MS, ALPHA = 0.03, 0.2, 0.05


class Case(NamedTuple):
    """A bundle at a batch; ``input`` is the file of its raw values, of this ``shape``."""

    name: str
    bundle: Path
    batch: int
    input: Path
    shape: tuple[int, ...]


class Round(msgspec.Struct, frozen=True):
    """The median in ms of each side's process, and why edgekit called the machine noisy meanwhile, or ``stable``."""

    ms: dict[str, float]
    noise: str


class Record(msgspec.Struct):
    """What was measured, how and where; ``full``: as many rounds and seconds as the figure in the docs wants."""

    edgekit: str
    onnxruntime: str
    compiler: str
    seconds: float
    machine: dict[str, str]
    rounds: dict[str, list[Round]] = {}
    compared: dict[str, dict[str, Any]] = {}
    full: bool = False

    @property
    def conditions(self) -> dict[str, object]:
        """What must be alike where a record is gone on with."""
        machine = {name: fact for name, fact in self.machine.items() if name != "load"}
        return {
            "edgekit": self.edgekit,
            "onnxruntime": self.onnxruntime,
            "compiler": self.compiler,
            "seconds": self.seconds,
        } | machine


Timer: TypeAlias = Callable[[Case, float], tuple[float, str]]
"""A fresh process of one side, for so many seconds: its median in ms, and what it says of noise."""


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
    answer(
        "c++",
        "-O2",
        "-std=c++17",
        "-isystem",
        headers,
        source,
        folder / "libonnxruntime.so.1",
        f"-Wl,-rpath,{folder}",
        "-o",
        program,
    )
    return program


def answer(*words: object) -> str:
    """What a process prints on stdout; ends this program with its last complaint where it fails."""
    command = [str(word) for word in words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        complaints = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        sys.exit(f"{' '.join(command[:4])} ... fails: {complaints[-1]}")
    return done.stdout


def case_name(name: str, batch: int) -> str:
    return f"{name}, {batch}"


def case_of(name: str, batch: int, folder: Path) -> Case:
    """A case with its input written, and its bundle where edgekit has none."""
    root = {REFERENCE: NETWORK, GENERATED: folder / GENERATED}.get(name, ROOT / "exported" / name)
    if not root.exists():
        tell(f"exporting {name}")
        answer(sys.executable, "-m", "edgekit", "export", name, "--output", root)
    ((_, values),) = sample_feed(open_bundle(root).manifest.inputs, batch).items()
    file = folder / f"{name} {batch}.bin"
    file.write_bytes(np.ascontiguousarray(values, np.float32).tobytes())
    return Case(case_name(name, batch), root, batch, file, values.shape)


def timers(program: Path, state: Path) -> dict[str, Timer]:
    """How each side is timed; ``state`` takes what ``edgekit bench`` keeps of its last report."""
    os.environ["EDGEKIT_STATE"] = str(state)

    def by_command(case: Case, seconds: float) -> tuple[float, str]:
        words = ("--backend", "ort-cpu threads=1", "--batch", case.batch, "--seconds", seconds, "--json")
        report = json.loads(answer(sys.executable, "-m", "edgekit", "bench", case.bundle, *words))
        (row,) = (row for row in report["rows"] if row["boundary"] == "end-to-end")
        return row["median_ms"], row["noise"]

    def by_loop(*words: object) -> Timer:
        def time(case: Case, seconds: float) -> tuple[float, str]:
            printed = answer(*words, case.bundle / "model.onnx", case.input, 1, seconds, *case.shape)
            return float(printed.split()[0]), ""

        return time

    bare = by_loop(sys.executable, Path(__file__).with_name("bare_loop.py"))
    return {"edgekit": by_command, "C++": by_loop(program), "Python": bare}


def orders(cases: Sequence[Case], number: int) -> Iterator[tuple[Case, tuple[str, ...]]]:
    """The cases of a round in its order, each with its sides in theirs: always the same ones in a round of this number."""
    for place, case in enumerate(shuffled(cases, 1, number)):
        yield case, tuple(shuffled(SIDES, 1, number * len(cases) + place))


def measure(record: Record, cases: Sequence[Case], sides: Mapping[str, Timer], rounds: int, save: Callable[[], None]) -> None:
    """Go on until every case has so many rounds, and save after each case of a round."""
    short = [case for case in cases if len(record.rounds.setdefault(case.name, [])) < rounds]
    for case in short:  # short and not counted: the first process that counts reads no cold files
        for side in SIDES:
            sides[side](case, min(record.seconds, WARM_SECONDS))
    for number in range(rounds):
        for case, order in orders(cases, number):
            own = record.rounds[case.name]
            if len(own) > number:
                continue
            outcome = {side: sides[side](case, record.seconds) for side in order}
            own.append(Round({side: outcome[side][0] for side in SIDES}, outcome["edgekit"][1]))
            save()
        tell(f"round {number + 1} of {rounds}")


def estimate(values: Vector) -> dict[str, float]:
    """The median of paired differences with its one-sided 95 % bounds, which are a 90 % interval; 5 or more of them."""
    return {"median": float(np.median(values)), "low": lower_bound(values, ALPHA), "high": upper_bound(values, ALPHA)}


def compared(rounds: Sequence[Round]) -> dict[str, Any]:
    """What edgekit takes over each of the other sides: the ratio and what is added, in microseconds, with their intervals."""
    ms = {side: np.asarray([one.ms[side] for one in rounds]) for side in SIDES}
    row: dict[str, Any] = {"ms": {side: float(np.median(values)) for side, values in ms.items()}}
    for side in OTHERS:
        ratio = {name: math.exp(log) for name, log in estimate(np.log(ms["edgekit"] / ms[side])).items()}
        row[side] = {
            "ratio": ratio,
            "added_us": estimate(1e3 * (ms["edgekit"] - ms[side])),
            "equivalent": 1 / (1 + EQUIVALENT) <= ratio["low"] <= ratio["high"] <= 1 + EQUIVALENT,
        }
    row["slow_enough"] = row["ms"]["C++"] >= FASTEST_MS
    return row


def missed(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The goals that are not reached, a sentence each."""
    return [
        f"{name}: edgekit is not shown to be within {EQUIVALENT:.0%} of {side}"
        for name, row in rows.items()
        if row["slow_enough"]
        for side in OTHERS
        if not row[side]["equivalent"]
    ]


def table(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Lines of 80 columns."""
    yield f"{'median in ms of':20}{'C++':>8}{'Python':>8}{'edgekit':>8}{'edgekit / C++':>18}{'edgekit / Python':>18}"
    for name, row in rows.items():
        ms = "".join(f"{figure(row['ms'][side], 6):>8}" for side in (*OTHERS, "edgekit"))
        yield f"{name:20}{ms}{over(row, 'C++'):>18}{over(row, 'Python'):>18}"


def over(row: Mapping[str, Any], side: str) -> str:
    """What edgekit takes over that side with the 90 % interval, in at most 17 columns; of a fast network what is added."""
    ratio, added = row[side]["ratio"], row[side]["added_us"]
    if row["slow_enough"]:
        return "{median} {low}-{high}".format(**{key: figure(value, 5) for key, value in ratio.items()})
    digits = {key: f"{value:.{int(abs(value) < 10)}f}" for key, value in added.items()}
    return "{median} us {low}..{high}".format(**digits)


def figure(value: float, columns: int) -> str:
    """A positive number with as many decimals as the columns have room for."""
    return f"{value:.{columns}f}"[:columns].rstrip(".")


def noisy(record: Record) -> list[str]:
    """A line where edgekit itself says that these numbers are of a machine that did something else too."""
    every = [one for rounds in record.rounds.values() for one in rounds]
    count = sum(one.noise != "stable" for one in every)
    return [f"edgekit bench called the machine noisy in {count} of {len(every)} processes: repeat this"] if count else []


def loaded(file: Path, fresh: Record) -> Record:
    """What was recorded before under the conditions of ``fresh``; ends the program where it was recorded under others."""
    if not file.exists():
        return fresh
    try:
        record = msgspec.json.decode(file.read_bytes(), type=Record)
    except msgspec.DecodeError as problem:
        raise SystemExit(f"{file} is no result of this release: {problem}; give another --file, or remove it") from None
    differing = [name for name, value in fresh.conditions.items() if record.conditions.get(name) != value]
    if differing:
        sys.exit(f"{file} was recorded with another {' and '.join(differing)}; give another --file, or remove it")
    return record


def save(record: Record, file: Path) -> None:
    """Write the record whole or not at all."""
    write_bytes(file, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def judged(record: Record, file: Path) -> int:
    """Compare what was measured, write it, print it; gives the exit code."""
    record.compared = {name: compared(rounds) for name, rounds in record.rounds.items()}
    record.full = record.seconds >= SECONDS and min(map(len, record.rounds.values())) >= ROUNDS
    save(record, file)
    goals = missed(record.compared)
    lines = [*table(record.compared), *noisy(record), *(goals or ["every goal is reached"])]
    print("\n".join(lines))
    return int(bool(goals))


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=RESULT)
    parser.add_argument("--include", type=Path, help="the folder of onnxruntime_c_api.h")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    given = parser.parse_args(arguments)
    if not fewest_pairs(ALPHA) <= given.rounds <= MOST_PAIRS:
        parser.error(f"--rounds takes {fewest_pairs(ALPHA)} to {MOST_PAIRS}")
    compiler = answer("c++", "--version").splitlines()[0]
    record = loaded(given.file, Record(edgekit.__version__, ort.__version__, compiler, given.seconds, machine_facts()))
    if all(len(record.rounds.get(case_name(*case), ())) >= given.rounds for case in CASES):
        tell(f"{given.file} has these rounds; remove it to measure anew")
        return judged(record, given.file)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sides = timers(built(folder, header_folder(given.include)), folder / "state")
        cases = [case_of(name, batch, folder) for name, batch in CASES]
        measure(record, cases, sides, given.rounds, lambda: save(record, given.file))
    return judged(record, given.file)


if __name__ == "__main__":
    sys.exit(main())
