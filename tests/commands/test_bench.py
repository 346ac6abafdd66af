"""``edgekit bench``: its rows, its budget, and models that cannot run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit.latency.loop
from edgekit.backends import table
from edgekit.commands.bench import bench
from edgekit.errors import BundleError, UsageError
from edgekit.latency.loop import BOUNDARIES, Timing
from edgekit.reports.bench import BenchReport
from edgekit.setups import Setup
from tests.command_line import Command
from tests.ways import ways


def test_a_bundle_is_timed_on_every_runtime_and_its_report_goes_to_json_and_back(bundle: Path) -> None:
    report = bench(bundle, ways(threads=1), Timing(batches=(1, 3), seconds=0.01), budget_ms=1e9)
    names = list(dict.fromkeys(row.backend for row in report.rows))
    assert names[:2] == ["torch", "ort-cpu"]
    assert [(row.batch, row.boundary, row.backend) for row in report.rows] == [
        (batch, boundary, name) for batch in (1, 3) for boundary in BOUNDARIES for name in names
    ]
    for row in report.rows:
        assert row.count >= 5
        assert min(map(min, row.samples_ms)) > 0
        assert row.facts.get("threads", "1") == "1"  # an engine has no threads
    assert report.passed
    assert report.threads == 1
    assert report.overhead_us > 0
    assert {"cpu", "cores", "system", "python"} <= set(report.machine)
    assert {skipped.backend for skipped in report.skipped} == set(table()) - set(names)
    again = BenchReport.from_json(report.to_json())
    assert again == report
    assert again.rows[0].samples_ms == report.rows[0].samples_ms


def test_a_bundle_over_its_budget_fails(bundle: Path) -> None:
    report = bench(bundle, ways("ort-cpu", threads=1), Timing(batches=(1,), seconds=0.01), budget_ms=1e-9)
    assert not report.passed


def test_a_model_that_cannot_run_at_a_batch_is_one_sentence(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"input": np.zeros((3, 1, 5, 5), np.float32)}
    monkeypatch.setattr(edgekit.latency.loop, "sample_feed", lambda specs, batch: wrong)
    with pytest.raises(BundleError, match="3x1x5x5"):
        bench(bundle, ways("ort-cpu"), Timing(batches=(3,), seconds=0.01))


def test_a_source_at_the_command_line_reaches_the_backends_that_have_it(
    bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Setup] = []

    def stand_in(bundle: Path, setups: Sequence[Setup], *rest: Any, **more: Any) -> None:
        asked.extend(setups)
        raise UsageError("enough", "stop")

    monkeypatch.setattr("edgekit.commands.bench.bench", stand_in)
    assert run("bench", bundle, "--backend", "torch", "--source", "my.nets:make").code == 2
    assert [setup.options for setup in asked] == [{"source": "my.nets:make"}]
