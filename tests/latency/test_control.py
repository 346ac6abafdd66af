"""The reference network: it is there, it is small, and it runs as what is compared does."""

from __future__ import annotations

import pytest

import edgekit.latency.control
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import open_bundle
from edgekit.latency.control import NETWORK, control_of, controls_of
from edgekit.setups import Absence, Setup

FROZEN = "635d4be3264475fc"


def test_the_network_is_whole_small_and_the_one_that_earlier_reports_have_timed() -> None:
    bundle = open_bundle(NETWORK)
    assert bundle.sha256.startswith(FROZEN)
    assert sum(file.stat().st_size for file in NETWORK.iterdir()) < 300_000


def test_it_runs_once_on_each_backend_and_thread_count_of_what_is_compared() -> None:
    setups = [
        Setup("ort-cpu", "int8", 1, (1,), {"optimisation": "off"}),
        Setup("ort-cpu", threads=2),
        Setup("ort-cpu", threads=1),
    ]
    things = controls_of(setups)
    assert [str(thing.setup) for thing in things] == ["ort-cpu threads=1", "ort-cpu threads=2"]
    assert {(thing.bundle, thing.batch, thing.boundary) for thing in things} == {(NETWORK, 1, "end-to-end")}


def test_no_backend_stands_for_one_that_cannot_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    things = controls_of([Setup("torch", threads=1), Setup("ort-cpu", threads=1)])  # torch has no module of it
    assert [thing.setup for thing in things] == [control_of(Setup("ort-cpu", "int8", 1))]

    def nowhere(setup: Setup, files: ModelFiles) -> Absence:
        return Absence("no runtime", "install one")

    monkeypatch.setattr(edgekit.latency.control, "absence", nowhere)
    assert controls_of([Setup("ort-cpu", threads=1)]) == ()
