"""Facts about this machine that make two measurements comparable, or not."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

CPU_INFO = Path("/proc/cpuinfo")
FREQUENCY = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def system() -> str:
    """``Linux x86_64``: what a compiled file is bound to."""
    return f"{platform.system()} {platform.machine()}"


def machine_facts() -> dict[str, str]:
    """CPU model, cores allowed, governor, load, system; what cannot be read is left out."""
    facts = {
        "system": system(),
        "cpu": _cpu_model(),
        "cores": str(cores()),
        "python": platform.python_version(),
    }
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.is_file():
        facts["governor"] = governor.read_text().strip()
    if hasattr(os, "getloadavg"):
        facts["load"] = f"{os.getloadavg()[0]:.2f}"
    return facts


def cpu_clocks_mhz() -> list[int]:
    """The clock of each core allowed, now; empty where the system does not tell."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    try:
        return [int(path.read_text()) // 1000 for path in (Path(FREQUENCY.format(core)) for core in sorted(allowed))]
    except (OSError, ValueError):
        return _cpuinfo_mhz(allowed)


def _cpuinfo_mhz(allowed: set[int]) -> list[int]:
    """Lines ``processor : 0`` and ``cpu MHz : 2596.136`` of each core; ARM's have no clock."""
    try:
        lines = [line.partition(":") for line in CPU_INFO.read_text().splitlines()]
        cores = [int(value) for name, _, value in lines if name.strip() == "processor"]
        clocks = [round(float(value)) for name, _, value in lines if name.strip() == "cpu MHz"]
    except (OSError, ValueError):
        return []
    return [mhz for core, mhz in zip(cores, clocks, strict=False) if core in allowed]


class CpuTime(NamedTuple):
    """A moment: seconds of wall clock, of CPU time this process has used, and that all processes have used."""

    wall: float
    own: float
    all: float | None

    @classmethod
    def now(cls) -> CpuTime:
        """Read the clocks; ``all`` is None where the system does not tell."""
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
            user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
            everyone = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            everyone = None
        return cls(time.perf_counter(), time.process_time(), everyone)

    def stolen_until(self, later: CpuTime) -> float:
        """The share of the machine's cores that other processes used between two moments; 0 where that is not known."""
        wall = later.wall - self.wall
        if self.all is None or later.all is None or wall <= 0:
            return 0.0
        others = (later.all - self.all) - (later.own - self.own)
        return min(1.0, max(0.0, others / (wall * (os.cpu_count() or 1))))


def _cpu_model() -> str:
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()
