"""How long a training will still take, from the steps that it has taken."""

from __future__ import annotations

import time
from collections.abc import Callable

TOLD_EVERY = 0.5
"""Seconds between two notes: a bar then moves at least once a second wherever a step is shorter than that."""


FEWEST = 10
"""Steps that a pace has to rest on."""


class Pace:
    """Counts the steps of a whole training, of which ``done`` were taken by an earlier process; ``clock`` is in seconds.

    The first step of a process compiles and fills caches: it is no part of the pace.
    """

    def __init__(self, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._remaining, self._taken = clock, total - done, 0
        self._started = self._told = clock()

    def step(self) -> bool:
        """Count a step; true where it is time for a note."""
        self._taken += 1
        self._remaining -= 1
        now = self._clock()
        if self._taken == 1:
            self._started = now
        due = now - self._told >= TOLD_EVERY
        if due:
            self._told = now
        return due

    def left(self) -> str:
        """The time that the remaining steps take at the pace so far, evaluations counted in, like ``3 min 20 s``.

        Empty as long as fewer than ``FEWEST`` steps say what the pace is.
        """
        counted = self._taken - 1
        return duration((self._clock() - self._started) / counted * self._remaining) if counted >= FEWEST else ""


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    whole = round(seconds)
    hours, minutes, seconds_left = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds_left} s" if minutes else f"{seconds_left} s"
