"""The best ways against each other in fresh processes that take turns, by the rule that decides everywhere: see ``signflip``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from edgekit.latency.fresh import time_fresh
from edgekit.latency.signflip import ALPHA, fewest_pairs, lower_bound, p_value, upper_bound
from edgekit.latency.statistics import Vector, percentile, samples_needed
from edgekit.latency.turns import Thing, Timer, Turns, in_turns
from edgekit.machine.child import Failure
from edgekit.progress import SILENT, Progress
from edgekit.reports.fresh import Fresh
from edgekit.reports.samples import MOST_SAMPLES
from edgekit.reports.tune import Metric
from edgekit.setups import Setup

TURNS = 8
"""Processes of each of two ways: of 2^8 patterns of signs one alone has p = 0.004."""
SECONDS, MOST_SECONDS = 0.4, 10.0
TAIL = 99.0


class Final(NamedTuple):
    """What the fresh processes of one way measured; ``failure``: why one of them gave no answer."""

    fresh: tuple[Fresh, ...]
    failure: str = ""

    def values(self, metric: Metric) -> tuple[float, ...]:
        """The metric of each process in milliseconds: the median call, the mean call for throughput, or the 99th percentile."""
        return tuple(_READ[metric](np.asarray(each.samples_ms)) for each in self.fresh)

    @property
    def noise(self) -> str:
        """How many of the processes were noisy, and why the first of these was; empty where all were stable."""
        noisy = [each.noise for each in self.fresh if each.noise.startswith("noisy")]
        return f"{len(noisy)} of {len(self.fresh)} fresh processes were {noisy[0]}" if noisy else ""

    def percentile(self, percent: float) -> float | None:
        """Of the calls of all processes together; None where they are too few for it."""
        calls = np.concatenate([np.asarray(each.samples_ms) for each in self.fresh])
        return percentile(np.sort(calls), percent).ms


_READ: Mapping[Metric, Callable[[Vector], float]] = {
    "median": lambda samples: float(np.median(samples)),
    "throughput": lambda samples: float(np.mean(samples)),
    "p99": lambda samples: float(np.percentile(samples, TAIL)),
}


def seconds_for(call_ms: float, *, tail: bool) -> float:
    """How long each process times calls of ``call_ms``; with ``tail`` long enough for a 99th percentile of all together."""
    if not tail:
        return SECONDS
    calls = math.ceil(1.2 * samples_needed(TAIL) / TURNS)
    return float(min(MOST_SECONDS, max(SECONDS, calls * call_ms / 1e3)))


def risk_of_each(ways: int) -> float:
    """What each test may be wrong with, so that all of ``ways`` together are with ``ALPHA``: any may win (Bonferroni)."""
    return ALPHA / max(2, ways * (ways - 1))


def turns_for(ways: int) -> int:
    """Processes of each of ``ways``: enough that pairs which all agree decide."""
    return max(TURNS, fewest_pairs(risk_of_each(ways)))


def finals(
    things: Sequence[Thing], seconds: Sequence[float], progress: Progress = SILENT, time: Timer = time_fresh
) -> dict[Setup, Final]:
    """Some processes of each of ``things``, in rounds of a random order, after a short one each; who fails takes no more.

    ``seconds``: of the processes of each thing, so that none waits for the slowest one's.
    """
    own_seconds = {thing.setup: own for thing, own in zip(things, seconds, strict=True)}

    def time_own(bundle: Path, setup: Setup, batch: int, boundary: str, most: float) -> Fresh | Failure:
        return time(bundle, setup, batch, boundary, min(most, own_seconds[setup]))

    failures: dict[Thing, str] = {}

    def failed(thing: Thing, failure: Failure) -> None:
        failures[thing] = failure.sentence()

    turns = Turns(turns_for(len(things)), max(seconds), kept=MOST_SAMPLES)
    processes = in_turns(things, turns, progress, time_own, failed, title="finals in fresh processes")
    return {thing.setup: Final(tuple(own), failures.get(thing, "")) for thing, own in zip(things, processes, strict=True)}


def middle(values: Sequence[float]) -> float:
    """The median."""
    return float(np.median(values))


class Versus(NamedTuple):
    """The best way against another: how many times its time the other takes, its 99 % interval, and whether that is decided.

    ``more``: about how many more processes of each would decide, 0 where it is decided, None where no number in reason would.
    """

    ratio: float
    low: float
    high: float
    decided: bool
    more: int | None = 0


MOST_MORE = 200


def versus(best: Sequence[float], other: Sequence[float], ways: int = 2) -> Versus:
    """Hold two of ``ways`` against each other by the milliseconds of their processes, turn by turn; ``turns_for`` of each decide.

    Which is the best was read from these very processes, so that any could be: see ``risk_of_each``.
    """
    logs, alpha = np.log(np.asarray(other) / np.asarray(best)), risk_of_each(ways)
    decided = p_value(logs) < alpha
    low, high = lower_bound(logs, alpha), upper_bound(logs, alpha)
    return Versus(float(np.exp(np.median(logs))), math.exp(low), math.exp(high), decided, 0 if decided else _more(logs, alpha))


def _more(logs: Vector, alpha: float) -> int | None:
    """As many as make the mean what a normal distribution exceeds with ``alpha``; None beyond ``MOST_MORE``."""
    mean, deviation = float(logs.mean()), float(logs.std(ddof=1))
    if mean <= 0 or not math.isfinite(deviation):
        return None
    wanted = math.ceil((NormalDist().inv_cdf(1 - alpha) * deviation / mean) ** 2) - len(logs)
    return max(1, wanted) if wanted <= MOST_MORE else None
