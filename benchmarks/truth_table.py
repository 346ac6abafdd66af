"""What ``gate_truth.py`` and ``bench_truth.py`` have found, in Markdown, for ``docs/comparing.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def gate_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The gate's verdicts by what was compared."""
    verdicts = ("slower", "not slower", "undecided")
    yield f"Verdicts of the gate on {record['machine']['cpu']}, {record['machine']['cores']} cores (`benchmarks/gate_truth.py`):"
    yield ""
    yield f"| what | {' | '.join(verdicts)} |"
    yield "|---|---|---|---|"
    for what, counts in record["decided"].items():
        yield f"| {what} | {' | '.join(str(counts.get(verdict, 0)) for verdict in verdicts)} |"


def bench_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The medians of edgekit beside those of a loop in C++."""
    machine = result["machine"]
    yield (
        f"Medians of {result['pairs']} fresh processes each, in turns, ONNX Runtime {result['onnxruntime']}, one thread of "
        f"{machine['cpu']} (`benchmarks/bench_truth.py`):"
    )
    yield ""
    yield "| network | C++, C API | edgekit | bare Python | edgekit over C++ (90 % interval) | |"
    yield "|---|---|---|---|---|---|"
    for name, row in result["cases"].items():
        ms, over = row["ms"], row["edgekit over c++"]
        times = " | ".join(f"{ms[side]:.3g} ms" for side in ("c++", "edgekit", "python"))
        yield f"| {name} | {times} | {over['ratio']:.3f} ({over['low']:.3f} to {over['high']:.3f}) | {_verdict(row)} |"


def _verdict(row: Mapping[str, Any]) -> str:
    if not row["slow_enough"]:
        return f"edgekit adds {row['added_us']:.1f} µs"
    return "within 3 %" if row["equivalent"] else "not shown to be within 3 %"
