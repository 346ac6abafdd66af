"""A bound on the memory that work may take, kept by the system: an allocation beyond the bound fails, and nothing is killed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZES = Path("/proc/self/statm")
"""Where Linux tells the pages of a process; the sixth number is of its data: the heap, threads' stacks, anonymous memory."""


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
