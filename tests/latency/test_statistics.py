"""Percentiles, intervals, noise and speed-ups."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
import pytest

from edgekit.latency.statistics import median_interval, noise, samples_needed, speedups
from edgekit.machine.cpu import CpuTime
from edgekit.reports.bench import BenchReport, LatencyReport
from tests.latency.turned_clock import Clock, row


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
    measured = row("A", np.array_split(samples, 5)).percentiles
    assert [(point.percent, point.samples_needed) for point in measured] == [(90, 64), (99, 662)]
    assert tuple(point.ms is not None for point in measured) == given
    for point in measured:
        assert point.ms is None or point.ms == pytest.approx(1 + point.percent / 100 * (count - 1))


def test_the_median_is_of_all_samples_and_lies_in_its_interval() -> None:
    measured = row("A", [[1, 2, 3], [4, 5, 6, 7, 8, 100]])
    assert measured.median_ms == 5
    assert measured.median_low_ms <= 5 <= measured.median_high_ms


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
    (measured,) = speedups([row("slow", [[2 * ms for ms in block] for block in blocks]), row("fast", blocks)])
    assert (measured.baseline, measured.backend, measured.batch, measured.boundary) == ("slow", "fast", 1, "end-to-end")
    assert (measured.speedup, measured.low, measured.high) == (2, 2, 2)


def test_the_interval_of_a_speed_up_widens_with_the_scatter_of_its_rounds() -> None:
    rng = np.random.default_rng(1)

    def measured(scatter: float) -> tuple[float, float, float]:
        base = np.exp(rng.normal(0, 0.3, 40))  # drift that both see
        ratio = 2 * np.exp(rng.normal(0, scatter, 40))
        (one,) = speedups([row("A", (base * ratio)[:, None].tolist()), row("B", base[:, None].tolist())])
        return one.speedup, one.low, one.high

    calm, wild = measured(0.01), measured(0.2)
    for speedup, low, high in (calm, wild):
        assert low <= speedup <= high
        assert low <= 2 <= high
    assert calm[2] - calm[1] < 0.1 < wild[2] - wild[1]


def test_a_speed_up_of_noisy_rows_has_the_interval_of_its_rounds_and_is_not_told() -> None:
    """Most rounds agree, so that the interval of their median is narrow."""
    rounds = [3220.0, 3220.0, 90.0, 3220.0, 3220.0, 9000.0, 3220.0, 3220.0] * 5
    (measured,) = speedups([row("starved", [[ms] for ms in rounds]), row("fast", [[1.0]] * len(rounds))])
    assert (measured.speedup, median_interval(np.asarray(rounds))) == (3220, (3220, 3220))
    assert (measured.low, measured.high) == (90, 9000)
    assert not measured.is_told


def test_a_speed_up_of_stable_rows_has_the_interval_of_its_median() -> None:
    rounds = [1 + 0.001 * (place % 7) for place in range(40)]
    slow, fast = row("A", [[ms] for ms in rounds]), row("B", [[1.0]] * len(rounds))
    assert slow.noise == fast.noise == "stable"
    (measured,) = speedups([slow, fast])
    assert (measured.low, measured.high) == median_interval(np.asarray(rounds))
    assert measured.high - measured.low < 0.004
    assert measured.is_told


def test_every_runtime_is_compared_with_the_first() -> None:
    measured = speedups([row(name, [[ms]] * 5) for name, ms in (("A", 3.0), ("B", 1.0), ("C", 6.0))])
    assert [(point.backend, point.baseline, point.speedup) for point in measured] == [("B", "A", 3), ("C", "A", 0.5)]
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
