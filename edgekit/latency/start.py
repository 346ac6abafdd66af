"""Starting: what a fresh process takes until it has loaded a setup, answers, and is steady; and its memory."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.latency.fresh import time_fresh
from edgekit.latency.turns import WARM_SECONDS, Thing, Timer
from edgekit.machine.child import Failure
from edgekit.progress import SILENT, Progress
from edgekit.reports.fresh import Fresh
from edgekit.reports.start import StartRow

PROCESSES = 3


def start_rows(
    things: Sequence[Thing], seconds: float, progress: Progress = SILENT, time: Timer = time_fresh
) -> tuple[StartRow, ...]:
    """``PROCESSES`` of each thing, taking turns, after one that brings its files into memory and builds its engine.

    A thing of which a process fails is told with that process's sentence, and not started again.
    """
    processes: list[list[Fresh]] = [[] for _ in things]
    failures = ["" for _ in things]
    with progress.task("starting", len(things) * (PROCESSES + 1)) as advance:
        for turn in range(PROCESSES + 1):
            for place, thing in enumerate(things):
                advance(1, thing.label)
                if failures[place]:
                    continue
                part = seconds if turn else min(seconds, WARM_SECONDS)
                outcome = time(thing.bundle, thing.setup, thing.batch, thing.boundary, part)
                if isinstance(outcome, Failure):
                    failures[place] = outcome.sentence("its process")
                elif turn:
                    processes[place].append(outcome)
    return tuple(
        StartRow(thing.label, thing.setup, thing.batch, thing.boundary, tuple(own), failure)
        for thing, own, failure in zip(things, processes, failures, strict=True)
    )
