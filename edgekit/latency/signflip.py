"""The exact one-sided sign-flip test of paired log-ratios, and the bounds that it gives by inversion.

d_i = log(a_i / b_i), one for each pair; A takes exp(d) times as long as B. A coin of its own decides which of a pair runs first.
Where A and B are alike it decides the sign of d_i too, so that each of the 2^n patterns of signs is equally likely, however what
disturbs the processes depends on time and on itself (Fisher 1935). The statistic is the sum. A drift makes the d_i larger and
takes no side: p grows.

Flipping the signs of a set S of pairs makes the sum no smaller iff the mean of d over S is at most 0. The p-value of "the shift
is at most t" is therefore (1 + the number of the 2^n - 1 sets whose mean is at most t) / 2^n, and its bounds are order statistics
of these subset means (Hartigan 1969: they are typical values). No distribution is assumed, only symmetry, which the coins give
pairs that run side by side.
"""

from __future__ import annotations

import math

import numpy as np

from edgekit.latency.statistics import Vector

ALPHA = 0.01
MOST_PAIRS = 20
"""With more there are too many patterns to count."""
_CLOSE = 1e-12
"""Means that differ by less are alike: they were added in another order."""


def p_value(logs: Vector, shift: float = 0.0) -> float:
    """The exact probability that pairs whose log-ratios are symmetric about ``shift`` have a sum as large as this one.

    A small one says that A takes more than exp(``shift``) times as long as B. ``logs`` is float64 of 1 to 20 pairs.
    """
    sums, counts = _subsets(logs)
    return float(np.count_nonzero(sums <= (shift + _CLOSE) * counts)) / len(sums)


def lower_bound(logs: Vector, alpha: float = ALPHA) -> float:
    """The largest shift that ``p_value`` rejects at ``alpha``: the true one is below it with a probability of at most that.

    It is the k-th smallest subset mean with k = floor(alpha 2^n); minus infinity where so few pairs can reject nothing.
    """
    means = _means(logs)
    rank = math.floor(alpha * 2 ** len(logs))
    return float(np.partition(means, rank - 1)[rank - 1]) if rank >= 1 else -math.inf


def upper_bound(logs: Vector, alpha: float = ALPHA) -> float:
    """The mirror image of ``lower_bound``: the true shift is above it with a probability of at most ``alpha``."""
    return -lower_bound(-logs, alpha)


def by_chance(logs: Vector, alpha: float = ALPHA) -> float:
    """What the mean of pairs with these magnitudes exceeds by chance alone with a probability of at most ``alpha``.

    Each magnitude gets either sign: the k-th largest of the 2^n means with k = floor(alpha 2^n) + 1. For pairs of a thing with
    itself it is the least difference that so many pairs can show: the noise floor.
    """
    sums, _ = _subsets(np.abs(logs))
    means = (2 * sums - sums.max(initial=0.0)) / len(logs)
    rank = len(means) - 1 - math.floor(alpha * len(means))
    return float(np.partition(means, rank)[rank])


def fewest_pairs(alpha: float = ALPHA) -> int:
    """The fewest pairs that can have a p of at most ``alpha``: one pattern alone has 2^-n. 7 for 0.01, 8 for 0.004."""
    return math.ceil(-math.log2(alpha))


def holm(p_values: Vector) -> Vector:
    """Holm's adjusted p-values (1979): those below alpha are rejected with a probability of at most alpha for any false one."""
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def _subsets(logs: Vector) -> tuple[Vector, Vector]:
    """The sum and the size of each of the 2^n sets of pairs, the empty one first."""
    sums, counts = np.zeros(1), np.zeros(1)
    for log in logs:
        sums, counts = np.concatenate([sums, sums + log]), np.concatenate([counts, counts + 1])
    return sums, counts


def _means(logs: Vector) -> Vector:
    """The mean of each of the 2^n - 1 sets that are not empty."""
    sums, counts = _subsets(logs)
    return sums[1:] / counts[1:]
