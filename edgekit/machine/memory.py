"""How much memory is left for this process: the machine's, and what the limits of containers leave of it."""

from __future__ import annotations

import psutil

from edgekit.machine.cgroup import memory_left


def available_memory() -> int:
    """Bytes that can be taken without swapping, the system's own caches counted as free."""
    machine = int(psutil.virtual_memory().available)
    left = memory_left()
    return machine if left is None else min(machine, left)
