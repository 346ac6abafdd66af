"""A clock that the tests turn."""

from __future__ import annotations

import pytest

import edgekit.latency.loop
from edgekit.machine.cpu import CpuTime
from tests.latency.turned_clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake_clock = Clock()
    monkeypatch.setattr(edgekit.latency.loop, "perf_counter_ns", fake_clock)
    monkeypatch.setattr(CpuTime, "now", lambda: CpuTime((fake_clock.calls and 1.0) or 0.0, 0.0, 0.0))  # nobody else is there
    monkeypatch.setattr(edgekit.latency.loop, "cpu_clocks_mhz", list)
    return fake_clock
