"""One way to run a bundle against another, by pairs of fresh processes that take turns.

A coin that a seed throws for each pair decides which of it comes first. Whatever the machine does to the first and the second
process of a pair, A gets either with a probability of one half, apart from all other pairs: where A and B are alike each of the
2^n patterns of signs is equally likely, which is what the sign-flip test counts (randomisation: Fisher 1935, Edgington 1980).
Blocks A B B A would balance a steady drift, but have 2^(n/2) patterns only. Each thing runs once before, unrecorded and short, so
that the first pair does not pay for files that are not in memory yet, or for an engine that has to be built.

The pairs are looked at twice. Rows that the first look leaves undecided get as many pairs again, and the second look judges all
of these. The first look spends 0.004 of the risk of 0.01 and the second the rest, so that both together are wrong with a
probability of at most 0.01, however much what they see depends on each other (Bonferroni; group-sequential designs: Pocock 1977).
Most rows are decided by the first look. A look that could not decide, or after which too little follows, is left out, and the
other spends the whole risk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edgekit.errors import Interrupted
from edgekit.latency.fresh import time_fresh
from edgekit.latency.signflip import ALPHA, MOST_PAIRS, fewest_pairs
from edgekit.latency.turns import Thing, Timer, Turns, timed, warm
from edgekit.latency.verdict import CONTROLLED_ALPHA, evidence_of, judge
from edgekit.machine import stops
from edgekit.progress import SILENT, Advance, Progress
from edgekit.reports.against import AgainstRow, Control, Judged, PairedRatio, Verdict
from edgekit.reports.fresh import Fresh

PAIRS, PAIRS_OF_SEVERAL = 8, 10
"""Usual pairs of the first look where one row decides, and where several do, up to four: Holm's steps need smaller p-values."""
LIMIT = 0.05
FIRST_ALPHA = 0.004
"""The first look's part of ``ALPHA``: eight pairs that all agree have p = 0.0039."""
WORTH_A_LOOK = 0.25
"""A second look that adds a smaller share of pairs would cost the first more of its risk than it gains."""


class Look(NamedTuple):
    """After so many pairs of a row it is judged, at the part ``alpha`` of ``ALPHA``."""

    pairs: int
    alpha: float


def looks(pairs: int) -> tuple[Look, ...]:
    """After ``pairs``, and after twice as many, at most ``MOST_PAIRS``.

    There is one look, at all of ``ALPHA``: after twice as many where ``pairs`` could decide nothing at ``FIRST_ALPHA``, and after
    ``pairs`` where ``MOST_PAIRS`` leaves hardly any more.
    """
    every = min(2 * pairs, MOST_PAIRS)
    if every - pairs < WORTH_A_LOOK * pairs:
        return (Look(pairs, ALPHA),)
    if pairs < fewest_pairs(FIRST_ALPHA):
        return (Look(every, ALPHA),)
    return (Look(pairs, FIRST_ALPHA), Look(every, ALPHA - FIRST_ALPHA))


class Duel(NamedTuple):
    """A row that decides: ``first`` is A, which must not be slower than B, ``second``; ``backend`` is the row's name."""

    backend: str
    first: Thing
    second: Thing


def usual_pairs(rows: int) -> int:
    """The pairs of the first look at ``rows`` which decide together: enough that it can find all of them slower."""
    pairs = PAIRS if rows == 1 else PAIRS_OF_SEVERAL
    while rows * 0.5**pairs > FIRST_ALPHA:
        pairs += 1
    return pairs


def orders(pairs: int, seed: int | None) -> Iterator[str]:
    """For each pair "AB" or "BA", by a throw of a fair coin of its own."""
    coin = np.random.default_rng(seed)
    for _ in range(pairs):
        yield "AB" if coin.integers(2) else "BA"


class Contest:
    """A row that decides, its processes so far, and what the last look says of it."""

    def __init__(
        self, duel: Duel, first: Sequence[Fresh] = (), second: Sequence[Fresh] = (), control: Control | None = None
    ) -> None:
        self.duel, self.first, self.second, self.control = duel, list(first), list(second), control
        self.evidence: PairedRatio | None = None
        self.judged = Judged("undecided")

    def run(self, order: str, seconds: float, time: Timer, advance: Advance) -> None:
        """A pair in ``order``, "AB" or "BA"; raises MissingError where a process fails."""
        sides = {"A": (self.duel.first, self.first), "B": (self.duel.second, self.second)}
        for letter in order:
            thing, processes = sides[letter]
            processes.append(timed(thing, seconds, time))
            advance(1, thing.label)

    def seen(self, alpha: float) -> PairedRatio:
        """What its pairs say, for a look at ``alpha``; of one that is decided the p that Holm's steps count it with."""
        if self.evidence is not None and self.judged.verdict != "undecided":
            return msgspec.structs.replace(self.evidence, p=_DECIDED[self.judged.verdict])
        first, second = ([one.median_ms for one in side] for side in (self.first, self.second))
        return evidence_of(first, second, alpha, self.control)

    @property
    def so_far(self) -> list[float]:
        """A over B of each pair that is whole."""
        return [one.median_ms / other.median_ms for one, other in zip(self.first, self.second, strict=False)]

    def row(self, drawn: Sequence[str] = ()) -> AgainstRow:
        """The row of the report; ``drawn`` are the orders of its pairs and maybe of more."""
        assert self.evidence is not None
        return AgainstRow(
            backend=self.duel.backend,
            batch=self.duel.first.batch,
            boundary=self.duel.first.boundary,
            setup=self.duel.first.setup,
            against_setup=self.duel.second.setup,
            order=tuple(drawn[: len(self.first)]),
            first=tuple(self.first),
            second=tuple(self.second),
            evidence=self.evidence,
            judged=self.judged,
        )


_DECIDED: dict[Verdict, float] = {"slower": 0.0, "not slower": 1.0}
"""A row that was found slower leaves its risk to the others; one that was not stays in the count of those that share it."""


def decide(contests: Sequence[Contest], limit: float, alpha: float = ALPHA) -> None:
    """Judge the undecided rows by all of their pairs, together, at ``alpha``; the others keep their verdicts."""
    found = judge([contest.seen(alpha) for contest in contests], limit, alpha)
    for contest, (evidence, judged) in zip(contests, found, strict=True):
        if contest.judged.verdict == "undecided":
            contest.evidence, contest.judged = evidence, judged


def duels(
    rows: Sequence[Duel], turns: Turns, limit: float = LIMIT, progress: Progress = SILENT, time: Timer = time_fresh
) -> tuple[AgainstRow, ...]:
    """Run ``turns.each`` pairs of every row in turn, and as many again of rows that these leave undecided.

    Raises MissingError where a process fails, and Interrupted, with what was seen, after Ctrl-C, SIGTERM or SIGHUP.
    """
    contests = [Contest(row) for row in rows]
    drawn = tuple(orders(looks(turns.each)[-1].pairs, turns.seed))
    try:
        _run(contests, drawn, turns, limit, progress, time)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped by {stops.words()} {_seen_so_far(contests, turns.each)}", AGAIN) from None
    return tuple(contest.row(drawn) for contest in contests)


AGAIN = "run it again, with shorter --seconds where it takes too long"
"""What to do about a comparison that was stopped."""


def _seen_so_far(contests: Sequence[Contest], pairs: int) -> str:
    """The pairs of each row that were whole, and their median ratio; whoever stops at a ratio that pleases decides nothing."""
    seen = [contest for contest in contests if contest.so_far]
    if not seen:
        return "before the first pair of processes was whole, so that these decide nothing"
    done = max(len(contest.so_far) for contest in seen)
    counts = " to ".join(str(look.pairs) for look in looks(pairs))
    places = {(contest.duel.first.batch, contest.duel.first.boundary) for contest in contests}
    told = ", ".join(
        f"A took {np.median(contest.so_far):.3f} times B's time on {_place(contest.duel, len(places) > 1)}" for contest in seen
    )
    return f"after {done} pair{'s' * (done > 1)} of {counts}, which decide nothing: in these {told}"


def _place(duel: Duel, several: bool) -> str:
    """Where a row is: its backend, and of ``several`` batch sizes and boundaries its own."""
    return duel.backend + (f" batch {duel.first.batch} {duel.first.boundary}" if several else "")


def _run(contests: Sequence[Contest], drawn: Sequence[str], turns: Turns, limit: float, progress: Progress, time: Timer) -> None:
    """All looks, until no row is undecided."""
    rows = [contest.duel for contest in contests]
    with progress.task("warming up", 2 * len(rows)) as advance:
        warm([thing for row in rows for thing in (row.first, row.second)], turns.seconds, advance, time)
    done = 0
    for look in looks(turns.each):
        running = [contest for contest in contests if contest.judged.verdict == "undecided"]
        if not running:
            break
        with progress.task("fresh processes", 2 * len(running) * (look.pairs - done)) as advance:
            for order in drawn[done : look.pairs]:
                for contest in running:
                    contest.run(order, turns.seconds, time, advance)
        decide(contests, limit, look.alpha)
        done = look.pairs


def judged(
    rows: Sequence[Duel],
    first: Sequence[Sequence[Fresh]],
    second: Sequence[Sequence[Fresh]],
    controls: Sequence[Control | None],
    limit: float,
) -> tuple[AgainstRow, ...]:
    """The rows of processes that have all run, by one look; ``controls`` say how each row's machine has moved between them."""
    contests = [Contest(*each) for each in zip(rows, first, second, controls, strict=True)]
    decide(contests, limit, CONTROLLED_ALPHA)
    return tuple(contest.row() for contest in contests)
