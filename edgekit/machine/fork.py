"""Going on in a fork that this process watches: what runs somebody else's network may crash, or heed no flag that ends it.

``time_bound`` tells the watcher when the work should have ended. A fork that is still there some seconds later is killed.
"""

from __future__ import annotations

import math
import os
import signal
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from edgekit.errors import BundleError
from edgekit.machine import stops
from edgekit.machine.bounds import too_long, watched_by
from edgekit.machine.child import die_with_parent
from edgekit.machine.launcher import Elsewhere

GRACE = 3.0
"""Seconds after the end of a time bound in which the work may still end by itself."""
_STEP = 0.02
_MESSAGE = struct.Struct("dd")
"""When the work ends at the latest, by the monotonic clock, and how many seconds it had; infinite where nothing bounds it.

No number as the end says that stdout has its document.
"""
_CODES = frozenset({0, 1, 2, 3}) | stops.CODES
"""What the command line exits with."""
_allowed = False
_outlet: int | None = None


def allow() -> None:
    """Let ``follow`` fork: this process runs one command and nothing else."""
    global _allowed  # noqa: PLW0603
    _allowed = hasattr(os, "fork")


def written() -> None:
    """Tell the watcher, if any, that stdout has its document: whatever comes now is no second one."""
    if _outlet is not None:
        os.write(_outlet, _MESSAGE.pack(math.nan, 0.0))


class Followed(Elsewhere):
    """The fork has carried out the command, and exits with this code; ``line`` says what ended it after its document."""


class _Messages:
    """What the fork tells: the end of its work, and whether stdout has its document."""

    def __init__(self, inlet: int) -> None:
        self._inlet, self.end, self.seconds, self.written = inlet, math.inf, 0.0, False
        os.set_blocking(inlet, False)

    def take(self) -> None:
        """Read what has come."""
        with suppress(BlockingIOError):
            while len(message := os.read(self._inlet, _MESSAGE.size)) == _MESSAGE.size:
                end, seconds = _MESSAGE.unpack(message)
                if math.isnan(end):
                    self.written = True
                else:
                    self.end, self.seconds = end, seconds


def follow(subject: str) -> None:
    """Fork, and return in the fork only, which goes on; and where nothing may fork.

    A stop is the fork's to tell, whether it comes to the process group, to the watcher or to the fork alone.

    Raises Followed when the fork has ended, and BundleError, about the ``subject``, where it crashes or does not end in time.
    What ends it after its document is a line of Followed, since no second document may follow.
    """
    global _outlet  # noqa: PLW0603
    if not _allowed:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    inlet, outlet = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, stops.SIGNALS)  # until each of the two is ready for it
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError:  # no more processes are allowed: better without a watcher than not at all
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops.SIGNALS)
        os.close(inlet)
        os.close(outlet)
        return
    if pid:
        os.close(outlet)
        messages = _Messages(inlet)
        try:
            code = _watch(pid, messages, subject)
        except (BundleError, KeyboardInterrupt) as problem:
            messages.take()
            if not messages.written:
                raise
            line = f"error: {problem}" if isinstance(problem, BundleError) else "stopped"
            raise Followed(2 if isinstance(problem, BundleError) else stops.exit_code(), line) from None
        raise Followed(code)
    os.close(inlet)
    die_with_parent()
    if os.getppid() != parent:  # it was killed before
        os._exit(2)

    def tell(end: float, seconds: float) -> None:
        os.write(outlet, _MESSAGE.pack(end, seconds))

    _outlet = outlet
    watched_by(tell)
    stops.once()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stops.SIGNALS)


def _watch(pid: int, messages: _Messages, subject: str) -> int:
    """The exit code of the fork, once it has ended."""
    came = list[int]()

    def note(number: int, frame: FrameType | None) -> None:
        if stops.comes(number):
            came.append(number)

    for number in stops.ending():
        signal.signal(number, note)  # to the end: what comes when the fork has ended comes too late
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stops.SIGNALS)
    passed_on = 0
    while (status := _ended(pid, _STEP)) is None:
        messages.take()
        for number in came[passed_on:]:  # the fork heeds one, which may have come to its group, so to it; a second one kills
            os.kill(pid, signal.SIGKILL if passed_on else number)
            passed_on += 1
        if time.monotonic() > messages.end + GRACE:
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED)
            if came:
                raise KeyboardInterrupt
            raise too_long(subject, messages.seconds)
    return _code(status, came, subject)


def _code(status: int, came: Sequence[int], subject: str) -> int:
    """What to exit with after a fork that has ended with ``status``, and the stops that ``came``; raises for a crash."""
    if status in _CODES:
        return status
    if -status in stops.SIGNALS:
        return 128 - status
    if not came:
        how = f"with signal {-status}" if status < 0 else f"and exits with {status}"
        raise BundleError(f"running {subject} crashes {how}", "do not trust it")
    if status == -signal.SIGKILL:  # by the second stop, before it could tell
        raise KeyboardInterrupt
    return 128 + came[0]  # a runtime that was interrupted may crash: that is not the bundle's fault


def _ended(pid: int, seconds: float) -> int | None:
    """The exit code of the fork, minus its signal where one has ended it; None where it goes on for so long."""
    until = time.monotonic() + seconds
    while True:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
        if ended is not None:
            return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        if time.monotonic() >= until:
            return None
        time.sleep(_STEP / 4)
