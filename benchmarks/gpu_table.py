"""Markdown tables of the result files of ``benchmarks/gpu_report.py``; ``docs/results.py`` puts them into docs/results.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("folded", "unfolded")
ORIGINAL = ("torch", "torch-cuda")  # these run the original module for every file, so they have no folded side
NONE_YET = "No GPU has been measured yet; on a machine with a GPU, run `python benchmarks/gpu_report.py`."


def summary(folder: Path = RESULTS) -> str:
    """The table of each measured GPU, or a sentence that says how to measure."""
    documents = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    tables = [markdown(document) for document in documents if document.get("gpu_report") and document["gpu"]]
    return "\n\n".join(tables) or NONE_YET


def markdown(document: Mapping[str, Any]) -> str:
    """A table: the GPU, a row for each bundle, backend and side, and notes on skipped and failed measurements."""
    batches = document["batches"]
    return "\n".join(
        [
            what_it_is(document),
            "",
            f"| bundle | backend | batch norm | error | {' | '.join(f'batch {batch}' for batch in batches)} | folded/unfolded |",
            "|---|---|---|---|" + "---|" * (len(batches) + 1),
            *(row for name, bundle in document["bundles"].items() for row in table_rows(name, bundle, batches)),
            "",
            *(f"- {line}" for line in beside_the_rows(document["bundles"])),
        ]
    )


def what_it_is(document: Mapping[str, Any]) -> str:
    """The machine, its tools, and how to read the rows."""
    gpu, machine = document["gpu"], document["machine"]
    hardware = f"{machine['cores']} core(s) of {machine['cpu']}"
    if gpu:
        facts = [f"compute capability {gpu['compute capability']}", f"CUDA {gpu['cuda driver']}"]
        facts += [f"driver {gpu['driver']}"] if gpu["driver"] else []
        hardware = f"{gpu['gpu']} ({', '.join(facts)}) beside {hardware}"
    tools = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    return (
        f"**{hardware}**; {tools}. Medians in ms: device / end-to-end, in brackets by the GPU's own clock (≤: an upper bound, "
        "because the GPU waited for the host to queue the calls); ~: noisy, the result file says why. Error: of the scale, "
        "against float64. Folded/unfolded: device times measured in turns, for each batch; -: no difference (1 is in the 95 % "
        "interval)."
    )


def table_rows(name: str, bundle: Mapping[str, Any], batches: Sequence[int]) -> Iterator[str]:
    """The rows of a bundle, the two sides of a backend one below the other."""
    sides = {network: bundle[network] for network in NETWORKS if network in bundle}
    measured = [row for side in sides.values() for row in (*side["parity"], *side["latency"])]
    for backend in dict.fromkeys(row["backend"] for row in measured):
        for network, side in sides.items():
            if network == "folded" and backend in ORIGINAL:
                continue
            error = next((worst(row) for row in side["parity"] if row["backend"] == backend), "failed")
            times = [time_cell(side["latency"], backend, batch) for batch in batches]
            gain = ratio_cell(bundle["folded_over_unfolded"], backend, batches) if network == "folded" else ""
            yield f"| {' | '.join([name, backend, norms(network, side), error, *times, gain])} |"


def norms(network: str, side: Mapping[str, Any]) -> str:
    """The number of folded batch norms of a side, in words."""
    total = side["norms_folded"] + side["norms_kept"]
    return f"{side['norms_folded']} of {total} folded" if network == "folded" else "unfolded"


def worst(row: Mapping[str, Any]) -> str:
    """The largest error of the outputs, or the problem of an output without an error."""
    output = max(row["outputs"], key=lambda diff: diff["normalised"])
    return f"{'' if row['passed'] else '**FAIL** '}{output['problem'] or format(output['normalised'], '.1e')}"


def time_cell(rows: Sequence[Mapping[str, Any]], backend: str, batch: int) -> str:
    """The medians of a backend at a batch size; empty if the backend was not timed."""
    timed = {row["boundary"]: row for row in rows if row["backend"] == backend and row["batch"] == batch}
    if not timed:
        return ""
    device, whole = (
        f"{ms(timed[boundary]['median_ms'])}{'~' * (timed[boundary]['noise'] != 'stable')}"
        for boundary in ("device", "end-to-end")
    )
    own, at_most = timed["device"]["own_clock_ms"], "≤" * timed["device"].get("launch_bound", False)
    return f"{device} / {whole}" if own is None else f"{device} [{at_most}{ms(own)}] / {whole}"


def ratio_cell(rows: Sequence[Mapping[str, Any]], backend: str, batches: Sequence[int]) -> str:
    """Folded over unfolded of a backend, batch by batch."""
    measured = {row["batch"]: row for row in rows if row["backend"] == backend}
    ordered = [measured[batch] for batch in batches if batch in measured]
    return ", ".join("-" if row["low"] <= 1 <= row["high"] else f"{row['ratio']:.2f}" for row in ordered)


def ms(value: float) -> str:
    """Milliseconds to three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def beside_the_rows(bundles: Mapping[str, Any]) -> Iterator[str]:
    """A line for each reason why something was not measured, and a line for each failure."""
    reasons: dict[str, list[str]] = {}
    for name, bundle in bundles.items():
        if "not_measured" in bundle:
            reasons.setdefault(bundle["not_measured"], []).append(name)
        for backend, reason in bundle.get("skipped", {}).items():
            reasons.setdefault(reason, []).append(backend)
    for reason, names in reasons.items():
        yield f"Not measured: {', '.join(dict.fromkeys(names))}: {reason}."
    for name, bundle in bundles.items():
        for step, sentence in bundle.get("failed", {}).items():
            yield f"**Failed**: {name}, {step}: {sentence}."
