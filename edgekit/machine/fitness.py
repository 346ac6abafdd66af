"""Whether this machine is fit to be measured: what moves times although nothing that is measured has changed, and the remedies.

Some of it can be read, and some only watched: two moments are compared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import psutil

from edgekit.machine.cgroup import cpu_quota, throttled_periods
from edgekit.machine.cpu import CpuTime
from edgekit.machine.gpu import POWER_LIMIT, cuda_absence, gpu_processes, gpu_state

CPUS = Path("/sys/devices/system/cpu")
WINDOW_SECONDS = 2.0
BUSY, HEAVY = 0.05, 0.15
"""Shares of the cores that other processes take: above the first they are told, above the second ``bench`` calls rows noisy."""
STEAL = 0.01
MOST_NAMES = 3
LONGEST_WORD = 160
"""Characters of a word that is told: a path is whole."""
BENCHES = ("bench", "tune")

State: TypeAlias = Literal["fit", "weak", "unfit", "unknown"]


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that moves times. ``weak``: they scatter more than they had to; ``unfit``: they tell of something else."""

    name: str
    state: State
    found: str
    remedy: str = ""


class Process(NamedTuple):
    """A process of this machine: its words, and seconds of CPU time so far."""

    pid: int
    words: tuple[str, ...]
    seconds: float


class Reading(NamedTuple):
    """What has happened up to a moment: CPU time, seconds stolen and in all, periods and heat that slowed cores, processes."""

    cpu: CpuTime
    steal: float | None
    total: float
    throttled: int | None
    hot: int | None
    processes: Mapping[int, Process]

    @classmethod
    def now(cls) -> Reading:
        """Read them all."""
        times = psutil.cpu_times()._asdict()
        total = sum(value for name, value in times.items() if not name.startswith("guest"))  # which the user's holds already
        return cls(CpuTime.now(), times.get("steal"), total, throttled_periods(), _hot(), _processes())


def conditions(pause: Callable[[float], object] = time.sleep) -> tuple[Condition, ...]:
    """Everything that is known of this machine's fitness; ``pause`` waits between the two moments."""
    before = Reading.now()
    pause(WINDOW_SECONDS)
    after = Reading.now()
    return (
        governor(),
        turbo(),
        quota(before.throttled, after.throttled),
        steal(before, after),
        load(before, after),
        heat(before.hot, after.hot),
        other_bench(after.processes),
        *gpu(),
    )


def governor() -> Condition:
    """How the kernel chooses the clocks of the cores allowed."""
    names = {text for core in _cores() if (text := _read(core / "cpufreq" / "scaling_governor"))}
    if not names:
        return Condition("governor", "unknown", "the system does not tell, as in many virtual machines")
    told = ", ".join(sorted(names))
    if names == {"performance"}:
        return Condition("governor", "fit", told)
    return Condition("governor", "weak", f"{told}: clocks follow the load", "sudo cpupower frequency-set -g performance")


def turbo() -> Condition:
    """Whether clocks rise as far as heat and power allow, which is another height each time."""
    off, boost = CPUS / "intel_pstate" / "no_turbo", CPUS / "cpufreq" / "boost"
    for file, on, value in ((off, "0", 1), (boost, "1", 0)):
        text = _read(file)
        if text == on:
            return Condition("turbo", "weak", "on: clocks depend on heat and on busy cores", f"echo {value} | sudo tee {file}")
        if text:
            return Condition("turbo", "fit", "off")
    return Condition("turbo", "unknown", "the system does not tell")


def quota(before: int | None, after: int | None) -> Condition:
    """Whether a container's quota stops the process for the rest of a period once it is used up; periods stopped so far."""
    cores, allowed = cpu_quota(), len(_cores())
    if cores is None or cores >= allowed:
        return Condition("CPU quota", "fit", "none that binds")
    remedy = "give whole cores instead, like docker run --cpuset-cpus 0,1, or fewer --threads than the quota has cores"
    if before is not None and after is not None and after > before:
        return Condition("CPU quota", "unfit", f"{cores:g} cores, used up {after - before} times while watching", remedy)
    return Condition("CPU quota", "weak", f"{cores:g} cores of {allowed}: more threads than that are stopped", remedy)


def steal(before: Reading, after: Reading) -> Condition:
    """The share of time in which a virtual machine's cores were another's."""
    if before.steal is None or after.steal is None or after.total <= before.total:
        return Condition("steal", "unknown", "the system does not tell")
    share = (after.steal - before.steal) / (after.total - before.total)
    if share <= STEAL:
        return Condition("steal", "fit", f"{share:.1%} of the time")
    return Condition("steal", "unfit", f"the host took {share:.1%} of the time", "measure on a host or an instance of its own")


def load(before: Reading, after: Reading) -> Condition:
    """What other processes take of the cores, and who takes most."""
    share = before.cpu.stolen_until(after.cpu)
    if share <= BUSY:
        return Condition("other processes", "fit", f"{share:.0%} of the cores")
    wall = after.cpu.wall - before.cpu.wall
    spent = {pid: one.seconds - before.processes[pid].seconds for pid, one in after.processes.items() if pid in before.processes}
    busiest = sorted((pid for pid in spent if spent[pid] > BUSY * wall and pid != os.getpid()), key=lambda pid: -spent[pid])
    names = [f"{_name(after.processes[pid])} (pid {pid}, {spent[pid] / wall:.0%} of a core)" for pid in busiest[:MOST_NAMES]]
    who = f": {', '.join(names)}" if names else ", of which this container shows none"
    state: State = "unfit" if share > HEAVY else "weak"
    return Condition("other processes", state, f"{share:.0%} of the cores{who}", "wait for them, or end them")


def heat(before: int | None, after: int | None) -> Condition:
    """Whether heat slows cores down now, or a sensor is at its limit."""
    if before is not None and after is not None and after > before:
        return Condition(
            "heat", "unfit", f"it slowed cores down {after - before} times while watching", "let the machine cool down"
        )
    sensors = [(sensor.current, sensor.high) for sensors in _temperatures().values() for sensor in sensors if sensor.high]
    hot = [f"{current:.0f} of {high:.0f} °C" for current, high in sensors if current >= high]
    if hot:
        return Condition("heat", "unfit", f"a sensor is at its limit: {hot[0]}", "let the machine cool down")
    if not sensors and after is None:
        return Condition("heat", "unknown", "the system does not tell")
    return Condition("heat", "fit", "no core is slowed down")


def other_bench(processes: Mapping[int, Process]) -> Condition:
    """Whether another edgekit measures here at the same time."""
    others = [pid for pid, one in processes.items() if _measures(one.words) and pid not in _own()]
    if not others:
        return Condition("another bench", "fit", "none runs")
    told = ", ".join(map(str, others[:MOST_NAMES]))
    return Condition("another bench", "unfit", f"edgekit measures already (pid {told})", "wait for it")


def gpu() -> Iterator[Condition]:
    """Who else is on the first GPU, and what slows it down; nothing where there is none."""
    if cuda_absence():
        return
    count = gpu_processes()
    if count is None:
        yield Condition("GPU processes", "unknown", "the driver does not tell")
    elif count:
        yield Condition("GPU processes", "unfit", f"{count} on the first GPU", "end them: nvidia-smi lists them")
    else:
        yield Condition("GPU processes", "fit", "none on the first GPU")
    state = gpu_state()
    slowed = [reason for reason in (state.slowed_by if state else ()) if reason != POWER_LIMIT]
    if state is None:
        yield Condition("GPU clock", "unknown", "the driver does not tell")
    elif slowed:
        yield Condition("GPU clock", "unfit", f"slowed down by {' and '.join(slowed)}", "let it cool down, or see nvidia-smi -q")
    else:
        yield Condition("GPU clock", "fit", "nothing slows it down")


def _measures(words: Sequence[str]) -> bool:
    """Whether a command line is a bench of edgekit's, or one of its processes."""
    programs = [place for place, word in enumerate(words[:4]) if Path(word).name == "edgekit"]
    return any(word in BENCHES for place in programs for word in words[place + 1 : place + 2]) or "edgekit.latency.fresh" in words


def _own() -> set[int]:
    """Process ids of this one and of those that it stands in."""
    pids = {os.getpid()}
    with suppress(psutil.Error):
        pids |= {parent.pid for parent in psutil.Process().parents()}
    return pids


def _processes() -> dict[int, Process]:
    found = {}
    for process in psutil.process_iter(["cmdline", "name", "cpu_times"]):
        times = process.info["cpu_times"]
        words = tuple(process.info["cmdline"] or (process.info["name"] or "",))
        found[process.pid] = Process(process.pid, words, times.user + times.system if times else 0.0)
    return found


def _name(process: Process) -> str:
    """Its program and the next two words, each whole, or left out where it is no name, as after ``-c``."""
    program = Path(process.words[0]).name if process.words else ""
    told = [word if len(word) <= LONGEST_WORD and word.isprintable() else "..." for word in process.words[1:3]]
    return " ".join((program or "a process", *filter(None, told)))


def _hot() -> int | None:
    """How often heat has slowed down the cores allowed; None where Linux does not count it."""
    counts = [int(text) for core in _cores() if (text := _read(core / "thermal_throttle" / "core_throttle_count")).isdecimal()]
    return sum(counts) if counts else None


def _temperatures() -> Mapping[str, Sequence[psutil._common.shwtemp]]:
    with suppress(AttributeError, OSError, ValueError):  # not on every system
        sensors: Mapping[str, Sequence[psutil._common.shwtemp]] = psutil.sensors_temperatures()
        return sensors
    return {}


def _cores() -> list[Path]:
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return [CPUS / f"cpu{core}" for core in sorted(allowed)]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
