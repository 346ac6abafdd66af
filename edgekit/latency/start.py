"""Starting: what a fresh process takes until it has loaded a setup, answers, and is steady; and its memory."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.latency.fresh import time_fresh
from edgekit.latency.turns import Thing, Timer, Turns, in_turns
from edgekit.machine.child import Failure
from edgekit.progress import SILENT, Progress
from edgekit.reports.samples import MOST_SAMPLES
from edgekit.reports.start import StartRow

PROCESSES = 3


def start_rows(
    things: Sequence[Thing], seconds: float, progress: Progress = SILENT, time: Timer = time_fresh, seed: int | None = None
) -> tuple[StartRow, ...]:
    """``PROCESSES`` of each thing, taking turns, after one that brings its files into memory and builds its engine.

    ``seed`` draws their order. A thing of which a process fails is told with that process's sentence, and not started again.
    """
    failures: dict[Thing, str] = {}

    def failed(thing: Thing, failure: Failure) -> None:
        failures[thing] = failure.sentence("its process")

    turns = Turns(PROCESSES, seconds, seed, kept=MOST_SAMPLES)
    processes = in_turns(things, turns, progress, time, failed, title="starting")
    return tuple(
        StartRow(thing.label, thing.setup, thing.batch, thing.boundary, tuple(own), failures.get(thing, ""))
        for thing, own in zip(things, processes, strict=True)
    )
