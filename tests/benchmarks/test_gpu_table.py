"""The table in docs/results.md of the measurements of ``benchmarks/gpu_report.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gpu_table
import pytest
import results

from tests.fake_trt import GPU


def row(
    batch: int, boundary: str, median: float, own: float | None = None, noise: str = "stable", **more: bool
) -> dict[str, Any]:
    cells = {
        "backend": "tensorrt",
        "batch": batch,
        "boundary": boundary,
        "median_ms": median,
        "own_clock_ms": own,
        "noise": noise,
    }
    return cells | more


def side(folded: int, unfolded: int, error: float, *latency: dict[str, Any], passed: bool = True) -> dict[str, Any]:
    outputs = [{"normalised": error / 2, "problem": ""}, {"normalised": error, "problem": ""}]
    parity = [{"backend": "tensorrt", "passed": passed, "outputs": outputs}]
    return {"norms_folded": folded, "norms_kept": unfolded, "parity": parity, "latency": list(latency)}


DOCUMENT = {
    "gpu_report": 1,
    "gpu": GPU,
    "machine": {"cores": "6", "cpu": "Some CPU"},
    "versions": {"edgekit": "0.1.0", "tensorrt": "10.1"},
    "batches": [1, 8],
    "bundles": {
        "net": {
            "folded": side(
                1, 2, 4e-7, row(1, "device", 0.05123, 0.031, launch_bound=True), row(1, "end-to-end", 0.08, noise="noisy: drift"),
                row(8, "device", 1234.5, 1200.0), row(8, "end-to-end", 1300.0),
            ),
            "unfolded": side(0, 3, 2e-2, passed=False),
            "folded_over_unfolded": [
                {"backend": "tensorrt", "batch": 1, "ratio": 0.934, "low": 0.91, "high": 0.95},
                {"backend": "tensorrt", "batch": 8, "ratio": 0.97, "low": 0.9, "high": 1.01},
            ],
            "skipped": {"ort-cuda": "no CUDA in it; install the other", "ort-tensorrt": "no CUDA in it; install the other"},
            "failed": {"unfolded latency": "there is no memory"},
        },
        "late": {"not_measured": "the run ended before it"},
    },
}  # fmt: skip


def test_the_table_shows_both_sides_and_names_the_rest() -> None:
    first, _, *rows = gpu_table.markdown(DOCUMENT).splitlines()
    assert first.startswith(
        "**Pretended GPU (compute capability 8.7, CUDA 12.6, driver 540.4) beside 6 core(s) of Some CPU**; edgekit 0.1.0, "
    )
    assert rows == [
        "| bundle | backend | batch norm | error | batch 1 | batch 8 | folded/unfolded |",
        "|---|---|---|---|---|---|---|",
        "| net | tensorrt | 1 of 3 folded | 4.0e-07 | 0.0512 [≤0.031] / 0.08~ | 1234 [1200] / 1300 | 0.93, - |",
        "| net | tensorrt | unfolded | **FAIL** 2.0e-02 |  |  |  |",
        "",
        "- Not measured: ort-cuda, ort-tensorrt: no CUDA in it; install the other.",
        "- Not measured: late: the run ended before it.",
        "- **Failed**: net, unfolded latency: there is no memory.",
    ]


def test_the_page_takes_the_gpus_and_nothing_else_from_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "accuracy.json").write_text('{"lenet": {}}')
    (tmp_path / "trial.json").write_text(json.dumps({**DOCUMENT, "gpu": {}}))
    assert gpu_table.summary(tmp_path) == gpu_table.NONE_YET
    (tmp_path / "a.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "b.json").write_text(json.dumps(DOCUMENT))
    assert gpu_table.summary(tmp_path) == f"{gpu_table.markdown(DOCUMENT)}\n\n{gpu_table.markdown(DOCUMENT)}"
    monkeypatch.setattr(gpu_table, "summary", lambda: "the GPUs")
    assert results.numbers().endswith("\nthe GPUs\n")
