"""Candidates and rows on a clock that the tests turn, so that nothing here depends on how fast this machine is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgekit.backends.contract import Opened
from edgekit.backends.fake import FakeSession
from edgekit.latency.loop import Candidate, latency_report
from edgekit.reports.bench import LatencyReport
from edgekit.setups import Setup
from edgekit.tensors import Feed, TensorSpec

MS = 1_000_000


class Clock:
    """``perf_counter_ns`` of a machine on which only the work takes time."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.now

    def work(self, name: str, ms: Callable[[], float]) -> Callable[[], None]:
        def call() -> None:
            self.calls.append(name)
            self.now += round(ms() * MS)

        return call


def candidate(clock: Clock, name: str, ms: Callable[[], float]) -> Candidate:
    return Candidate(name, clock.work(name, ms), {"runtime": name})


def row(name: str, blocks: Sequence[Sequence[float]], batch: int = 1, boundary: str = "end-to-end") -> LatencyReport:
    return latency_report(Candidate(name, lambda: None, {}), batch, boundary, (), [tuple(block) for block in blocks])


def fake(name: str, clock: Clock, ms: float, seen: list[int]) -> Opened:
    work = clock.work(name, lambda: ms)

    def function(feed: Feed) -> dict[str, np.ndarray]:
        seen.append(len(feed["x"]))
        work()
        return {}

    session = FakeSession(function, (TensorSpec("x", "float32", ("batch", 3)),), facts={"made of": name})
    return Opened(name, Setup(name), session)
