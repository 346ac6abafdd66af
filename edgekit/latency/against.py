"""One way to run a bundle against another, by pairs of fresh processes that take turns.

Blocks of two pairs run A B B A or B A A B, as a coin decides that a seed throws: a machine that drifts steadily hits both alike,
and which of a pair comes first is chance, which is what the test stands on. Each thing runs once before, unrecorded and short, so
that the first pair does not pay for files that are not in memory yet, or for an engine that has to be built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from edgekit.errors import MissingError
from edgekit.latency.fresh import time_fresh
from edgekit.latency.verdict import evidence_of, judge
from edgekit.machine.child import Failure
from edgekit.progress import SILENT, Progress
from edgekit.reports.against import AgainstRow
from edgekit.reports.fresh import Fresh
from edgekit.setups import Setup

PAIRS, PAIRS_OF_SEVERAL = 8, 10
"""Usual pairs where one row decides, and where several do: Holm's steps need smaller p-values."""
LIMIT = 0.05
WARM_SECONDS = 0.1

Timer: TypeAlias = Callable[["Path", Setup, int, str, float], "Fresh | Failure"]
"""What times a thing in a process of its own: ``time_fresh``, or a stand-in."""


class Thing(NamedTuple):
    """What one process times: a bundle by a setup, at a batch and a boundary; ``label`` names it in an error."""

    label: str
    bundle: Path
    setup: Setup
    batch: int
    boundary: str


class Duel(NamedTuple):
    """A row that decides: ``first`` is A, which must not be slower than B, ``second``."""

    name: str
    first: Thing
    second: Thing


class Terms(NamedTuple):
    """How a comparison is made: the limit as a share of 1, pairs of processes, seconds of each, and the seed of their order."""

    limit: float = LIMIT
    pairs: int = PAIRS
    seconds: float = 1.0
    seed: int = 0


def orders(pairs: int, seed: int) -> Iterator[str]:
    """For each pair "AB" or "BA": blocks AB BA or BA AB, each by a throw of a fair coin."""
    coin = np.random.default_rng(seed)
    for place in range(pairs):
        if place % 2 == 0:
            heads = bool(coin.integers(2))
        yield "AB" if heads == (place % 2 == 0) else "BA"


def duels(rows: Sequence[Duel], terms: Terms, progress: Progress = SILENT, time: Timer = time_fresh) -> tuple[AgainstRow, ...]:
    """Run every row's pairs in turn, and judge them together; raises MissingError with the sentence of a process that fails."""
    first: list[list[Fresh]] = [[] for _ in rows]
    second: list[list[Fresh]] = [[] for _ in rows]
    drawn = tuple(orders(terms.pairs, terms.seed))
    with progress.task("fresh processes", 2 * len(rows) * (terms.pairs + 1)) as advance:
        for row in rows:
            for thing in (row.first, row.second):
                timed(thing, min(terms.seconds, WARM_SECONDS), time)
                advance(1, thing.label)
        for order in drawn:
            for row, ours, theirs in zip(rows, first, second, strict=True):
                sides = {"A": (row.first, ours), "B": (row.second, theirs)}
                for letter in order:
                    thing, processes = sides[letter]
                    processes.append(timed(thing, terms.seconds, time))
                    advance(1, thing.label)
    return judged(rows, first, second, drawn, terms.limit)


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
            name=row.name,
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


def in_turns(things: Sequence[Thing], terms: Terms, progress: Progress = SILENT, time: Timer = time_fresh) -> list[list[Fresh]]:
    """``terms.pairs`` processes of each thing, in rounds of a random order each; raises MissingError as ``duels`` does."""
    processes: list[list[Fresh]] = [[] for _ in things]
    dice = np.random.default_rng(terms.seed)
    with progress.task("fresh processes", len(things) * (terms.pairs + 1)) as advance:
        for thing in things:
            timed(thing, min(terms.seconds, WARM_SECONDS), time)
            advance(1, thing.label)
        for _ in range(terms.pairs):
            for place in dice.permutation(len(things)):
                processes[place].append(timed(things[place], terms.seconds, time))
                advance(1, things[place].label)
    return processes


def timed(thing: Thing, seconds: float, time: Timer = time_fresh) -> Fresh:
    """One process; raises MissingError with its own sentence where it fails."""
    outcome = time(thing.bundle, thing.setup, thing.batch, thing.boundary, seconds)
    if isinstance(outcome, Failure):
        raise MissingError(f"{thing.label} cannot be timed: {outcome.sentence('its process')}")
    return outcome
