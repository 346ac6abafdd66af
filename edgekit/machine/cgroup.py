"""What a container may use of CPU time and memory: the limits of Linux control groups, versions 1 and 2.

A process is in one group of each hierarchy, and every group above it may have a limit too: the least of them counts. Inside a
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
    quotas = [quota for folder in _folders("cpu") for quota in (_version_2(folder), _version_1(folder)) if quota]
    return min(quotas, default=None)


def throttled_periods() -> int | None:
    """In how many periods this process's groups have used up their quota and were stopped; None where no group tells."""
    counts = [count for folder in _folders("cpu") for count in _throttled(folder)]
    return sum(counts) if counts else None


def memory_left() -> int | None:
    """Bytes that this process's groups may still take, their file caches counted as free; None where nothing limits them."""
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    left = [bytes_ for folder in _folders("memory") for pair in names for bytes_ in _left(folder, *pair)]
    return min(left, default=None)


def _throttled(folder: Path) -> Iterator[int]:
    with suppress(OSError, ValueError):
        pairs = (line.split() for line in (folder / "cpu.stat").read_text().splitlines())
        yield from (int(count) for name, count in pairs if name == "nr_throttled")


def _left(folder: Path, limit: str, usage: str) -> Iterator[int]:
    with suppress(OSError, ValueError):
        bound, used = ((folder / name).read_text().strip() for name in (limit, usage))
        if bound not in _UNLIMITED:
            pairs = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            statistics = {name: int(value) for name, value in pairs}
            cached = sum(statistics.get(f"{state}_file", 0) for state in ("active", "inactive"))
            yield max(0, int(bound) - int(used) + cached)


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


def _folders(resource: str) -> Iterator[Path]:
    """The folders of the process's group and of those above it, in each mounted hierarchy that may limit ``resource``."""
    groups = _groups(resource)
    for controllers, root, mount in _mounts(resource):
        group = groups.get(controllers)
        yield mount
        if group is None:
            continue
        path = PurePosixPath(group)
        inside = path.relative_to(root) if path.is_relative_to(root) else path.relative_to("/")
        if ".." in inside.parts:  # the group lies outside of what this namespace shows
            continue
        yield from (mount / part for part in (inside, *inside.parents) if part.parts)


def _groups(resource: str) -> dict[str, str]:
    """The process's group by the hierarchy: ``resource`` of version 1, the empty name for version 2."""
    groups = {}
    with suppress(OSError):
        for line in (PROCESS / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or resource in controllers.split(","):
                groups[resource if controllers else ""] = path
    return {name: path for name, path in groups.items() if path.startswith("/")}


def _mounts(resource: str) -> Iterator[tuple[str, str, Path]]:
    """(hierarchy as in ``_groups``, the group that is mounted, where) of every mount that may limit ``resource``."""
    with suppress(OSError):
        for line in (PROCESS / "mountinfo").read_text().splitlines():
            place, _, kind = line.partition(" - ")
            system, *_, controllers = kind.split(" ")
            if system == "cgroup2" or (system == "cgroup" and resource in controllers.split(",")):
                root, mount = place.split(" ")[3:5]
                yield resource if system == "cgroup" else "", root, Path(mount)
