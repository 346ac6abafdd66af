"""Would the tests notice? Changes single places of edgekit, one at a time, and runs the tests that execute the changed line.

    python benchmarks/mutations.py coverage                 # once: which test executes which line
    python benchmarks/mutations.py run --sites 300          # resumable; results/mutations.json grows site by site
    python benchmarks/mutations.py run --again survived     # after tests were added
    python benchmarks/mutations.py show

The sites are a seeded sample over all rooms of ``edgekit/``, in proportion to their sites. A site is killed where a test fails
that passes without the fault, or the tests do not end. ``read`` in the result file says what a reader found out about a survivor.
Leave the working tree alone while this runs, or run it in a worktree of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mutation_sites import Site, mutated, sites

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mutations.json"
WORK = ROOT / ".mutations"
COVERAGE, DURATIONS = WORK / "coverage.db", WORK / "durations.json"
SEED, SECONDS, TESTS = 20261126, 150, 60
"""The sample's seed, the longest run of a site's tests, and how many tests a site gets at most."""
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider")


def sample(root: Path, count: int, seed: int = SEED) -> list[Site]:
    """``count`` sites of ``edgekit/``, every room with its share, in an order that mixes the rooms."""
    rooms: dict[str, list[Site]] = {}
    for path in sorted((root / "edgekit").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        rooms.setdefault(room_of(name), []).extend(sites(path.read_text(encoding="utf-8"), name))
    total, chance = sum(map(len, rooms.values())), random.Random(seed)
    chosen = [
        site for found in rooms.values() for site in chance.sample(found, min(len(found), round(count * len(found) / total)))
    ]
    chance.shuffle(chosen)
    return chosen[:count]


def room_of(file: str) -> str:
    """The folder of a file below edgekit/, or ``ground`` for files at its top."""
    parts = file.split("/")
    return parts[1] if len(parts) > 2 else "ground"


def measure_coverage() -> None:
    """Run the whole suite once, and keep which test executes which line, and how long each test takes."""
    WORK.mkdir(exist_ok=True)
    settings = WORK / "coveragerc"
    settings.write_text(f"[run]\nsource = {ROOT / 'edgekit'}\ndata_file = {COVERAGE}\nparallel = true\n")
    command = (sys.executable, "-m", "pytest", "-q", "-n", "2", f"--cov-config={settings}", "--cov", "--cov-context=test",
               "--cov-report=", "--durations=0", "--durations-min=0")  # fmt: skip
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    durations: dict[str, float] = {}
    for seconds, test in re.findall(r"^([0-9.]+)s (?:call|setup|teardown) +(\S.*)$", text, re.MULTILINE):
        durations[test] = durations.get(test, 0.0) + float(seconds)
    DURATIONS.write_text(json.dumps(durations))
    sys.stderr.write(text[-300:])


def lines_with_tests(path: Path) -> dict[tuple[str, int], set[str]]:
    """(file below the root, line) -> the tests that execute it."""
    lines: dict[tuple[str, int], set[str]] = {}
    with sqlite3.connect(path) as database:
        contexts = {
            number: name.partition("|")[0] for number, name in database.execute("select id, context from context") if name
        }
        files = {
            number: Path(name).relative_to(ROOT).as_posix() for number, name in database.execute("select id, path from file")
        }
        for file, context, bits in database.execute("select file_id, context_id, numbits from line_bits"):
            if context in contexts:
                for line in _lines(bits):
                    lines.setdefault((files[file], line), set()).add(contexts[context])
    return lines


def _lines(bits: bytes) -> Iterator[int]:
    return (8 * place + bit for place, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1)


def chosen_tests(site: Site, lines: dict[tuple[str, int], set[str]], durations: dict[str, float]) -> list[str]:
    """The tests that execute the site's line, the quickest first, then the files that mirror its module for child processes."""
    last = site.line + site.before.count("\n")
    tests = set().union(*(lines.get((site.file, line), set()) for line in range(site.line, last + 1)))
    quickest = sorted(tests, key=lambda test: (durations.get(test, 0.0), test))
    if len(quickest) > TESTS:  # of every file at least one
        files: dict[str, str] = {}
        for test in quickest:
            files.setdefault(test.partition("::")[0], test)
        quickest = list(dict.fromkeys([*quickest[:TESTS], *files.values()]))
    return quickest + mirrors(site.file, whole_room=not quickest)


def mirrors(file: str, whole_room: bool) -> list[str]:
    """Test files that may run the module in child processes, or use what importing it defines: coverage does not see them.

    They are named after the module. Where no test is known to execute the line, they are those of its room.
    """
    stem, inside = Path(file).stem, Path(file).relative_to("edgekit")
    rooms = [room for room in (ROOT / "tests" / inside.parent, ROOT / "tests" / inside.parent.parent) if room != ROOT / "tests"]
    names = {f"test_{stem}.py", f"test_{Path(file).parent.name}.py"}
    candidates = [path for room in (*rooms, ROOT / "tests") if room.is_dir() for path in room.glob("test_*.py")]
    if whole_room and rooms:
        return sorted({path.relative_to(ROOT).as_posix() for path in candidates if path.parent in rooms or path.name in names})
    return sorted({path.relative_to(ROOT).as_posix() for path in candidates if path.name in names})


def judged(site: Site, tests: Sequence[str], place: Path) -> dict[str, Any]:
    """Run the tests on the changed copy in ``place``, which is then restored; whether one failed, and which."""
    path = place / site.file
    source = path.read_text(encoding="utf-8")
    changed = mutated(source, site)
    row: dict[str, Any] = {"file": site.file, "function": site.function, "kind": site.kind, "line": site.line,
                           "before": site.before, "after": site.after, "tests": len(tests)}  # fmt: skip
    if not tests:
        return row | {"outcome": "survived", "by": "no test executes the line"}
    path.write_text(changed, encoding="utf-8")
    try:
        failed = _first_failure(place, tests)
    finally:
        path.write_text(source, encoding="utf-8")
    if not failed:
        return row | {"outcome": "survived"}
    if "::" in failed and _first_failure(place, [failed]):
        return row | {"outcome": "unclear", "by": f"{failed} fails without the fault too"}
    return row | {"outcome": "killed", "by": failed}


def _first_failure(place: Path, tests: Sequence[str]) -> str:
    """The first of the tests that fails in ``place``, or how pytest ended; empty where all pass."""
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    command = (*PYTEST, "-x", *tests)
    try:
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"tests do not end within {SECONDS} s"
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return "" if done.returncode == 0 else failed[1] if failed else f"pytest ends with {done.returncode}"


class Campaign:
    """The result file, written after every site, and the sites that are still to be tried."""

    def __init__(self, path: Path = RESULTS) -> None:
        self.path, self.lock = path, threading.Lock()
        self.rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["sites"] if path.is_file() else {}

    def pending(self, chosen: Iterable[Site], again: str = "") -> list[Site]:
        """Sites without an outcome, or whose outcome is ``again``."""
        return [
            site for site in chosen if self.rows.get(site.key, {}).get("outcome", again) == again or site.key not in self.rows
        ]

    def record(self, site: Site, row: dict[str, Any]) -> None:
        """Keep a site's outcome, and what a reader found out about it."""
        with self.lock:
            reading = self.rows.get(site.key, {}).get("read", "")
            self.rows[site.key] = row | ({"read": reading} if reading else {})
            content = json.dumps({"seed": SEED, "sites": dict(sorted(self.rows.items()))}, indent=1, ensure_ascii=False)
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(content + "\n", encoding="utf-8")
            temporary.replace(self.path)


def run(count: int, workers: int, again: str) -> None:
    """Try every pending site of the sample, ``workers`` at a time."""
    lines, durations = lines_with_tests(COVERAGE), json.loads(DURATIONS.read_text())
    campaign = Campaign()
    todo = campaign.pending(sample(ROOT, count), again)
    places: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        for worker in range(workers):
            places.append(Path(folder, str(worker)))
            _copy(places[-1])

        def work(site: Site) -> None:
            place = places.pop()
            try:
                row = judged(site, chosen_tests(site, lines, durations), place)
            finally:
                places.append(place)
            campaign.record(site, row)
            sys.stdout.write(f"{row['outcome']:9} {site.file}:{site.line} {site.kind}: {row.get('by', '')}\n")
            sys.stdout.flush()

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, todo))


def _copy(place: Path) -> None:
    """All files of the repository but those that git ignores."""
    listed = subprocess.run(
        ("git", "ls-files", "-coz", "--exclude-standard"), cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)


def show(rows: dict[str, dict[str, Any]]) -> str:
    """A table by room, then every survivor with its reading."""
    tables: dict[str, Counter[str]] = {}
    for row in rows.values():
        reading = row.get("read", "") if row["outcome"] == "survived" else ""
        outcome = next((word for word in ("equivalent", "killed") if reading.startswith(word)), row["outcome"])
        tables.setdefault(room_of(row["file"]), Counter())[outcome] += 1
    total = sum(tables.values(), Counter())
    text = [f"{'room':12} {'killed':>7} {'survived':>9} {'equivalent':>11} {'share':>6}"]
    for room, counts in [*sorted(tables.items()), ("all", total)]:
        share = counts["killed"] / max(1, counts["killed"] + counts["survived"])
        text.append(f"{room:12} {counts['killed']:7} {counts['survived']:9} {counts['equivalent']:11} {share:6.0%}")
    for row in rows.values():
        if row["outcome"] == "survived":
            text.append(
                f"{row['file']}:{row['line']} {row['kind']}: {row['before']!r} -> {row['after']!r}: {row.get('read', 'unread')}"
            )
    return "\n".join(text) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("coverage", "run", "show"))
    parser.add_argument("--sites", type=int, default=300, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--again", default="", metavar="OUTCOME", help="also sites with this outcome, like survived")
    given = parser.parse_args()
    if given.command == "coverage":
        measure_coverage()
    elif given.command == "run":
        run(given.sites, given.workers, given.again)
    else:
        sys.stdout.write(show(Campaign().rows))


if __name__ == "__main__":
    main()
