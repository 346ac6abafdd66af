"""Short rounds that all ways to run a bundle share, in which what is surely slower drops out.

Two processes of one setup differ by some percent, so that one process cannot tell setups apart that are that close: a way drops
out only where it was slower than the fastest in every round, by more than that, and by less the more rounds there were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from edgekit.latency.loop import REWAKE_SECONDS, Candidate, time_block, wake

BLOCK_SECONDS = 0.04
WARMUP_SECONDS = 0.01
CHECKS = ((3, 1.5), (5, 1.25), (8, 1.12))
"""After so many rounds, how many times the fastest way's time a way must have taken in every one of them to drop out."""
AT_ONCE = 12
"""Ways that are open at a time: each holds the weights, and threads."""


class Pace(NamedTuple):
    """How fast a way was: ``block_ms`` is the median call of each round.

    ``tail_ms`` is the 99th percentile of all its calls, of which there may be few.
    ``slower``: how many times the time of the fastest, ``than``, it took at least in every round that both were in, where it
    dropped out; else 0.
    """

    block_ms: tuple[float, ...]
    mean_ms: float
    tail_ms: float
    slower: float = 0.0
    than: str = ""

    @property
    def median_ms(self) -> float:
        """The median of the rounds."""
        return float(np.median(self.block_ms))


Open = Callable[[ExitStack], "Candidate | None"]
"""Opens a way as a candidate, which the stack closes; None where it cannot be opened, and takes no part."""
Block = Callable[[Candidate, float], Sequence[float]]
"""Milliseconds of a candidate's calls for so many seconds."""


def block_of(candidate: Candidate, seconds: float) -> tuple[float, ...]:
    """A block of calls; a GPU that sat idle beside a block of the CPU's is woken first."""
    wake(candidate, REWAKE_SECONDS)
    return time_block(candidate.call, seconds)


def race(
    names: Sequence[str],
    openers: Sequence[Open],
    block: Block = block_of,
    advance: Callable[[str], None] = lambda name: None,
    *,
    tail: bool = False,
) -> dict[str, Pace]:
    """The pace of every way that can be opened; ``names`` are theirs, ``openers`` open them.

    With ``tail`` what counts is how slow calls can be: a way drops out only where its rounds' medians are beyond even the fastest
    one's 99th percentile.

    They run ``AT_ONCE`` at a time. The fastest so far runs again with each group: all are held against it in shared rounds.
    """
    paces: dict[str, Pace] = {}
    opened = dict(zip(names, openers, strict=True))
    for start in range(0, len(names), AT_ONCE):
        group = list(names[start : start + AT_ONCE])
        fastest = _fastest(paces)
        entrants = [*([fastest] if fastest else []), *group]
        with ExitStack() as stack:
            ready = {name: opened[name](stack) for name in entrants}
            candidates = {name: candidate for name, candidate in ready.items() if candidate is not None}
            heat = _heat(candidates, block, tail=tail) if candidates else {}
        paces |= {name: pace for name, pace in heat.items() if name in group}
        if fastest in heat and heat[fastest].slower:  # it was the fastest of its own group
            paces[fastest] = paces[fastest]._replace(slower=heat[fastest].slower, than=heat[fastest].than)
        for name in group:
            advance(name)
    return paces


def _fastest(paces: dict[str, Pace]) -> str:
    running = {name: pace.median_ms for name, pace in paces.items() if not pace.slower}
    return min(running, key=running.__getitem__, default="")


def _heat(candidates: dict[str, Candidate], block: Block, *, tail: bool) -> dict[str, Pace]:
    """Rounds of one group, until the last check."""
    calls: dict[str, list[Sequence[float]]] = {name: [] for name in candidates}
    dropped: dict[str, Pace] = {}
    for candidate in candidates.values():
        wake(candidate)
        block(candidate, WARMUP_SECONDS)
    for count, limit in CHECKS:
        while len(calls[next(name for name in candidates if name not in dropped)]) < count:
            for name, candidate in candidates.items():
                if name not in dropped:
                    block(candidate, WARMUP_SECONDS)
                    calls[name].append(block(candidate, BLOCK_SECONDS))
        dropped |= dict(_slower(calls, dropped, limit, tail=tail))
    return {name: dropped.get(name) or _pace(calls[name]) for name in candidates}


def _slower(
    calls: dict[str, list[Sequence[float]]], dropped: dict[str, Pace], limit: float, *, tail: bool
) -> Iterator[tuple[str, Pace]]:
    """Those still running that took more than ``limit`` times the fastest one's time in every round."""
    medians = {name: np.array([np.median(block) for block in blocks]) for name, blocks in calls.items() if name not in dropped}
    fastest = min(medians, key=lambda name: float(np.median(medians[name])))
    least_of = _pace(calls[fastest]).tail_ms if tail else medians[fastest]
    for name, own in medians.items():
        least = float((own / least_of).min())
        if least > limit:
            yield name, _pace(calls[name])._replace(slower=least, than=fastest)


def _pace(blocks: Sequence[Sequence[float]]) -> Pace:
    calls = np.concatenate([*map(np.asarray, blocks)])
    return Pace(tuple(float(np.median(block)) for block in blocks), float(np.mean(calls)), float(np.percentile(calls, 99)))
