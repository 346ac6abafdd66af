"""Things that are timed in fresh processes, taking turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeAlias, TypeVar

import msgspec
import numpy as np

from edgekit.errors import MissingError
from edgekit.latency.fresh import time_fresh
from edgekit.machine.child import Failure
from edgekit.progress import SILENT, Advance, Progress
from edgekit.reports.fresh import Fresh
from edgekit.reports.samples import thinned
from edgekit.setups import Setup

Item = TypeVar("Item")
WARM_SECONDS = 0.1
SAMPLES_KEPT = 500
"""Calls of each process that are kept: there are many processes, and what is decided stands on their medians."""

Timer: TypeAlias = Callable[["Path", Setup, int, str, float], "Fresh | Failure"]
"""What times a thing in a process of its own: ``time_fresh``, or a stand-in."""


class Thing(NamedTuple):
    """What one process times: a bundle by a setup, at a batch and a boundary; ``label`` names it in reports and errors."""

    label: str
    bundle: Path
    setup: Setup
    batch: int
    boundary: str


class Turns(NamedTuple):
    """How things take turns: how many processes of each, the seconds of each process, and the seed of their order.

    Without a ``seed`` the order is by chance, and another each time. ``kept``: how many calls of each process are.
    """

    each: int
    seconds: float = 1.0
    seed: int | None = None
    kept: int = SAMPLES_KEPT


Failed: TypeAlias = Callable[["Thing", Failure], None]
"""What is done about a thing of which a process has failed."""


def refuse(thing: Thing, failure: Failure) -> NoReturn:
    """Raise MissingError with the process's own sentence."""
    raise MissingError(f"{thing.label} cannot be timed: {failure.reason('its process')}", failure.remedy)


def timed(thing: Thing, seconds: float, time: Timer = time_fresh) -> Fresh:
    """One process, with ``SAMPLES_KEPT`` of its calls; raises MissingError where it fails."""
    outcome = time(thing.bundle, thing.setup, thing.batch, thing.boundary, seconds)
    if isinstance(outcome, Failure):
        refuse(thing, outcome)
    return _keeping(outcome, SAMPLES_KEPT)


def _keeping(fresh: Fresh, samples: int) -> Fresh:
    return msgspec.structs.replace(fresh, samples_ms=thinned(fresh.samples_ms, samples))


def warm(things: Sequence[Thing], seconds: float, advance: Advance, time: Timer = time_fresh) -> None:
    """Each thing once, unrecorded and short: the first process that counts reads no cold files, and builds no engine."""
    for thing in things:
        timed(thing, min(seconds, WARM_SECONDS), time)
        advance(1, thing.label)


def in_turns(
    things: Sequence[Thing],
    turns: Turns,
    progress: Progress = SILENT,
    time: Timer = time_fresh,
    failed: Failed = refuse,
    title: str = "fresh processes",
) -> list[list[Fresh]]:
    """The processes of each thing, made in rounds of a random order each, after one of each that is short and does not count.

    ``failed`` is told of a thing that fails, and usually raises MissingError; where it does not, that takes no more turns.
    """
    processes: list[list[Fresh]] = [[] for _ in things]
    out = set[int]()
    warming = [(place, min(turns.seconds, WARM_SECONDS)) for place in range(len(things))]
    counting = [(place, turns.seconds) for place in shuffled(range(len(things)), turns.each, turns.seed)]
    with progress.task(title, len(warming) + len(counting)) as advance:
        for number, (place, seconds) in enumerate([*warming, *counting]):
            thing = things[place]
            advance(1, thing.label)
            if place in out:
                continue
            outcome = time(thing.bundle, thing.setup, thing.batch, thing.boundary, seconds)
            if isinstance(outcome, Failure):
                out.add(place)
                failed(thing, outcome)
            elif number >= len(warming):
                processes[place].append(_keeping(outcome, turns.kept))
    return processes


def shuffled(items: Sequence[Item], rounds: int, seed: int | None) -> Iterator[Item]:
    """All of ``items`` in every one of ``rounds`` rounds, each round in an order that ``seed``, or chance, draws anew."""
    dice = np.random.default_rng(seed)
    for _ in range(rounds):
        for place in dice.permutation(len(items)):
            yield items[place]
