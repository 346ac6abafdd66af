"""Latency on a clock that the tests turn, so that nothing here depends on how fast this machine is."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
import pytest

import edgekit.latency.loop
from edgekit.backends import table
from edgekit.backends.contract import DeviceTimes, Opened
from edgekit.backends.fake import FakeSession
from edgekit.commands.bench import bench
from edgekit.errors import BundleError
from edgekit.latency.loop import BOUNDARIES, Candidate, Timing, interleave, latency_report, overhead_us, time_block, time_sessions
from edgekit.latency.statistics import median_interval, noise, samples_needed, speedups
from edgekit.machine.cpu import CpuTime
from edgekit.machine.gpu import GpuState
from edgekit.reports.bench import BenchReport, LatencyReport
from edgekit.setups import Setup
from edgekit.tensors import Feed, TensorSpec
from tests.ways import ways

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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(edgekit.latency.loop, "perf_counter_ns", made)
    monkeypatch.setattr(CpuTime, "now", lambda: CpuTime((made.calls and 1.0) or 0.0, 0.0, 0.0))  # nobody else is there
    monkeypatch.setattr(edgekit.latency.loop, "cpu_clocks_mhz", list)
    return made


def candidate(clock: Clock, name: str, ms: Callable[[], float]) -> Candidate:
    return Candidate(name, clock.work(name, ms), {"runtime": name})


def row(name: str, blocks: Sequence[Sequence[float]], batch: int = 1, boundary: str = "end-to-end") -> LatencyReport:
    return latency_report(Candidate(name, lambda: None, {}), batch, boundary, (), [tuple(block) for block in blocks])


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
    made = [make(clock, name, lambda: 1) for name, make in names.items()]
    rows = interleave(made, 1, "device", 0.5)
    turns = [(name, len(list(calls))) for name, calls in groupby(clock.calls)]
    assert turns == [("cpu", 100), ("A", 300), ("B", 300)] + [("cpu", 110), ("A", 160), ("B", 110)] * 5
    assert [len(one.warmups_ms) for one in rows] == [150] * 3  # what wakes it is not kept
    clock.calls.clear()
    interleave([made[1], made[0]], 1, "device", 0.5)
    assert [len(list(calls)) for _, calls in groupby(clock.calls)] == [300, 100] + [160, 110] * 5  # from the first block on
    clock.calls.clear()
    interleave(made[1:], 1, "device", 0.5)
    assert [len(list(calls)) for _, calls in groupby(clock.calls)] == [300] * 2 + [110] * 10


@pytest.mark.parametrize(
    ("clocks", "told"),
    [
        ((1200, 1900, 1500), "noisy: the GPU's clock moved between 1200 and 1900 MHz"),
        ((1709, 1900), "noisy: the GPU's clock moved between 1709 and 1900 MHz"),
        ((1710, None, 1900), "stable"),
        ((None,), "stable"),
    ],
)
def test_a_gpu_whose_clock_moves_is_noisy(clock: Clock, gpu: list[GpuState], clocks: tuple[int | None, ...], told: str) -> None:
    gpu[:] = [GpuState(mhz, None, None, ("its power limit",)) for mhz in clocks]
    rows = interleave([on_gpu(clock, "A", lambda: 1), candidate(clock, "B", lambda: 1)], 1, "device", 0.05)
    assert [one.noise for one in rows] == [told, "stable"]


def test_the_cpus_clock_is_read_beside_the_blocks(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    when: list[int] = []

    def read() -> list[int]:
        when.append(len(clock.calls))
        return [2000 + len(when), 3000]

    monkeypatch.setattr(edgekit.latency.loop, "cpu_clocks_mhz", read)
    rows = interleave([candidate(clock, name, lambda: 1) for name in "AB"], 1, "device", 1.0)
    assert [one.facts for one in rows] == [{"runtime": name, "CPU clock": "2001 to 3000 MHz"} for name in "AB"]
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
    assert [one.noise for one in rows] == ["noisy: the GPU was slowed down by its hardware and heat", "stable"]
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

    made = OnGpu(lambda feed: {}, (TensorSpec("x", "float32", ("batch", 3)),))
    made.bind = lambda feed: clock.work("A", lambda: 1)  # type: ignore[method-assign]
    made.run = lambda feed: clock.work("A", lambda: 1)() or {}  # type: ignore[method-assign]
    other = fake("B", clock, 1, [])
    first = Opened("A", Setup("A"), made, on_gpu=True)
    rows, _ = time_sessions([first, other], Timing((1,), seconds=0.05))
    assert (rows[0].device_ms, rows[0].launch_bound) == ((0.5,) * 100, True)
    assert (rows[1].device_ms, rows[1].launch_bound) == ((), False)


@pytest.mark.parametrize(
    ("own", "bound", "told"), [((), False, None), ((3.0, 2.0), False, 2.5), ((2.0, 2.5), True, 1.0), ((0.5, 0.25), True, 0.375)]
)
def test_an_upper_bound_of_the_gpus_time_is_no_more_than_what_the_host_measured(
    clock: Clock, own: tuple[float, ...], bound: bool, told: float | None
) -> None:
    """On an H200 the calls behind one another fell into a slow moment of the host: at most 0.49 ms, where a call took 0.30."""
    (row,) = interleave([candidate(clock, "A", lambda: 1)], 1, "device", 0.05)
    assert row.median_ms == 1
    assert msgspec.structs.replace(row, device_ms=own, launch_bound=bound).own_clock_ms == told


def test_candidates_take_turns_in_blocks(clock: Clock) -> None:
    interleave([candidate(clock, name, lambda: 1) for name in "ABC"], 1, "device", 1.0)
    turns = [name for name, _ in groupby(clock.calls)]
    assert turns == list("ABC") * 11  # one round to warm up, ten to record
    assert {len(list(calls)) for name, calls in groupby(clock.calls)} == {100, 110}


def test_short_measurements_still_take_five_rounds(clock: Clock) -> None:
    rows = interleave([candidate(clock, name, lambda: 1) for name in "AB"], 1, "device", 0.01)
    assert [len(one.samples_ms) for one in rows] == [5, 5]
    assert [name for name, _ in groupby(clock.calls)] == list("AB") * 6


def test_every_recorded_call_is_kept_and_warm_ups_are_kept_apart(clock: Clock) -> None:
    (only,) = interleave([candidate(clock, "A", lambda: 1)], 4, "device", 1.0)
    assert only.count == sum(map(len, only.samples_ms)) == 1000
    assert only.count + len(only.warmups_ms) == len(clock.calls)
    assert set(only.warmups_ms) | {sample for block in only.samples_ms for sample in block} == {1.0}
    assert (only.backend, only.batch, only.boundary, only.facts) == ("A", 4, "device", {"runtime": "A"})


def test_each_candidate_gets_the_seconds_asked_for_whatever_its_speed(clock: Clock) -> None:
    rows = interleave([candidate(clock, "fast", lambda: 1), candidate(clock, "slow", lambda: 4)], 1, "device", 2.0)
    assert [sum(map(sum, one.samples_ms)) / 1e3 for one in rows] == [2.0, 2.0]
    assert [one.count for one in rows] == [2000, 500]


def test_calls_made_slow_by_the_other_candidates_turn_are_not_recorded(clock: Clock) -> None:
    def cold(name: str) -> float:
        return 9 if clock.calls[-2:-1] != [name] else 1

    rows = interleave([candidate(clock, name, lambda name=name: cold(name)) for name in "AB"], 1, "device", 1.0)
    for one in rows:
        assert 9 in one.warmups_ms
        assert {sample for block in one.samples_ms for sample in block} == {1.0}


def test_a_drift_of_the_machine_hits_both_alike_and_leaves_the_ratio(clock: Clock) -> None:
    slower = lambda: 1 + clock.now / (4e9)  # noqa: E731
    rows = interleave([candidate(clock, "A", lambda: 2 * slower()), candidate(clock, "B", slower)], 1, "device", 1.0)
    assert all(one.noise.startswith("noisy: drift, the last third takes ") for one in rows)
    assert rows[0].median_ms > 2 * 1.1  # the numbers themselves moved
    (found,) = speedups(rows)
    assert found.speedup == pytest.approx(2, abs=0.1)


def test_nothing_is_clipped(clock: Clock) -> None:
    def spiky() -> float:
        return 80 if len(clock.calls) % 100 == 0 else 1

    (only,) = interleave([candidate(clock, "A", spiky)], 1, "device", 2.0)
    assert max(map(max, only.samples_ms)) == 80
    assert only.cov > 1


def test_a_block_makes_at_least_one_call_and_at_most_a_thousand(clock: Clock) -> None:
    assert time_block(clock.work("A", lambda: 50), 0.01) == (50.0,)
    assert len(time_block(clock.work("A", lambda: 1e-6), 10)) == 1000


def test_a_percentile_takes_as_many_samples_as_mlperf_asks() -> None:
    assert [samples_needed(percent) for percent in (90, 99, 99.9)] == [64, 662, 6636]


@pytest.mark.parametrize("percent", [90.0, 99.0])
def test_the_samples_needed_are_the_fewest_that_give_the_confidence(percent: float) -> None:
    def at_most_one_beyond(count: int) -> float:
        beyond = 1 - percent / 100
        return sum(math.comb(count, hits) * beyond**hits * (1 - beyond) ** (count - hits) for hits in (0, 1))

    count = samples_needed(percent)
    assert at_most_one_beyond(count) <= 0.01 < at_most_one_beyond(count - 1)


@pytest.mark.parametrize(
    ("count", "given"), [(63, (False, False)), (64, (True, False)), (661, (True, False)), (662, (True, True))]
)
def test_a_percentile_is_withheld_until_the_samples_support_it(count: int, given: tuple[bool, bool]) -> None:
    samples = np.random.default_rng(0).permutation(count) + 1.0
    found = row("A", np.array_split(samples, 5)).percentiles
    assert [(one.percent, one.samples_needed) for one in found] == [(90, 64), (99, 662)]
    assert tuple(one.ms is not None for one in found) == given
    for one in found:
        assert one.ms is None or one.ms == pytest.approx(1 + one.percent / 100 * (count - 1))


def test_the_median_is_of_all_samples_and_lies_in_its_interval() -> None:
    found = row("A", [[1, 2, 3], [4, 5, 6, 7, 8, 100]])
    assert found.median_ms == 5
    assert found.median_low_ms <= 5 <= found.median_high_ms


def test_the_median_interval_covers_the_truth_of_blocks_that_scatter() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = median_interval(rng.normal(1, 0.02, 10))
        hits += low <= 1 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_work_of_other_processes_is_noise() -> None:
    idle, busy = CpuTime(0, 0, 0), CpuTime(10, 4, 4 + 5 * (os.cpu_count() or 1))
    assert idle.stolen_until(busy) == pytest.approx(0.5)
    assert idle.stolen_until(CpuTime(10, 4, 4)) == 0
    assert idle.stolen_until(CpuTime(10, 4, None)) == 0
    assert noise(np.ones(12), 0.5) == "noisy: other processes took 50% of the cores"
    assert noise(np.ones(12), 0.05) == "stable"


def test_many_alike_calls_in_a_block_do_not_make_the_interval_narrow(clock: Clock) -> None:
    blocks = [[1.0 + index / 100] * 1000 for index in range(10)]
    report = row("slow", blocks)
    assert report.median_high_ms - report.median_low_ms > 0.02


def test_the_median_interval_of_one_block_is_that_block() -> None:
    assert median_interval(np.array([3.0])) == (3, 3)


def test_noise_is_named_by_its_reason() -> None:
    still = np.ones(12)
    assert noise(still) == "stable"
    assert noise(still * np.linspace(1, 1.03, 12)) == "stable"
    assert noise(np.linspace(1, 1.3, 12)).startswith("noisy: drift, the last third takes 1.")
    assert noise(np.linspace(1.3, 1, 12)).startswith("noisy: drift, the last third takes 0.")
    assert noise(np.array([1, 1.2, 1, 1.2, 1, 1.2, 1, 1.2, 1, 1.2, 1, 1.2])).startswith("noisy: blocks scatter by ")
    assert noise(np.array([1] * 5 + [3.0] + [1] * 6)) == "noisy: the slowest block takes 3.0 times the median one"
    assert noise(np.array([1] * 5 + [1.4] + [1] * 6)) == "stable"


def test_a_baseline_twice_as_slow_is_a_speed_up_of_exactly_two() -> None:
    blocks = [[1.0, 1.25, 1.5], [2.0, 2.5, 3.0], [1.0, 1.0], [4.0], [1.5, 1.75]]
    (found,) = speedups([row("slow", [[2 * ms for ms in block] for block in blocks]), row("fast", blocks)])
    assert (found.baseline, found.backend, found.batch, found.boundary) == ("slow", "fast", 1, "end-to-end")
    assert (found.speedup, found.low, found.high) == (2, 2, 2)


def test_the_interval_of_a_speed_up_widens_with_the_scatter_of_its_rounds() -> None:
    rng = np.random.default_rng(1)

    def found(scatter: float) -> tuple[float, float, float]:
        base = np.exp(rng.normal(0, 0.3, 40))  # drift that both see
        ratio = 2 * np.exp(rng.normal(0, scatter, 40))
        (one,) = speedups([row("A", (base * ratio)[:, None]), row("B", base[:, None])])
        return one.speedup, one.low, one.high

    calm, wild = found(0.01), found(0.2)
    for speedup, low, high in (calm, wild):
        assert low <= speedup <= high
        assert low <= 2 <= high
    assert calm[2] - calm[1] < 0.05 < wild[2] - wild[1]


def test_every_runtime_is_compared_with_the_first() -> None:
    found = speedups([row(name, [[ms]] * 5) for name, ms in (("A", 3.0), ("B", 1.0), ("C", 6.0))])
    assert [(one.backend, one.baseline, one.speedup) for one in found] == [("B", "A", 3), ("C", "A", 0.5)]
    assert speedups([row("A", [[1.0]] * 5)]) == []


def report(rows: Sequence[LatencyReport], budget_ms: float | None = None) -> BenchReport:
    return BenchReport("b", "0" * 64, {}, 1, 0.1, tuple(rows), (), (), budget_ms)


def test_a_budget_bounds_the_end_to_end_median_of_the_first_batch_on_every_runtime() -> None:
    rows = [
        row("A", [[2.0]] * 5),
        row("B", [[1.5]] * 5),
        row("A", [[50.0]] * 5, boundary="device"),
        row("A", [[9.0]] * 5, batch=8),
    ]
    assert report(rows, 2.0).passed
    assert not report(rows, 1.9).passed  # A
    assert not report(rows[1:2] + rows[:1], 1.9).passed
    assert report(rows).passed
    assert not report([]).passed


def fake(name: str, clock: Clock, ms: float, seen: list[int]) -> Opened:
    work = clock.work(name, lambda: ms)

    def function(feed: Feed) -> dict[str, np.ndarray]:
        seen.append(len(feed["x"]))
        work()
        return {}

    session = FakeSession(function, (TensorSpec("x", "float32", ("batch", 3)),), facts={"made of": name})
    return Opened(name, Setup(name), session)


def test_every_batch_and_boundary_is_timed_for_every_runtime_with_that_batch(clock: Clock) -> None:
    seen: list[int] = []
    rows, comparisons = time_sessions([fake("A", clock, 2, seen), fake("B", clock, 1, seen)], Timing((1, 8), seconds=0.05))
    expected = [(batch, boundary, name) for batch in (1, 8) for boundary in BOUNDARIES for name in "AB"]
    assert [(one.batch, one.boundary, one.backend) for one in rows] == expected
    assert set(BOUNDARIES) == {"device", "end-to-end"}
    assert [one.facts for one in rows[:2]] == [{"made of": "A"}, {"made of": "B"}]
    assert [batch for batch, _ in groupby(seen)] == [1, 8]
    assert [(one.batch, one.boundary, one.speedup) for one in comparisons] == [
        (batch, boundary, 2.0) for batch in (1, 8) for boundary in BOUNDARIES
    ]


def test_the_device_boundary_times_the_bound_call_and_end_to_end_the_run(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = fake("A", clock, 1, [])
    monkeypatch.setattr(opened.session, "bind", lambda feed: clock.work("bound", lambda: 1))
    monkeypatch.setattr(opened.session, "run", lambda feed: clock.work("run", lambda: 1)())
    time_sessions([opened], Timing((1,), seconds=0.05))
    assert [name for name, _ in groupby(clock.calls)] == ["bound", "run"]


def test_the_loop_measures_its_own_overhead() -> None:
    assert 0 < overhead_us() < math.inf


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
