"""A container's CPU quota and memory, from files that are made up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekit.machine.cgroup import cpu_quota, memory_left, throttled_periods
from edgekit.machine.cpu import cores, machine_facts
from edgekit.machine.memory import available_memory

Files = dict[str, str]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process of eight allowed cores; its files are written by ``describe``."""
    monkeypatch.setattr("edgekit.machine.cgroup.PROCESS", tmp_path / "proc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    return tmp_path


def describe(machine: Path, group: str, mounts: dict[str, tuple[str, str]], files: Files) -> None:
    """``mounts``: folder -> (the group that is mounted there, the rest of the line, from the file system's type on)."""
    (machine / "proc").mkdir()
    (machine / "proc" / "cgroup").write_text(group)
    lines = [f"30 23 0:28 {root} {machine / folder} rw shared:4 - {rest}\n" for folder, (root, rest) in mounts.items()]
    (machine / "proc" / "mountinfo").write_text("22 1 0:5 / / rw - ext4 /dev/vda rw\n" + "".join(lines))
    for name, content in files.items():
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_text(content)


V2 = {"cg": ("/", "cgroup2 cgroup2 rw,nsdelegate")}
V1 = {"cg/cpu,cpuacct": ("/", "cgroup cgroup rw,cpu,cpuacct"), "cg/memory": ("/", "cgroup cgroup rw,memory")}
V1_OF_A_CONTAINER = {"cg/cpu": ("/docker/4f", "cgroup cgroup rw,cpu")}


def v1(folder: str, quota: int, period: int = 100000) -> Files:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("group", "mounts", "files", "quota"),
    [
        ("0::/\n", V2, {"cg/cpu.max": "250000 100000\n"}, 2.5),
        ("0::/\n", V2, {"cg/cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", V2, {"cg/a/b/cpu.max": "max 100000\n", "cg/a/cpu.max": "300000 100000\n"}, 3.0),
        ("0::/a/b\n", V2, {"cg/a/b/cpu.max": "50000 100000\n", "cg/a/cpu.max": "300000 100000\n"}, 0.5),
        ("0::/kubepods/of/the/host\n", V2, {"cg/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/../elsewhere\n", V2, {"cg/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", V2, {"cg/cpu.max": "what is this\n"}, None),
        ("0::/\n", V2, {"cg/cpu.max": "100000 0\n"}, None),
        ("0::/\n", V2, {}, None),
        ("3:memory:/x\n4:cpu,cpuacct:/slice\n", V1, v1("cg/cpu,cpuacct/slice", 400000), 4.0),
        ("4:cpu,cpuacct:/\n", V1, v1("cg/cpu,cpuacct", -1), None),
        ("4:cpu,cpuacct:/\n", V1, v1("cg/memory", 100000), None),
        ("4:cpu:/docker/4f\n0::/\n", V1_OF_A_CONTAINER, v1("cg/cpu", 150000, 50000), 3.0),
        ("4:cpu:/docker/4f/inner\n", V1_OF_A_CONTAINER, v1("cg/cpu/inner", 100000) | v1("cg/cpu", 300000), 1.0),
        ("", {}, {}, None),
    ],
)
def test_the_least_quota_of_the_group_and_those_above_counts(
    machine: Path, group: str, mounts: dict[str, tuple[str, str]], files: Files, quota: float | None
) -> None:
    describe(machine, group, mounts, files)
    assert cpu_quota() == quota


@pytest.mark.parametrize(("limit", "threads"), [("250000", 2), ("50000", 1), ("1600000", 8), ("max", 8)])
def test_as_many_threads_are_used_as_the_quota_pays_for(machine: Path, limit: str, threads: int) -> None:
    describe(machine, "0::/\n", V2, {"cg/cpu.max": f"{limit} 100000\n"})
    assert cores() == threads


def test_the_quota_is_a_fact(machine: Path) -> None:
    describe(machine, "0::/\n", V2, {"cg/cpu.max": "150000 100000\n"})
    assert machine_facts()["cpu quota"] == "1.5 cores"
    assert machine_facts()["cores"] == "1"


@pytest.mark.parametrize(
    ("group", "mounts", "files", "expected"),
    [
        ("0::/\n", V2, {"cg/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_usec 7\n"}, 4),
        ("0::/a\n", V2, {"cg/cpu.stat": "usage_usec 1\n", "cg/a/cpu.stat": "nr_throttled 2\n"}, 2),
        ("4:cpu,cpuacct:/\n", V1, {"cg/cpu,cpuacct/cpu.stat": "nr_throttled 5\n"}, 5),
        ("0::/\n", V2, {"cg/cpu.stat": "nr_throttled many\n"}, None),
        ("0::/\n", V2, {}, None),
    ],
)
def test_periods_in_which_the_quota_was_used_up_are_counted(
    machine: Path, group: str, mounts: dict[str, tuple[str, str]], files: Files, expected: int | None
) -> None:
    describe(machine, group, mounts, files)
    assert throttled_periods() == expected


def test_a_machine_without_groups_has_no_quota(machine: Path) -> None:
    assert cpu_quota() is None
    assert cores() == 8
    assert "cpu quota" not in machine_facts()


def v2_memory(folder: str, limit: str, used: int, cached: int) -> Files:
    statistics = f"anon 5\nactive_file {cached}\ninactive_file 10\nslab 7\n"
    return {f"{folder}/memory.max": f"{limit}\n", f"{folder}/memory.current": f"{used}\n", f"{folder}/memory.stat": statistics}


V1_MEMORY = {"cg/limit_in_bytes": "900\n", "cg/memory/memory.limit_in_bytes": "900\n", "cg/memory/memory.usage_in_bytes": "500\n",
             "cg/memory/memory.stat": "cache 100\ninactive_file 60\n"}  # fmt: skip


@pytest.mark.parametrize(
    ("group", "mounts", "files", "left"),
    [
        ("0::/\n", V2, v2_memory("cg", "1000", 600, 40), 450),
        ("0::/\n", V2, v2_memory("cg", "max", 600, 40), None),
        ("0::/a\n", V2, v2_memory("cg/a", "1000", 600, 40) | v2_memory("cg", "700", 650, 0), 60),
        ("0::/\n", V2, v2_memory("cg", "500", 600, 0), 0),
        ("0::/\n", V2, v2_memory("cg", "what", 600, 0), None),
        ("3:memory:/\n4:cpu,cpuacct:/\n", V1, V1_MEMORY, 460),
        ("4:cpu,cpuacct:/\n", {"cg/memory": ("/", "cgroup cgroup rw,cpu")}, V1_MEMORY, None),
        ("", {}, {}, None),
    ],
)
def test_memory_is_left_by_the_group_that_has_least(
    machine: Path, group: str, mounts: dict[str, tuple[str, str]], files: Files, left: int | None
) -> None:
    describe(machine, group, mounts, files)
    assert memory_left() == left
    assert available_memory() == left or (left is None and available_memory() > 1000)
