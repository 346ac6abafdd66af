"""Ctrl-C, SIGTERM and SIGHUP while training: all processes stop between the same two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from edgekit.machine import stops
from edgekit.training.distributed import Peers


class Stop:
    """Whether Ctrl-C, SIGTERM or SIGHUP has come to any process: all call it between the same two steps, and stop there."""

    def __init__(self, together: Peers) -> None:
        self._peers, self._came, self.due = together, False, False

    def __call__(self, due: bool = False) -> bool:
        """Ask the others, and whether it is time for a note in any process: ``due`` is then true for all."""
        came, self.due = self._peers.any(self._came, due)  # one message for both: it is what a small step waits for
        return came

    def note(self, number: int, frame: FrameType | None) -> None:
        """A signal has come; a second Ctrl-C, unless it is the first one again, stops at once."""
        if stops.comes(number) and self._came and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._came = True


@contextmanager
def stopping(together: Peers) -> Iterator[Stop]:
    """Yields a Stop that is told of signals; those that the program ignores, or handles itself, are left alone."""
    stop = Stop(together)
    try:
        previous = {number: signal.signal(number, stop.note) for number in stops.ending()}
    except ValueError:  # not the main thread: no signals there
        previous = {}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
