"""What the machine tells of itself, from files that are made up."""

from __future__ import annotations

import os
from pathlib import Path

import edgekit.machine.cpu.cpu
import pytest
from edgekit.machine.cpu.cpu import cpu_clocks_mhz

CPU_INFO = "".join(f"processor\t: {core}\nmodel name\t: X\ncpu MHz\t\t: {2400.4 + core:.3f}\n\n" for core in range(4))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of four cores, two of them allowed, that tells nothing yet."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 1}, raising=False)
    monkeypatch.setattr("edgekit.machine.cpu.FREQUENCY", str(tmp_path / "cpu{}"))
    monkeypatch.setattr("edgekit.machine.cpu.CPU_INFO", tmp_path / "cpuinfo")
    return tmp_path


def test_the_clocks_are_those_of_the_cores_allowed(files: Path) -> None:
    for core in range(4):
        (files / f"cpu{core}").write_text(f"{1_000_000 + core * 500_000}\n")
    (files / "cpuinfo").write_text(CPU_INFO)
    assert cpu_clocks_mhz() == [1500, 2500]


def test_where_no_driver_sets_the_clocks_the_kernel_may_still_tell_them(files: Path) -> None:
    (files / "cpuinfo").write_text(CPU_INFO)
    assert cpu_clocks_mhz() == [2401, 2403]


@pytest.mark.parametrize("content", [None, "processor\t: 0\nBogoMIPS\t: 48.00\n", "processor : x\ncpu MHz : ?\n"])
def test_a_machine_that_tells_no_clock_has_none(files: Path, content: str | None) -> None:
    if content is not None:
        (files / "cpuinfo").write_text(content)
    (files / "cpu1").write_text("<unknown>\n")
    assert cpu_clocks_mhz() == []


def test_a_system_that_does_not_say_which_cores_are_allowed_tells_no_clock(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    (files / "cpuinfo").write_text(CPU_INFO)
    assert cpu_clocks_mhz() == []
