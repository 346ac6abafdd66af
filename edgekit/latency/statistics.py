"""Statistics of latency samples: intervals, percentiles, noise, speed-ups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from edgekit.reports.bench import Comparison, LatencyReport
from edgekit.reports.percentile import Percentile

Vector: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"
PERCENTS = (90.0, 99.0)
NOISY_COV = 0.05
NOISY_DRIFT = 0.05
NOISY_BLOCK = 1.5
NOISY_STOLEN = 0.15


def samples_needed(percent: float, confidence: float = 0.99) -> int:
    """The fewest samples of which, at ``confidence``, at least two lie beyond the percentile.

    The smallest n with P(Binomial(n, 1 - p) <= 1) <= 1 - confidence, which gives MLPerf's 64 for P90 and 662 for P99.
    """
    p = percent / 100
    count = 2
    while p**count + count * (1 - p) * p ** (count - 1) > 1 - confidence:
        count += 1
    return count


def median_interval(block_medians: Vector, resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval over blocks: calls within a block are too much alike to count as independent samples."""
    picks = np.random.default_rng(0).integers(0, len(block_medians), (resamples, len(block_medians)))
    return _middle(np.median(block_medians[picks], axis=1))


def _middle(values: Vector) -> tuple[float, float]:
    """Between which the middle 95 % of ``values`` are."""
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def noise(block_medians: Vector, stolen: float = 0.0, gpu: str = "") -> str:
    """``stable``, or ``noisy:`` with the reason; ``gpu`` is what is known of the GPU's clock."""
    center = float(np.median(block_medians))
    quarter, three_quarters = np.percentile(block_medians, (25, 75))
    scatter = float(three_quarters - quarter) / 1.349 / center  # the standard deviation, were they normal
    slowest = float(block_medians.max()) / center
    third = max(1, len(block_medians) // 3)
    drift = float(np.median(block_medians[-third:]) / np.median(block_medians[:third])) - 1
    if taken := noise_of_others(stolen):
        return taken
    if gpu:
        return f"noisy: {gpu}"
    if abs(drift) > NOISY_DRIFT:
        return f"noisy: drift, the last third takes {1 + drift:.2f} times the first"
    if scatter > NOISY_COV:
        return f"noisy: blocks scatter by {scatter:.0%}"
    if slowest > NOISY_BLOCK:
        return f"noisy: the slowest block takes {slowest:.1f} times the median one"
    return "stable"


def noise_of_others(stolen: float) -> str:
    """``noisy:`` with the share of the cores that other processes took; empty where it is small."""
    return f"noisy: other processes took {stolen:.0%} of the cores" if stolen > NOISY_STOLEN else ""


def speedups(rows: Sequence[LatencyReport]) -> list[Comparison]:
    """Every row against the first, round by round: the median ratio with its 95 % bootstrap interval.

    Where either row is noisy the interval has the middle 95 % of the rounds: they are not draws of one distribution, and their
    median's own interval may be narrow by chance.
    """
    baseline, *others = rows
    reference = np.asarray([np.median(block) for block in baseline.samples_ms])
    comparisons = []
    for row in others:
        ratios = reference / np.asarray([np.median(block) for block in row.samples_ms])
        stable = baseline.noise == row.noise == "stable"
        low, high = median_interval(ratios) if stable else _middle(ratios)
        speedup = float(np.median(ratios))
        comparisons.append(Comparison(row.backend, baseline.backend, row.batch, row.boundary, speedup, low, high))
    return comparisons


def percentile(ordered: Vector, percent: float) -> Percentile:
    """A percentile of samples in ascending order; no value where they are too few for it."""
    needed = samples_needed(percent)
    value = float(np.percentile(ordered, percent)) if len(ordered) >= needed else None
    return Percentile(percent, value, needed)
