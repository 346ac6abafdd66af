"""Fixtures: a trial of the GPU report on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import gpu_report
import pytest

from edgekit.bundle.folder import open_bundle
from tests.benchmarks.trials import Trial, report
from tests.fake_trt import GPU


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)


@pytest.fixture(scope="module")
def trial(_lenet_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A run of the report on the CPU, and the unfolded bundle that it exported."""
    folder, export = tmp_path_factory.mktemp("trial"), gpu_report.other_side
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
        monkeypatch.setattr(gpu_report, "gpu_facts", lambda: dict(GPU))
        monkeypatch.setattr(gpu_report, "other_side", lambda bundle, root, **how: export(bundle, folder / "unfolded", **how))
        backends = ("--backend", "torch", "--backend", "ort-cpu")
        arguments = (
            "--on-cpu",
            *backends,
            "--seconds",
            "0.01",
            "--batch",
            "1,2",
            "--raw",
            folder / "raw",
            "--bundle",
            _lenet_export,
        )
        run = report(folder / "cpu.json", *arguments)
    return Trial(run, run.document["bundles"]["bundle"], folder / "raw", open_bundle(folder / "unfolded"))


@pytest.fixture
def _exported_before(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reuse the unfolded bundle of ``trial``, because exporting takes a second."""
    monkeypatch.setattr(gpu_report, "other_side", lambda *_, **__: trial.unfolded)
