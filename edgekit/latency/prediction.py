"""Where the next run's median will fall, from the medians of runs that were made."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

FEWEST_PROCESSES = 3
CONFIDENCE = 0.95


def prediction_interval(medians: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval that holds the median of one more process with ``confidence``; ``medians`` in any unit, at least two.

    exp(m -+ t s sqrt(1 + 1/n)) with mean m and deviation s (n - 1) of the logs, and t of Student's distribution with n - 1
    degrees of freedom: Hahn and Meeker, Statistical Intervals (1991), 4.8.1. It assumes that logs of medians are normal, and
    that the next run is made like these: on this machine, in its present state.
    """
    logs = np.log(np.asarray(medians, np.float64))
    reach = student_quantile(0.5 + confidence / 2, len(logs) - 1) * float(logs.std(ddof=1)) * math.sqrt(1 + 1 / len(logs))
    return math.exp(float(logs.mean()) - reach), math.exp(float(logs.mean()) + reach)


def student_quantile(probability: float, degrees: int) -> float:
    """The t below which Student's distribution has ``probability``, 0.5 to below 1, by bisection; ``degrees`` is at least 1."""
    low, high = 0.0, 1.0
    while student_probability(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student_probability(middle, degrees) < probability else (low, middle)
    return high


def student_probability(t: float, degrees: int) -> float:
    """P(T <= t) for t >= 0: the finite sums of Abramowitz and Stegun 26.7.3 (odd ``degrees``) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    terms = [] if degrees == 1 else [term]
    for k in range(2 + odd, degrees, 2):
        term *= cosine**2 * (k - 1) / k
        terms.append(term)
    within = 2 / math.pi * (angle + sine * sum(terms)) if odd else sine * sum(terms)
    return 0.5 + within / 2
