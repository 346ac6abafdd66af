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


ASKED = """\
The end-to-end median of `edgekit bench`, against the least that a program can do: a loop in C++ over ONNX Runtime's C API, and
one in Python over `onnxruntime` alone. The same library, thread, input and boundary; fresh processes that take turns. From 0.2 ms
on the whole 90 % interval of the ratio is to lie within 3 % (TOST, two one-sided tests). A faster network shows in microseconds
what a call from Python costs, which is in every number that a Python program sees."""


def bench_lines(record: Mapping[str, Any] | None) -> Iterator[str]:
    """The medians of ``edgekit bench`` beside those of a loop in C++ and of one in Python; None: not measured."""
    yield from (ASKED, "")
    if record is None:
        yield "Not measured on a quiet machine yet: `python benchmarks/bench_truth.py` does it in about five minutes."
        return
    if not record["full"]:
        yield from ("**A trial, too short to tell anything:** run `python benchmarks/bench_truth.py` on a quiet machine.", "")
    every = [one for rounds in record["rounds"].values() for one in rounds]
    noisy = sum(one["noise"] != "stable" for one in every)
    processes = len(every) // len(record["rounds"])
    yield (
        f"Medians of {processes} fresh processes each, ONNX Runtime {record['onnxruntime']}, one thread of "
        f"{record['machine']['cpu']} (`benchmarks/bench_truth.py`). `edgekit bench` called the machine noisy in {noisy} of its "
        f"{len(every)} processes."
    )
    yield ""
    yield "| network, batch | C++ | bare Python | `edgekit bench` | over C++ (90 % interval) | over bare Python (90 % interval) |"
    yield "|---|---|---|---|---|---|"
    for name, row in record["compared"].items():
        times = [f"{row['ms'][side]:.3g} ms" for side in ("C++", "Python", "edgekit")]
        yield f"| {' | '.join((name, *times, *(_over(row, side) for side in ('C++', 'Python'))))} |"


def _over(row: Mapping[str, Any], side: str) -> str:
    own = row[side]
    if not row["slow_enough"]:
        return "{median:+.1f} µs ({low:.1f} to {high:.1f})".format(**own["added_us"])
    verdict = "within 3 %" if own["equivalent"] else "not shown to be within 3 %"
    ratio = "{median:.3f} ({low:.3f} to {high:.3f})".format(**own["ratio"])
    return f"{ratio}, {own['added_us']['median']:+.1f} µs, {verdict}"
