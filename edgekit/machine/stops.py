"""The signals that ask a command to end: Ctrl-C, SIGTERM and SIGHUP clean up alike, and the exit code is 128 + the number.

A command's process ``take``s them when it starts. Until the command begins its work there is nothing to clean up; ``raised``
makes each of them a KeyboardInterrupt in the main thread; ``released``, a further one ends the process at once again.
"""

from __future__ import annotations

import math
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
"""Seconds within which a signal is the same stop: it reaches a process by its id and its group, and as SIGTERM with SIGHUP."""

_taken = list[int]()
_once = False
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
    """Let a signal that was taken end the process as the system does, unless it is the stop that has come already."""
    _handle(_end)


def _end(number: int, frame: FrameType | None) -> None:
    if comes(number):
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def once() -> None:
    """From now on the first stop is the only one: further ones are for another process, which watches this one."""
    global _once  # noqa: PLW0603
    _once = True


def _handle(handler: Handler) -> None:
    for number in _taken:
        signal.signal(number, handler)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, once for a signal that comes twice."""
    if comes(number):
        raise KeyboardInterrupt


def ending() -> dict[int, Any]:
    """Number -> its handler, of the signals that end this process, at once or by KeyboardInterrupt; others are left alone."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    ends = (interrupt, signal.default_int_handler, signal.SIG_DFL)
    return {number: handler for number, handler in handlers.items() if handler in ends}


def interrupting() -> dict[int, Any]:
    """Number -> its handler, of the signals that raise KeyboardInterrupt in this process."""
    return {number: handler for number, handler in ending().items() if handler is not signal.SIG_DFL}


def comes(number: int) -> bool:
    """Remember that the signal has come, for ``last``; false where it is the same stop again."""
    global _last  # noqa: PLW0603
    now = time.monotonic()
    if now - _last[1] < (math.inf if _once else SAME):
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
