"""From process medians to a verdict: slower, not slower, or undecided.

slower: p < 0.01 for "the ratio is at most 1", and the median ratio is beyond the limit. not slower: the 99 % upper bound is
within the limit. Else, and where chance alone reaches the limit, undecided. "Slower" is wrong for alike bundles with a
probability of at most 0.01, and "not slower" for one slower by more than the limit likewise: also where the pairs are looked at
more than once, since the looks share that probability (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from edgekit.latency.signflip import ALPHA, MOST_PAIRS, by_chance, fewest_pairs, holm, lower_bound, p_value, upper_bound
from edgekit.latency.statistics import Vector
from edgekit.reports.against import Control, Judged, PairedRatio

CONTROLLED_ALPHA = ALPHA / 2
"""Of what is held against another day: its own bounds and the control's share the risk."""


def evidence_of(
    first: Sequence[float], second: Sequence[float], alpha: float = ALPHA, control: Control | None = None
) -> PairedRatio:
    """What pairs of process medians say of first over second; a pair stands in each place, in the order of time.

    ``control``: what has moved both alike. The ratio is divided by its ratio, the bounds by its opposite bounds, and p is of the
    ratio being at most its upper bound: whatever lies within its bounds is no fault of the first's.
    Both are in one unit, 2 to ``MOST_PAIRS`` long. ``alpha``: this look's part of ``ALPHA``. The bounds miss with that
    probability, and p is enlarged by ``ALPHA / alpha``, so that it is held against ``ALPHA`` at every look.
    """
    ours, theirs = (np.log(np.asarray(medians, np.float64)) for medians in (first, second))
    logs = ours - theirs
    ratio, low, high = (0.0, 0.0, 0.0) if control is None else _logs_of(control)
    upper = upper_bound(logs, alpha) - low
    return PairedRatio(
        pairs=len(logs),
        ratio=math.exp(float(np.median(logs)) - ratio),
        low=math.exp(lower_bound(logs, alpha) - high),
        high=math.exp(upper) if upper < math.inf else None,
        p=min(1.0, p_value(logs, high) * ALPHA / alpha),
        floor=math.expm1(by_chance(np.concatenate([_beside(ours), _beside(theirs)]))),
    )


def _logs_of(control: Control) -> tuple[float, float, float]:
    """Of its ratio, and of its lower and upper bound, which a control that did not move has."""
    assert control.low > 0
    assert control.high is not None
    return math.log(control.ratio), math.log(control.low), math.log(control.high)


def judge(rows: Sequence[PairedRatio], limit: float, alpha: float = ALPHA) -> list[tuple[PairedRatio, Judged]]:
    """The verdict on each row by ``limit``, a share of 1, with Holm's p where there are several; ``alpha``: the look's."""
    adjusted = holm(np.asarray([row.p for row in rows]))
    held = [msgspec.structs.replace(row, p=float(p)) for row, p in zip(rows, adjusted, strict=True)]
    return [(row, _judged(row, limit, fewest_pairs(alpha))) for row in held]


def _judged(row: PairedRatio, limit: float, fewest: int) -> Judged:
    if row.floor > limit:
        return _undecided(row, limit, fewest, f"alike processes differ by {100 * row.floor:.2g} % by chance, more than the limit")
    if row.p < ALPHA and row.ratio > 1 + limit:
        return Judged("slower")
    if row.high is not None and row.high <= 1 + limit:
        return Judged("not slower")
    if row.pairs < fewest:
        return Judged("undecided", f"{row.pairs} pairs can decide nothing", fewest - row.pairs)
    return _undecided(row, limit, fewest, "the 99 % bounds leave both open")


def _undecided(row: PairedRatio, limit: float, fewest: int, why: str) -> Judged:
    needed = _needed(row, limit, fewest)
    more = max(1, math.ceil(needed) - row.pairs) if needed <= MOST_PAIRS else None
    if more is not None and row.pairs + more <= MOST_PAIRS:
        return Judged("undecided", why, more)
    remedy = "edgekit doctor --bench says what disturbs this machine; --seconds makes each process longer"
    return Judged("undecided", f"{why}, and more pairs will hardly decide it: {remedy}")


def _needed(row: PairedRatio, limit: float, fewest: int) -> float:
    """About how many pairs decide, if the next are like these: the bounds close on their middle as 1 / sqrt(pairs)."""
    bound, by_floor = math.log1p(limit), row.pairs * (math.log1p(row.floor) / math.log1p(limit)) ** 2
    if not row.high or not row.low:
        return max(fewest, by_floor)
    low, high = math.log(row.low), math.log(row.high)
    middle, half = (low + high) / 2, (high - low) / 2
    distance = middle if math.log(row.ratio) > bound else bound - middle
    return max(row.pairs * (half / distance) ** 2 if distance > 0 else math.inf, by_floor)


def _beside(logs: Vector) -> Vector:
    """Log-ratios of one side with itself: the second with the first, the fourth with the third, and so on."""
    even = len(logs) // 2 * 2
    return np.asarray(logs[1:even:2] - logs[0:even:2], np.float64)
