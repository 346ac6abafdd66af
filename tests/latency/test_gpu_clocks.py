"""What the timing loop does about a GPU's clocks, and says of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import msgspec
import pytest

import edgekit.latency.loop
from edgekit.backends.contract import DeviceTimes, Opened
from edgekit.backends.fake import FakeSession
from edgekit.latency.loop import Candidate, Timing, interleave, time_sessions
from edgekit.machine.gpu import GpuState
from edgekit.setups import Setup
from edgekit.tensors import Feed, TensorSpec
from tests.latency.turned_clock import MS, Clock, candidate, fake


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[GpuState]:
    """What the GPU says each time it is asked, the last of it for ever."""
    says = [GpuState(1980, 40, 300, ())]
    monkeypatch.setattr(edgekit.latency.loop, "gpu_state", lambda: says.pop(0) if len(says) > 1 else says[0])
    return says


def on_gpu(clock: Clock, name: str, ms: Callable[[], float]) -> Candidate:
    return Candidate(name, clock.work(name, ms), {"TF32": "off"}, on_gpu=True)


def test_a_gpu_works_until_its_clocks_have_risen_and_nothing_of_that_is_kept(clock: Clock, gpu: list[GpuState]) -> None:
    def ramping() -> float:
        return 4 if clock.now < 200 * MS else 1

    (one,) = interleave([on_gpu(clock, "A", ramping)], 1, "device", 0.05)
    assert {sample for block in (one.warmups_ms, *one.samples_ms) for sample in block} == {1.0}
    assert len(clock.calls) - one.count - len(one.warmups_ms) == 50
    clock.calls.clear()
    (other,) = interleave([candidate(clock, "B", lambda: 1)], 1, "device", 0.05)
    assert len(clock.calls) == other.count + len(other.warmups_ms)  # a CPU takes none


def test_a_gpu_that_sat_idle_while_the_cpu_worked_runs_longer_before_it_is_recorded(clock: Clock, gpu: list[GpuState]) -> None:
    names = {"cpu": candidate, "A": on_gpu, "B": on_gpu}
    sessions = [make(clock, name, lambda: 1) for name, make in names.items()]
    rows = interleave(sessions, 1, "device", 0.5)
    turns = [(name, len(list(calls))) for name, calls in groupby(clock.calls)]
    assert turns == [("cpu", 100), ("A", 300), ("B", 300)] + [("cpu", 110), ("A", 160), ("B", 110)] * 5
    assert [len(row.warmups_ms) for row in rows] == [150] * 3  # what wakes it is not kept
    clock.calls.clear()
    interleave([sessions[1], sessions[0]], 1, "device", 0.5)
    assert [len(list(calls)) for _, calls in groupby(clock.calls)] == [300, 100] + [160, 110] * 5  # from the first block on
    clock.calls.clear()
    interleave(sessions[1:], 1, "device", 0.5)
    assert [len(list(calls)) for _, calls in groupby(clock.calls)] == [300] * 2 + [110] * 10


@pytest.mark.parametrize(
    ("clocks", "expected"),
    [
        ((1200, 1900, 1500), "noisy: the GPU's clock moved between 1200 and 1900 MHz"),
        ((1709, 1900), "noisy: the GPU's clock moved between 1709 and 1900 MHz"),
        ((1710, None, 1900), "stable"),
        ((None,), "stable"),
    ],
)
def test_a_gpu_whose_clock_moves_is_noisy(
    clock: Clock, gpu: list[GpuState], clocks: tuple[int | None, ...], expected: str
) -> None:
    gpu[:] = [GpuState(mhz, None, None, ("its power limit",)) for mhz in clocks]
    rows = interleave([on_gpu(clock, "A", lambda: 1), candidate(clock, "B", lambda: 1)], 1, "device", 0.05)
    assert [row.noise for row in rows] == [expected, "stable"]


def test_the_cpus_clock_is_read_beside_the_blocks(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    when: list[int] = []

    def read() -> list[int]:
        when.append(len(clock.calls))
        return [2000 + len(when), 3000]

    monkeypatch.setattr(edgekit.latency.loop, "cpu_clocks_mhz", read)
    rows = interleave([candidate(clock, name, lambda: 1) for name in "AB"], 1, "device", 1.0)
    assert [row.facts for row in rows] == [{"runtime": name, "CPU clock": "2001 to 3000 MHz"} for name in "AB"]
    assert when == [200, len(clock.calls)]  # when the cores have warmed up, and at the end


def test_a_gpu_is_asked_after_each_block_and_its_state_is_in_the_facts_of_its_rows(clock: Clock, gpu: list[GpuState]) -> None:
    gpu[:] = [GpuState(1980, 40, 300, ()), GpuState(1790, 47, 350, ("its power limit",)), GpuState(1800, 45, None, ())]
    rows = interleave([on_gpu(clock, "A", lambda: 1), candidate(clock, "B", lambda: 1)], 1, "device", 0.05)
    assert rows[0].facts == {
        "TF32": "off",
        "GPU clock": "1790 to 1980 MHz",
        "GPU temperature": "40 to 47 °C",
        "GPU power": "300 to 350 W",
        "GPU slowed down by": "its power limit in 1 of 5 blocks",
    }
    assert rows[0].noise == "stable"  # a power limit is how a GPU runs under load
    assert rows[1].facts == {"runtime": "B"}


def test_a_gpu_slowed_down_by_heat_is_noisy(clock: Clock, gpu: list[GpuState]) -> None:
    gpu[:] = [GpuState(1980, None, None, ()), GpuState(1980, None, None, ("its power limit", "its hardware", "heat"))]
    rows = interleave([on_gpu(clock, "A", lambda: 1), candidate(clock, "B", lambda: 1)], 1, "device", 0.05)
    assert [row.noise for row in rows] == ["noisy: the GPU was slowed down by its hardware and heat", "stable"]
    assert rows[0].facts["GPU clock"] == "1980 MHz"
    assert rows[0].facts["GPU slowed down by"].endswith("heat in 4 of 5 blocks")
    assert "GPU power" not in rows[0].facts


def test_a_gpu_that_tells_nothing_adds_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgekit.latency.loop, "gpu_state", lambda: None)
    (one,) = interleave([on_gpu(clock, "A", lambda: 1)], 1, "device", 0.05)
    assert (one.facts, one.noise) == ({"TF32": "off"}, "stable")


def test_a_gpus_own_times_are_asked_for_when_its_clocks_have_risen(clock: Clock, gpu: list[GpuState]) -> None:
    class OnGpu(FakeSession):
        def device_times(self, feed: Feed, count: int) -> DeviceTimes:
            assert clock.calls[-200:] == ["A"] * 200  # the other one's block came before
            return DeviceTimes((0.5,) * count, launch_bound=True)

    sessions = OnGpu(lambda feed: {}, (TensorSpec("x", "float32", ("batch", 3)),))
    sessions.bind = lambda feed: clock.work("A", lambda: 1)  # type: ignore[method-assign]  # the method is replaced on purpose
    sessions.run = lambda feed: clock.work("A", lambda: 1)() or {}  # type: ignore[method-assign]  # the method is replaced on purpose
    other = fake("B", clock, 1, [])
    first = Opened("A", Setup("A"), sessions, on_gpu=True)
    rows, _ = time_sessions([first, other], Timing((1,), seconds=0.05))
    assert (rows[0].device_ms, rows[0].launch_bound) == ((0.5,) * 100, True)
    assert (rows[1].device_ms, rows[1].launch_bound) == ((), False)


@pytest.mark.parametrize(
    ("own", "bound", "expected"),
    [((), False, None), ((3.0, 2.0), False, 2.5), ((2.0, 2.5), True, 1.0), ((0.5, 0.25), True, 0.375)],
)
def test_an_upper_bound_of_the_gpus_time_is_no_more_than_what_the_host_measured(
    clock: Clock, own: tuple[float, ...], bound: bool, expected: float | None
) -> None:
    """On an H200 the calls behind one another fell into a slow moment of the host: at most 0.49 ms, where a call took 0.30."""
    (row,) = interleave([candidate(clock, "A", lambda: 1)], 1, "device", 0.05)
    assert row.median_ms == 1
    assert msgspec.structs.replace(row, device_ms=own, launch_bound=bound).own_clock_ms == expected
