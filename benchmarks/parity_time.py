"""Time verify, export and bisect against an earlier commit, in turns, and print ratios.

    python benchmarks/parity_time.py --before 9b02e8b      # a commit of this repository; --rounds N

Each side runs in a process of its own, warm (imports and a first call left out), on its own committed bundles. Writes
``benchmarks/results/parity_time.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgekit.machine.cpu import machine_facts

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "parity_time.json"
WORK = {
    "verify lenet": "from edgekit.commands.verify import verify as f; call = lambda: f('exported/lenet', ('ort-cpu',))",
    "verify densenet": "from edgekit.commands.verify import verify as f; call = lambda: f('exported/densenet', ('ort-cpu',))",
    "export lenet": "from edgekit.commands.export import export as f; call = lambda: f('lenet', OUT)",
    "export densenet": "from edgekit.commands.export import export as f; call = lambda: f('densenet', OUT)",
}
TIMED = """
import time
call()
times = []
for _ in range(N):
    began = time.perf_counter()
    call()
    times.append(time.perf_counter() - began)
print(times)
"""
CALLS = {"verify": 10, "export": 2}


def seconds(folder: Path, work: str) -> list[float]:
    """The seconds of each call in a process that runs the code of ``folder``."""
    with tempfile.TemporaryDirectory() as out:
        calls = CALLS[work.split(maxsplit=1)[0]]
        program = f"OUT, N = {str(Path(out) / 'bundle')!r}, {calls}\n{WORK[work]}\n{TIMED}"
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, metavar="COMMIT")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    results: dict[str, Any] = {"machine": machine_facts(), "before": given.before, "rows": {}}
    with tempfile.TemporaryDirectory() as scratch:
        before = Path(scratch) / "before"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(before), given.before], cwd=ROOT, check=True)
        try:
            for work in WORK:
                sides: dict[Path, list[float]] = {before: [], ROOT: []}
                for _ in range(given.rounds):
                    for folder in sides:
                        sides[folder] += seconds(folder, work)
                old, new = (statistics.median(times) for times in sides.values())
                results["rows"][work] = {"before_s": round(old, 4), "now_s": round(new, 4), "ratio": round(new / old, 2)}
                print(f"{work}: {old:.3f} s -> {new:.3f} s, x{new / old:.2f}", flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=ROOT, check=True)
    RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
