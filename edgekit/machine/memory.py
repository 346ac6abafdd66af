"""How much memory is left for this process (the machine's, and what the limits of containers leave of it), and what it takes."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import psutil

from edgekit.machine.cgroup import memory_left

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
"""Where Linux is told to forget the peak of a process."""


def available_memory() -> int:
    """Bytes that can be taken without swapping, the system's own caches counted as free."""
    machine = int(psutil.virtual_memory().available)
    left = memory_left()
    return machine if left is None else min(machine, left)


def resident_memory() -> int:
    """Bytes of this process that are in memory now, shared libraries too."""
    return int(psutil.Process().memory_info().rss)


def forget_peak() -> None:
    """Let ``peak_memory`` count from now on, where the system can do that: Linux 4.0."""
    with suppress(OSError):
        CLEAR_REFS.write_text("5")


def peak_memory() -> int | None:
    """The most bytes of this process that were in memory at once; None where the system does not tell.

    Linux: VmHWM. What ``getrusage`` tells there is no less than the memory of the process that started this one.
    """
    with suppress(OSError):
        match = re.search(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
        return int(match[1]) << 10 if match else None
    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows
    return None if peak is None else int(peak)
