"""Facts about this machine that make two measurements comparable, or not."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil

from edgekit.machine.cgroup import cpu_quota
from edgekit.setups import Absence

CPU_INFO = Path("/proc/cpuinfo")
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
"""What a core does when it is not idle, as psutil names it where the system tells it; a guest's time is the user's too."""
FREQUENCY = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"


def cores() -> int:
    """Cores this process may keep busy: those it is allowed, and no more than a container's quota pays for (rounded down)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, math.floor(quota)))


def system() -> str:
    """``Linux x86_64``: what a compiled file is bound to."""
    return f"{platform.system()} {platform.machine()}"


SETS = "instruction sets"
"""The fact that results of 8-bit arithmetic, and times, depend on."""
OF_TIMES = ("system", "cpu", "cores", "cpu quota", SETS)
"""Those facts of a machine that a time on its CPU depends on and that are the same every day."""


def machine_facts() -> dict[str, str]:
    """CPU model, cores, a container's quota, governor, load, system; what cannot be read is left out."""
    facts = {
        "system": system(),
        "cpu": _cpu_model(),
        "cores": str(cores()),
        "python": platform.python_version(),
    } | cpu_facts()
    quota = cpu_quota()
    if quota is not None:
        facts["cpu quota"] = f"{quota:g} cores"
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.is_file():
        facts["governor"] = governor.read_text().strip()
    with suppress(OSError):
        facts["load"] = f"{psutil.getloadavg()[0]:.2f}"
    return facts


def cpu_clocks_mhz() -> list[int]:
    """The clock of each core allowed, now; empty where the system does not tell.

    Cores that share a clock are one entry of psutil's, which then has fewer entries than cores: their own files are read first.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    try:
        return [int(Path(FREQUENCY.format(core)).read_text()) // 1000 for core in allowed]
    except (OSError, ValueError):
        clocks = _clocks()
    return [clocks[core] for core in allowed] if len(clocks) == os.cpu_count() and allowed[-1] < len(clocks) else []


def _clocks() -> list[int]:
    """Clocks in MHz of every core that is on; an ARM core without a clock driver has none."""
    try:
        return [round(frequency.current) for frequency in psutil.cpu_freq(percpu=True) or []]
    except (OSError, ValueError, NotImplementedError, AttributeError):  # not everywhere does psutil have the function
        return []


INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "avx512_bf16",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)
"""Flags of /proc/cpuinfo that decide how 8-bit and 16-bit arithmetic is done: of x86, then of ARM."""


@cache
def instruction_sets() -> tuple[str, ...]:
    """Those of ``INSTRUCTION_SETS`` that this CPU has; empty where the system does not tell."""
    flags = set(" ".join(_told("flags", "Features")).split())
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def cpu_vendor() -> str:
    """``AuthenticAMD`` or ``GenuineIntel``; empty where the system does not tell, as on ARM."""
    return next(iter(_told("vendor_id")), "")


VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Those of x86 by which 8-bit products are added without saturating in 16 bits."""


def with_vnni(names: Sequence[str]) -> tuple[str, ...]:
    """Those of ``names`` that are in ``VNNI``."""
    return tuple(name for name in names if name in VNNI)


def vnni_absence() -> Absence | None:
    """Why 8-bit arithmetic is another here than on newer x86 CPUs; None where it is not, or where the system does not tell."""
    names = instruction_sets()
    if with_vnni(names) or platform.machine() not in ("x86_64", "AMD64") or not names:
        return None
    return Absence(
        "int8 without VNNI: this CPU adds 8-bit products in 16 bits, so that many int8 files lose accuracy and gain little speed",
        "measure an int8 file here with edgekit evaluate --variant int8, and edgekit bench",
    )


def cpu_facts() -> dict[str, str]:
    """Facts of a session that computes on this CPU: results of 8-bit arithmetic, and times, depend on them."""
    names = ", ".join(instruction_sets())
    return {SETS: names} if names else {}


class CpuTime(NamedTuple):
    """A moment: seconds of wall clock, of CPU time this process has used, and that all processes have used."""

    wall: float
    own: float
    all: float | None

    @classmethod
    def now(cls) -> CpuTime:
        """Read the clocks; ``all`` is None where the system does not tell."""
        try:
            times = psutil.cpu_times()._asdict()
            everyone = sum(times[name] for name in BUSY if name in times)
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
    names = _told("model name", "Hardware", "Model")
    return names[0] if names else platform.processor() or platform.machine()


def _told(*names: str) -> list[str]:
    """What the lines of /proc/cpuinfo say that begin with one of ``names``; nothing where there is no such file."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(names)]
