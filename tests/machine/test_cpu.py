"""What the machine tells of itself, from files that are made up."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from edgekit.machine.cpu import CpuTime, cpu_clocks_mhz, cpu_facts, instruction_sets, machine_facts, vnni_absence

KERNEL = [2400.4, 2401.4, 2402.4, 2403.4]
"""What the kernel tells of four cores, in MHz."""
Frequency = namedtuple("Frequency", "current min max")
Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest guest_nice")
FewTimes = namedtuple("FewTimes", "user nice system idle")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of four cores, two of them allowed, that tells nothing yet; each core may have a file of its clock."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 1}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr("edgekit.machine.cpu.FREQUENCY", str(tmp_path / "cpu{}"))
    tell(monkeypatch, [])
    return tmp_path


def tell(monkeypatch: pytest.MonkeyPatch, clocks: list[float] | BaseException) -> None:
    def frequencies(percpu: bool) -> list[Frequency]:
        if isinstance(clocks, BaseException):
            raise clocks
        return [Frequency(clock, 0.0, 0.0) for clock in clocks]

    monkeypatch.setattr(psutil, "cpu_freq", frequencies, raising=False)


def test_the_clocks_are_those_of_the_cores_allowed(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for core in range(4):
        (files / f"cpu{core}").write_text(f"{1_000_000 + core * 500_000}\n")
    tell(monkeypatch, KERNEL)
    assert cpu_clocks_mhz() == [1500, 2500]


def test_where_no_driver_sets_the_clocks_the_kernel_may_still_tell_them(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch, KERNEL)
    assert cpu_clocks_mhz() == [2401, 2403]


@pytest.mark.parametrize(
    "clocks",
    [[], [2400.0], FileNotFoundError(2, "no /proc/cpuinfo"), NotImplementedError("scaling_cur_freq"), ValueError("MHz : ?")],
)
def test_a_machine_that_tells_no_clock_or_one_of_several_cores_has_none(
    files: Path, monkeypatch: pytest.MonkeyPatch, clocks: list[float] | BaseException
) -> None:
    tell(monkeypatch, clocks)
    (files / "cpu1").write_text("<unknown>\n")
    assert cpu_clocks_mhz() == []


def test_a_system_for_which_psutil_has_no_clocks_has_none(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil, "cpu_freq")
    assert cpu_clocks_mhz() == []


def test_cores_that_are_off_shift_the_others_so_that_no_clock_is_told(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores 0, 1 and 3 are on: the third clock told is not that of core 3."""
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    tell(monkeypatch, KERNEL[:3])
    assert cpu_clocks_mhz() == []


def test_a_system_that_does_not_say_which_cores_are_allowed_tells_no_clock(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    tell(monkeypatch, KERNEL)
    assert cpu_clocks_mhz() == []


def test_the_time_of_all_processes_is_what_no_core_was_idle_or_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest's time is counted in the user's already."""
    monkeypatch.setattr(psutil, "cpu_times", lambda: Times(1, 2, 4, 800, 900, 8, 16, 32, 1000, 2000))
    assert CpuTime.now().all == 63


def test_where_only_some_times_are_told_these_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_times", lambda: FewTimes(1, 2, 4, 800))
    assert CpuTime.now().all == 7


def test_where_the_system_does_not_tell_the_time_of_all_processes_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(psutil, "cpu_times", refuse)
    now = CpuTime.now()
    assert now.all is None
    assert now.stolen_until(CpuTime(now.wall + 10, now.own, 100)) == 0


def test_this_machine_tells_its_times_and_its_load() -> None:
    now = CpuTime.now()
    assert now.all is not None
    assert now.all > now.own
    facts = machine_facts()
    assert float(facts["load"]) >= 0
    always, sometimes = {"system", "cpu", "cores", "python"}, {"governor", "load", "instruction sets"}
    assert always <= facts.keys() <= always | sometimes


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("flags\t\t: fpu sse avx2 avx512f amx_int8\nflags\t\t: fpu", ("avx2", "avx512f", "amx_int8")),
        ("Features\t: fp asimd asimddp i8mm", ("asimddp", "i8mm")),
        ("model name : avx2", ()),
        (None, ()),
    ],
)
def test_instruction_sets_that_decide_small_arithmetic_are_facts(
    text: str | None, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr("edgekit.machine.cpu.CPU_INFO", tmp_path / "cpuinfo")
    instruction_sets.cache_clear()
    try:
        assert instruction_sets() == names
        assert cpu_facts() == ({"instruction sets": ", ".join(names)} if names else {})
    finally:
        instruction_sets.cache_clear()


@pytest.mark.parametrize(
    ("machine", "names", "warned"),
    [
        ("x86_64", ("avx2",), True),
        ("AMD64", ("avx2", "avx512f"), True),
        ("x86_64", ("avx2", "avx_vnni"), False),
        ("x86_64", ("avx512f", "avx512_vnni"), False),
        ("x86_64", ("amx_int8",), False),
        ("x86_64", (), False),
        ("aarch64", ("asimddp",), False),
    ],
)
def test_an_x86_cpu_without_vnni_is_warned_of_where_the_system_tells(
    machine: str, names: tuple[str, ...], warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.machine.cpu.instruction_sets", lambda: names)
    monkeypatch.setattr("platform.machine", lambda: machine)
    absence = vnni_absence()
    assert (absence is not None) is warned
    if absence is not None:
        assert absence.reason.startswith("int8 without VNNI: ")
        assert "edgekit evaluate --variant int8" in absence.remedy
