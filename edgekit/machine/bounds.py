"""Bounds on what work may take: memory, kept by the system, and time, of which those that do the work are told.

An allocation beyond the bound fails, and nothing is killed.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from edgekit.errors import BundleError, TooLargeError, UsageError
from edgekit.files import MOST_QUOTED
from edgekit.numerals import decimal

SIZES = Path("/proc/self/statm")
"""Where Linux tells the pages of a process; the sixth number is of its data: the heap, threads' stacks, anonymous memory."""


SECONDS_VARIABLE = "EDGEKIT_SECONDS"
"""An environment variable: the seconds that work may take, in place of what is usual or what a bundle's size explains."""
MORE_TIME = f"do not trust it; if you do, set {SECONDS_VARIABLE} to the seconds that it may take"
"""The remedy for work of somebody else's file that was ended."""
LONGER = f"set {SECONDS_VARIABLE} to the seconds that it may take"
"""The remedy for a program that was ended while it was waited for."""
USUAL_STACK = 8 << 20
_lock = threading.Lock()
_open: list[tuple[int, tuple[int, int]]] = []  # a bound for each open context, and the limits before it


def stacks(threads: int) -> int:
    """The bytes that the stacks of ``threads`` threads count for, whether they are used or not."""
    try:
        import resource

        size = resource.getrlimit(resource.RLIMIT_STACK)[0]
        return threads * (USUAL_STACK if size == resource.RLIM_INFINITY else size)
    except (ImportError, OSError):
        return threads * USUAL_STACK


@contextmanager
def memory_bound(room: int) -> Iterator[None]:
    """Let the process take at most ``room`` bytes of data more than it has now; where the system cannot do that, do nothing.

    Every thread of the process is bound (RLIMIT_DATA, Linux 4.7). Of contexts that overlap, as in two threads, the widest bound
    holds; what was before the first is there again after the last.
    """
    try:
        import resource

        used = int(SIZES.read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
        with _lock:
            soft, hard = _open[0][1] if _open else resource.getrlimit(resource.RLIMIT_DATA)
            bound = used + room if soft == resource.RLIM_INFINITY else min(soft, used + room)
            resource.setrlimit(resource.RLIMIT_DATA, (max([bound, *(other for other, _ in _open)]), hard))
            _open.append((bound, (soft, hard)))
    except (ImportError, OSError, ValueError, IndexError):
        yield
        return
    try:
        yield
    finally:
        with _lock:
            _open.remove((bound, (soft, hard)))
            rest = max((other for other, _ in _open), default=soft)
            resource.setrlimit(resource.RLIMIT_DATA, (rest, hard))


class TimeBound:
    """An end that work has: ``at_end`` says what ends it, ``over`` whether the end is there."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.over = seconds, False
        self._actions: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def at_end(self, action: Callable[[], object]) -> None:
        """Call ``action`` at the end, from another thread, or now where the end is there."""
        with self._lock:
            self._actions.append(action)
            over = self.over
        if over:
            action()

    def end(self) -> None:
        """The end is there."""
        with self._lock:
            self.over, actions = True, tuple(self._actions)
        for action in actions:
            action()


def granted_seconds(usual: float) -> float:
    """The seconds that the user grants, or else the ``usual`` ones; raises UsageError for what is no time."""
    given = os.environ.get(SECONDS_VARIABLE, "").strip()
    if not given:
        return usual
    seconds = decimal(given)
    if seconds is None or seconds <= 0:
        raise UsageError(f"{SECONDS_VARIABLE}={given[:MOST_QUOTED]} is no time", "give seconds above 0, such as 120")
    return min(seconds, threading.TIMEOUT_MAX)


def waiting_seconds(usual: float) -> float:
    """The seconds to wait for a process of edgekit's own or another program: the ``usual`` ones, or the user's if those are more.

    Fewer are meant for work of somebody else's file, and would end every process before it has started.
    """
    return max(usual, granted_seconds(usual))


def too_large(doing: str, explained_by: str = "tensors explain") -> TooLargeError:
    """The error of work that its memory bound has ended; ``doing`` is what was done, such as ``opening model.onnx``."""
    return TooLargeError(f"{doing} takes more memory than its {explained_by}", "do not trust it")


def too_long(subject: object, seconds: float) -> BundleError:
    """The error of work that its time bound has ended."""
    return BundleError(f"{subject} takes longer than {seconds:.0f} s, which its size does not explain", MORE_TIME)


_watcher: Callable[[float, float], object] | None = None


def watched_by(tell: Callable[[float, float], object] | None) -> None:
    """Call ``tell`` with the end, by the monotonic clock, and the seconds of each time bound; the end is infinite after it."""
    global _watcher  # noqa: PLW0603
    _watcher = tell


_time: ContextVar[TimeBound | None] = ContextVar("_time", default=None)


def current_time_bound() -> TimeBound | None:
    """The bound of the work that is under way, if it has one."""
    return _time.get()


@contextmanager
def time_bound(seconds: float) -> Iterator[TimeBound]:
    """Let the work inside take ``seconds``, as far as those that do it ask for ``current_time_bound``."""
    bound = TimeBound(seconds)
    timer = threading.Timer(seconds, bound.end)
    timer.daemon = True
    token = _time.set(bound)
    timer.start()
    if _watcher is not None:
        _watcher(time.monotonic() + seconds, seconds)
    try:
        yield bound
    finally:
        timer.cancel()
        _time.reset(token)
        if _watcher is not None:
            _watcher(math.inf, 0.0)
