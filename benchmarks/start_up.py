"""Time ``edgekit --help`` and an interpreter that does nothing, in turns; the best and the median of many runs.

    python benchmarks/start_up.py

The script writes ``benchmarks/results/start_up.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from edgekit.machine.cpu import machine_facts

RESULT = Path(__file__).parent / "results" / "start_up.json"
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "edgekit --help": [sys.executable, "-m", "edgekit", "--help"],
}


def main(rounds: int = 20) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    ordered = {name: sorted(values) for name, values in seconds.items()}
    result = {
        "best_seconds": {name: round(values[0], 4) for name, values in ordered.items()},
        "median_seconds": {name: round(values[len(values) // 2], 4) for name, values in ordered.items()},
        "machine": machine_facts(),
    }
    RESULT.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    print(json.dumps(result["median_seconds"]))


if __name__ == "__main__":
    main()
