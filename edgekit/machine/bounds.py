"""A bound on the memory that work may take, kept by the system: an allocation beyond the bound fails, and nothing is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZES = Path("/proc/self/statm")
"""Where Linux tells the pages of a process; the sixth number is of its data: the heap, threads' stacks, anonymous memory."""


@contextmanager
def memory_bound(room: int) -> Iterator[None]:
    """Let the process take at most ``room`` bytes of data more than it has now; where the system cannot do that, do nothing.

    Every thread of the process is bound (RLIMIT_DATA, Linux 4.7).
    """
    try:
        import resource

        used = int(SIZES.read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        bound = used + room if soft == resource.RLIM_INFINITY else min(soft, used + room)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    except (ImportError, OSError, ValueError, IndexError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
