"""One way to run a bundle against another, by pairs of fresh processes that take turns.

Blocks of two pairs run A B B A or B A A B, as a coin decides that a seed throws: a machine that drifts steadily hits both alike,
and which of a pair comes first is chance, which is what the test stands on. Each thing runs once before, unrecorded and short, so
that the first pair does not pay for files that are not in memory yet, or for an engine that has to be built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from edgekit.latency.fresh import time_fresh
from edgekit.latency.signflip import ALPHA
from edgekit.latency.turns import Thing, Timer, Turns, timed, warm
from edgekit.latency.verdict import evidence_of, judge
from edgekit.progress import SILENT, Progress
from edgekit.reports.against import AgainstRow
from edgekit.reports.fresh import Fresh

PAIRS, PAIRS_OF_SEVERAL = 8, 10
"""Usual pairs where one row decides, and where several do, up to ten: Holm's steps need smaller p-values."""
LIMIT = 0.05


class Duel(NamedTuple):
    """A row that decides: ``first`` is A, which must not be slower than B, ``second``; ``backend`` is the row's name."""

    backend: str
    first: Thing
    second: Thing


def usual_pairs(rows: int) -> int:
    """The pairs that ``rows`` take which decide together: enough that Holm's step for all of them can be below ``ALPHA``."""
    pairs = PAIRS if rows == 1 else PAIRS_OF_SEVERAL
    while rows * 0.5**pairs >= ALPHA:
        pairs += 1
    return pairs


def orders(pairs: int, seed: int) -> Iterator[str]:
    """For each pair "AB" or "BA": blocks AB BA or BA AB, each by a throw of a fair coin."""
    coin = np.random.default_rng(seed)
    for place in range(pairs):
        if place % 2 == 0:
            heads = bool(coin.integers(2))
        yield "AB" if heads == (place % 2 == 0) else "BA"


def duels(
    rows: Sequence[Duel], turns: Turns, limit: float = LIMIT, progress: Progress = SILENT, time: Timer = time_fresh
) -> tuple[AgainstRow, ...]:
    """Run ``turns.each`` pairs of every row in turn, and judge them together; raises MissingError where a process fails."""
    first: list[list[Fresh]] = [[] for _ in rows]
    second: list[list[Fresh]] = [[] for _ in rows]
    drawn = tuple(orders(turns.each, turns.seed))
    with progress.task("fresh processes", 2 * len(rows) * (turns.each + 1)) as advance:
        warm([thing for row in rows for thing in (row.first, row.second)], turns.seconds, advance, time)
        for order in drawn:
            for row, ours, theirs in zip(rows, first, second, strict=True):
                sides = {"A": (row.first, ours), "B": (row.second, theirs)}
                for letter in order:
                    thing, processes = sides[letter]
                    processes.append(timed(thing, turns.seconds, time))
                    advance(1, thing.label)
    return judged(rows, first, second, drawn, limit)


def judged(
    rows: Sequence[Duel],
    first: Sequence[Sequence[Fresh]],
    second: Sequence[Sequence[Fresh]],
    order: tuple[str, ...],
    limit: float,
) -> tuple[AgainstRow, ...]:
    """The rows with their processes, and the verdicts on all of them together."""
    pairs = zip(first, second, strict=True)
    evidence = [evidence_of([one.median_ms for one in ours], [one.median_ms for one in theirs]) for ours, theirs in pairs]
    return tuple(
        AgainstRow(
            backend=row.backend,
            batch=row.first.batch,
            boundary=row.first.boundary,
            setup=row.first.setup,
            against_setup=row.second.setup,
            order=order,
            first=tuple(ours),
            second=tuple(theirs),
            evidence=found,
            judged=verdict,
        )
        for row, ours, theirs, (found, verdict) in zip(rows, first, second, judge(evidence, limit), strict=True)
    )
