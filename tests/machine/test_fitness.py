"""Whether a machine is fit to be measured, on machines that are made up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from edgekit.commands.doctor import fitness as doctor_bench
from edgekit.machine import fitness
from edgekit.machine.cpu import CpuTime
from edgekit.machine.fitness import Condition, Process, Reading
from edgekit.machine.gpu import GpuState
from edgekit.reports.doctor import FitnessReport
from tests.command_line import Command


@pytest.fixture
def cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of four cores of which this process may use two; nothing is known of it."""
    monkeypatch.setattr(fitness, "CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    monkeypatch.setattr(fitness, "cpu_quota", lambda: None)
    monkeypatch.setattr(fitness, "cuda_absence", lambda: "none")
    return tmp_path


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{content}\n")


def moment(seconds: float = 0.0, *processes: Process, others: float = 0.0, steal: float | None = 0.0) -> Reading:
    """``seconds`` after the first; ``others`` and ``steal``: seconds of CPU time."""
    cpu = CpuTime(seconds, 0.0, others)
    return Reading(cpu, steal, 4 * seconds, None, None, {process.pid: process for process in processes})


@pytest.mark.parametrize(
    ("first", "second", "state", "told"),
    [
        ("performance", "performance", "fit", "performance"),
        ("performance", "powersave", "weak", "performance, powersave"),
        ("schedutil", "schedutil", "weak", "schedutil"),
        (None, None, "unknown", "does not tell"),
    ],
)
def test_the_governor_of_the_cores_allowed_decides(cpus: Path, first: str | None, second: str, state: str, told: str) -> None:
    file = "cpufreq/scaling_governor"
    write(cpus, {f"cpu0/{file}": first, f"cpu2/{file}": second, f"cpu1/{file}": "ondemand"} if first else {})
    found = fitness.governor()
    assert found.state == state
    assert told in found.found
    assert ("cpupower" in found.remedy) == (state == "weak")


@pytest.mark.parametrize(
    ("files", "state", "remedy"),
    [
        ({"intel_pstate/no_turbo": "0"}, "weak", "echo 1 | sudo tee"),
        ({"intel_pstate/no_turbo": "1"}, "fit", ""),
        ({"cpufreq/boost": "1"}, "weak", "echo 0 | sudo tee"),
        ({"cpufreq/boost": "0"}, "fit", ""),
        ({}, "unknown", ""),
    ],
)
def test_turbo_is_told_with_the_command_that_turns_it_off(cpus: Path, files: dict[str, str], state: str, remedy: str) -> None:
    write(cpus, files)
    found = fitness.turbo()
    assert found.state == state
    assert found.remedy.startswith(remedy)
    assert bool(found.remedy) == bool(remedy)


@pytest.mark.parametrize(
    ("quota", "throttled", "state"),
    [(None, (0, 9), "fit"), (2.0, (0, 9), "fit"), (1.5, (3, 3), "weak"), (1.5, (3, 5), "unfit"), (1.5, (None, None), "weak")],
)
def test_a_quota_binds_if_it_is_less_than_the_cores_and_stops_processes_if_it_is_used_up(
    cpus: Path, monkeypatch: pytest.MonkeyPatch, quota: float | None, throttled: tuple[int | None, int | None], state: str
) -> None:
    monkeypatch.setattr(fitness, "cpu_quota", lambda: quota)
    assert fitness.quota(*throttled).state == state


@pytest.mark.parametrize(("steal", "state"), [(0.0, "fit"), (0.07, "fit"), (0.4, "unfit"), (None, "unknown")])
def test_stolen_time_makes_a_virtual_machine_unfit(steal: float | None, state: str) -> None:
    assert fitness.steal(moment(steal=0.0 if steal is not None else None), moment(2.0, steal=steal)).state == state


@pytest.mark.parametrize(("others", "state"), [(0.3, "fit"), (0.8, "weak"), (4.0, "unfit")])
def test_work_of_others_is_told_by_name(cpus: Path, others: float, state: str) -> None:
    before = moment(
        0.0, Process(7, ("/usr/bin/make", "-j8"), 1.0), Process(8, ("sleep",), 0.0), Process(os.getpid(), ("me",), 0.0)
    )
    after = moment(
        2.0, Process(7, ("/usr/bin/make", "-j8"), 2.8), Process(8, ("sleep",), 0.0), Process(os.getpid(), ("me",), 2.0),
        others=others,
    )  # fmt: skip
    found = fitness.load(before, after)
    assert found.state == state
    assert ("make -j8 (pid 7, 90% of a core)" in found.found) == (state != "fit")
    assert "sleep" not in found.found
    assert "me" not in found.found.replace("make", "").split()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("/opt/python3", "/home/somebody/projects/vision/bin/train_everything", "--config=all.toml", "more"),
         "python3 /home/somebody/projects/vision/bin/train_everything --config=all.toml"),
        (("python", "-c", "import sys\nexec(sys.stdin.read())"), "python -c ..."),
        (("python", "x" * 5000), "python ..."),
        (("a_program_whose_name_is_longer_than_forty_characters",), "a_program_whose_name_is_longer_than_forty_characters"),
        ((), "a process"),
    ],
)  # fmt: skip
def test_names_of_programs_are_whole(cpus: Path, words: tuple[str, ...], name: str) -> None:
    before, after = (moment(wall, Process(7, words, wall), others=2 * wall) for wall in (0.0, 2.0))
    assert f": {name} (pid 7, 100% of a core)" in fitness.load(before, after).found


def test_heat_that_slows_cores_down_is_counted_while_watching(cpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitness.heat(None, None).state == "unknown"
    write(cpus, {"cpu0/thermal_throttle/core_throttle_count": "5", "cpu2/thermal_throttle/core_throttle_count": "6"})
    assert Reading.now().hot == 11
    assert fitness.heat(11, 11).state == "fit"
    assert "slowed cores down 2 times" in fitness.heat(11, 13).found
    sensor = SimpleNamespace(current=70.0, high=80.0)
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: {"core": [sensor]}, raising=False)
    assert fitness.heat(None, None).state == "fit"
    sensor.current = 81.0
    assert fitness.heat(None, None) == Condition(
        "heat", "unfit", "a sensor is at its limit: 81 of 80 °C", "let the machine cool down"
    )


@pytest.mark.parametrize(
    ("words", "state"),
    [
        (("/venv/bin/python", "/venv/bin/edgekit", "bench", "exported/lenet"), "unfit"),
        (("python", "-m", "edgekit", "tune", "b"), "unfit"),
        (("python", "-m", "edgekit.machine.child", "edgekit.latency.fresh", "{}"), "unfit"),
        (("python", "/venv/bin/edgekit", "verify", "bench"), "fit"),
        (("vim", "bench.py"), "fit"),
        ((), "fit"),
    ],
)
def test_another_bench_is_found_by_its_words(words: tuple[str, ...], state: str) -> None:
    assert fitness.other_bench({10**7: Process(10**7, words, 0.0)}).state == state
    assert fitness.other_bench({os.getpid(): Process(os.getpid(), words, 0.0)}).state == "fit"  # it is this one


@pytest.mark.parametrize(
    ("count", "slowed", "states"),
    [
        (0, (), ["fit", "fit"]),
        (2, ("its power limit",), ["unfit", "fit"]),
        (None, ("heat",), ["unknown", "unfit"]),
        (0, None, ["fit", "unknown"]),
    ],
)
def test_a_gpu_must_be_free_and_cool(
    cpus: Path, monkeypatch: pytest.MonkeyPatch, count: int | None, slowed: tuple[str, ...] | None, states: list[str]
) -> None:
    assert list(fitness.gpu()) == []
    monkeypatch.setattr(fitness, "cuda_absence", lambda: None)
    monkeypatch.setattr(fitness, "gpu_processes", lambda: count)
    monkeypatch.setattr(fitness, "gpu_state", lambda: None if slowed is None else GpuState(1, 1, 1, slowed))
    assert [condition.state for condition in fitness.gpu()] == states


def test_doctor_fails_on_what_makes_it_unfit_and_on_nothing_less(
    run: Command, cpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Condition("turbo", "weak", "on", "echo"), Condition("heat", "unknown", "no sensor")]
    monkeypatch.setattr("edgekit.commands.doctor.conditions", lambda: tuple(found))
    assert doctor_bench().passed
    result = run("doctor", "--bench", "--json")
    assert result.code == 0
    assert FitnessReport.from_json(result.out.encode()).conditions == tuple(found)
    found.append(Condition("steal", "unfit", "9% of the time", "another host"))
    result = run("doctor", "--bench")
    assert result.code == 1
    assert "UNFIT" in result.out
    assert "another host" in result.out


def test_every_condition_has_an_answer_on_this_machine() -> None:
    found = fitness.conditions(pause=lambda seconds: None)
    assert [condition.name for condition in found][:7] == [
        "governor", "turbo", "CPU quota", "steal", "other processes", "heat", "another bench",
    ]  # fmt: skip
    assert all(condition.found for condition in found)
