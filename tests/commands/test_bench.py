"""``edgekit bench`` on a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgekit.latency.loop
from edgekit.backends import table
from edgekit.commands.bench import bench
from edgekit.errors import BundleError
from edgekit.latency.loop import BOUNDARIES, Timing
from edgekit.reports.bench import BenchReport
from tests.ways import ways


def test_a_bundle_is_timed_on_every_runtime_and_its_report_goes_to_json_and_back(bundle: Path) -> None:
    found = bench(bundle, ways(threads=1), Timing(batches=(1, 3), seconds=0.01), budget_ms=1e9)
    names = list(dict.fromkeys(one.backend for one in found.rows))
    assert names[:2] == ["torch", "ort-cpu"]
    assert [(one.batch, one.boundary, one.backend) for one in found.rows] == [
        (batch, boundary, name) for batch in (1, 3) for boundary in BOUNDARIES for name in names
    ]
    for one in found.rows:
        assert one.count >= 5
        assert min(map(min, one.samples_ms)) > 0
        assert one.facts.get("threads", "1") == "1"  # an engine has none
    assert found.passed
    assert found.threads == 1
    assert found.overhead_us > 0
    assert {"cpu", "cores", "system", "python"} <= set(found.machine)
    assert {one.backend for one in found.skipped} == set(table()) - set(names)
    again = BenchReport.from_json(found.to_json())
    assert again == found
    assert again.rows[0].samples_ms == found.rows[0].samples_ms


def test_a_bundle_over_its_budget_fails(bundle: Path) -> None:
    found = bench(bundle, ways("ort-cpu", threads=1), Timing(batches=(1,), seconds=0.01), budget_ms=1e-9)
    assert not found.passed


def test_a_model_that_cannot_run_at_a_batch_is_one_sentence(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"input": np.zeros((3, 1, 5, 5), np.float32)}
    monkeypatch.setattr(edgekit.latency.loop, "sample_feed", lambda specs, batch: wrong)
    with pytest.raises(BundleError, match="3x1x5x5"):
        bench(bundle, ways("ort-cpu"), Timing(batches=(3,), seconds=0.01))
