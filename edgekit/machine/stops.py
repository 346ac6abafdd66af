"""The signals that ask a command to end: Ctrl-C, SIGTERM and SIGHUP clean up alike, and the exit code is 128 + the number.

A command's process ``take``s them when it starts. Until the command begins its work there is nothing to clean up; ``raised``
makes each of them a KeyboardInterrupt in the main thread; ``released``, one ends the process at once again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[[int, "FrameType | None"], Any]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
CODES = frozenset(128 + number for number in SIGNALS)
"""What a command exits with that one of them has ended."""
SAME = 1.0
"""Seconds within which a signal of the same number is the same one: it reaches a process by its id and by its group."""

_taken = list[int]()
_last: tuple[int, float] = (int(signal.SIGINT), float("-inf"))


def take(leave: Callable[[int], None]) -> None:
    """Let ``leave`` end the process when such a signal comes, until ``raised``; what this process ignores stays ignored."""

    def end(number: int, frame: FrameType | None) -> None:
        if comes(number):
            leave(number)

    _taken[:] = [number for number in SIGNALS if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)]
    _handle(end)


@contextmanager
def raised() -> Iterator[None]:
    """Raise KeyboardInterrupt for a signal that was taken; afterwards one ends the process at once, as the system does."""
    _handle(interrupt)
    try:
        yield
    finally:
        released()


def released() -> None:
    """Leave the signals that were taken to the system, which ends the process."""
    _handle(signal.SIG_DFL)


def _handle(handler: Handler | signal.Handlers) -> None:
    for number in _taken:
        signal.signal(number, handler)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, once for a signal that comes twice."""
    if comes(number):
        raise KeyboardInterrupt


def interrupting() -> dict[int, Any]:
    """Number -> its handler, of the signals that raise KeyboardInterrupt in this process."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: handler for number, handler in handlers.items() if handler in (interrupt, signal.default_int_handler)}


def comes(number: int) -> bool:
    """Remember that the signal has come, for ``last``; false where it is the same one again."""
    global _last  # noqa: PLW0603
    (before, when), now = _last, time.monotonic()
    if number == before and now - when < SAME:
        return False
    _last = (number, now)
    return True


def last() -> int:
    """The number of the last signal that has come to a process that takes them; SIGINT's where none has."""
    return _last[0] if _taken else int(signal.SIGINT)


def exit_code(number: int | None = None) -> int:
    """What a command exits with that the signal, or the last that has come, has ended."""
    return 128 + (last() if number is None else number)


def words(number: int | None = None) -> str:
    """What people call the signal, or the last that has come."""
    number = last() if number is None else number
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
