"""Measure writers and readers of one bundle at the same time: moments without it, mixtures, and what is left over.

    python benchmarks/concurrent_writes.py --writes 200 --writers 2 --readers 2 --kills 20

Two networks are written in turn by every writer into one place. Each reader opens the bundle, reads its golden file, and checks
that both are of one of the two. Then writers are killed at random moments, and one more write must leave nothing behind. Writes
``benchmarks/results/concurrent_writes.json``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.folder import Bundle, open_bundle, write_bundle
from edgekit.errors import EdgekitError
from edgekit.machine.cpu import machine_facts

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "concurrent_writes.json"
SOURCES = ("lenet", "lenet-scratch")


def contents_of(bundle: Bundle) -> dict[str, bytes]:
    return {name: (bundle.root / name).read_bytes() for name in bundle.manifest.files}


def write(place: Path, count: int, told: Queue[Counter[str]]) -> None:
    """Write both networks in turn, and tell how often that failed with which sentence."""
    sources = [open_bundle(ROOT / "exported" / name) for name in SOURCES]
    contents = [contents_of(source) for source in sources]
    outcomes: Counter[str] = Counter()
    for number in range(count):
        which = (number + os.getpid()) % len(sources)
        try:
            write_bundle(place, sources[which].manifest, contents[which])
            outcomes["written"] += 1
        except EdgekitError as problem:
            outcomes[str(problem)[:120]] += 1
    told.put(outcomes)


def read(place: Path, over: Event, told: Queue[Counter[str]]) -> None:
    """Open the bundle and read its golden file over and over, and tell what came out."""
    known = {
        open_bundle(ROOT / "exported" / name).manifest.name: open_bundle(ROOT / "exported" / name).golden() for name in SOURCES
    }
    outcomes: Counter[str] = Counter()
    while not over.is_set():
        if not place.is_dir():
            outcomes["no folder"] += 1
        try:
            bundle = open_bundle(place)
            golden = bundle.golden()
            same = all(np.array_equal(array, golden.float64[name]) for name, array in known[bundle.manifest.name].float64.items())
            outcomes["whole" if same else "a mixture"] += 1
        except EdgekitError as problem:
            outcomes[str(problem)[:120]] += 1
    told.put(outcomes)


def endless(place: Path) -> None:
    source = open_bundle(ROOT / "exported" / SOURCES[0])
    contents = contents_of(source)
    while True:
        write_bundle(place, source.manifest, contents)


def killed(place: Path, times: int) -> dict[str, int]:
    """Kill writers at random moments; then one more write, and what is left besides the bundle."""
    chance, without = random.Random(0), 0
    for _ in range(times):
        writer = multiprocessing.Process(target=endless, args=(place,))
        writer.start()
        time.sleep(chance.uniform(0.3, 0.6))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        try:
            open_bundle(place).golden()
        except EdgekitError:
            without += 1
    before = len(os.listdir(place.parent)) - 1
    source = open_bundle(ROOT / "exported" / SOURCES[0])
    write_bundle(place, source.manifest, contents_of(source))
    return {
        "kills": times,
        "bundles_lost": without,
        "left_by_kills": before,
        "left_after_a_write": len(os.listdir(place.parent)) - 1,
    }


def together(place: Path, writes: int, writers: int, readers: int) -> dict[str, Any]:
    """All at once; every outcome with its number."""
    over = multiprocessing.Event()
    told: dict[str, Queue[Counter[str]]] = {"writers": multiprocessing.Queue(), "readers": multiprocessing.Queue()}
    started = time.perf_counter()
    writing = [multiprocessing.Process(target=write, args=(place, writes // writers, told["writers"])) for _ in range(writers)]
    reading = [multiprocessing.Process(target=read, args=(place, over, told["readers"])) for _ in range(readers)]
    for process in (*reading, *writing):
        process.start()
    wrote = sum((told["writers"].get() for _ in writing), Counter())
    over.set()
    saw = sum((told["readers"].get() for _ in reading), Counter())
    for process in (*writing, *reading):
        process.join()
    return {"writers": writers, "readers": readers, "writes": dict(wrote), "reads": dict(saw),
            "left_over": len(os.listdir(place.parent)) - 1, "seconds": round(time.perf_counter() - started, 1)}  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("writes", 200), ("writers", 2), ("readers", 2), ("kills", 20)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "bundle")
        shutil.copytree(ROOT / "exported" / SOURCES[0], place)
        result = {
            "together": together(place, given.writes, given.writers, given.readers),
            "killed": killed(place, given.kills),
            "machine": machine_facts(),
        }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps({name: result[name] for name in ("together", "killed")}, indent=2) + "\n")


if __name__ == "__main__":
    main()
