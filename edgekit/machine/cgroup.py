"""The share of CPU time that a container may use: the quotas of Linux control groups, versions 1 and 2.

A process is in one group of each hierarchy, and every group above it may have a quota too: the least of them counts. Inside a
container the path of a group may begin at the container, or at the host and not exist here: every possible folder is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

PROCESS = Path("/proc/self")
"""Where the kernel tells of this process: its groups, and where their hierarchies are mounted."""
_UNLIMITED = ("max", "-1")


def cpu_quota() -> float | None:
    """How many cores' worth of time this process may use, like 1.5; None where nothing limits it or no group tells."""
    quotas = [quota for folder in _folders() for quota in (_version_2(folder), _version_1(folder)) if quota]
    return min(quotas, default=None)


def _version_2(folder: Path) -> float | None:
    """``cpu.max`` is "QUOTA PERIOD" in microseconds."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return _ratio(quota, period)
    return None


def _version_1(folder: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return _ratio(quota, period)
    return None


def _ratio(quota: str, period: str) -> float | None:
    if quota in _UNLIMITED or int(period) <= 0:
        return None
    cores = int(quota) / int(period)
    return cores if 0 < cores < math.inf else None


def _folders() -> Iterator[Path]:
    """The folders of the process's group and of those above it, in each mounted hierarchy that may limit CPU time."""
    groups = _groups()
    for controllers, root, mount in _mounts():
        group = groups.get(controllers)
        yield mount
        if group is None:
            continue
        path = PurePosixPath(group)
        inside = path.relative_to(root) if path.is_relative_to(root) else path.relative_to("/")
        if ".." in inside.parts:  # the group lies outside of what this namespace shows
            continue
        yield from (mount / part for part in (inside, *inside.parents) if part.parts)


def _groups() -> dict[str, str]:
    """The process's group by the hierarchy: ``cpu`` of version 1, the empty name for version 2."""
    groups = {}
    with suppress(OSError):
        for line in (PROCESS / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                groups["cpu" if controllers else ""] = path
    return {name: path for name, path in groups.items() if path.startswith("/")}


def _mounts() -> Iterator[tuple[str, str, Path]]:
    """(hierarchy as in ``_groups``, the group that is mounted, where) of every mount that may limit CPU time."""
    with suppress(OSError):
        for line in (PROCESS / "mountinfo").read_text().splitlines():
            place, _, kind = line.partition(" - ")
            system, *_, controllers = kind.split(" ")
            if system == "cgroup2" or (system == "cgroup" and "cpu" in controllers.split(",")):
                root, mount = place.split(" ")[3:5]
                yield "cpu" if system == "cgroup" else "", root, Path(mount)
