"""The driver and its management library, made up; and the variable by which TF32 is overruled."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.machine import gpu
from edgekit.machine.gpu import (
    GpuState,
    cuda_absence,
    gpu_facts,
    gpu_memory_used,
    gpu_processes,
    gpu_state,
    tf32_fact,
    without_tf32,
)
from edgekit.setups import Absence


def put(reference: Any, value: int) -> int:
    reference._obj.value = value
    return 0


def fill(reference: Any, **values: int) -> int:
    for name, value in values.items():
        setattr(reference._obj, name, value)
    return 0


class Driver:
    """One GPU, and a management library beside it; ``lacks``: functions that it does not have."""

    def __init__(self) -> None:
        self.lacks: tuple[str, ...] = ()
        self.unsupported: tuple[str, ...] = ()
        self.reasons, self.asked = 0, [""]
        self.started, self.gpus, self.busy = 0, 1, 0

    def __getattr__(self, name: str) -> Any:
        if name not in ANSWERS or name in self.lacks:
            raise AttributeError(name)
        self.asked.append(name)
        return lambda *given: 3 if name in self.unsupported else ANSWERS[name](self, *given)


def named(driver: Driver, text: Any, *rest: Any) -> int:
    text.value = b"0000:65:00.0"
    return 0


def handle(driver: Driver, place: Any, device: Any) -> int:
    return put(device, 77) if place.value == b"0000:65:00.0" else 6


def managed(value: int, *which: int) -> Any:
    return lambda driver, device, *given: put(given[-1], value) if (device.value, *given[:-1]) == (77, *which) else 2


ANSWERS: dict[str, Any] = {
    "cuInit": lambda driver, flags: driver.started,
    "cuDeviceGetCount": lambda driver, count: put(count, driver.gpus),
    "cuDeviceGetPCIBusId": named,
    "cuDeviceGetName": named,
    "cuDriverGetVersion": lambda driver, version: put(version, 13010),
    "cuDeviceGetAttribute": lambda driver, value, which, device: put(value, {16: 132, 75: 9, 76: 0}[which]),
    "cuDeviceTotalMem_v2": lambda driver, size, device: put(size, 85_017_493_504),
    "nvmlInit_v2": lambda driver: 0,
    "nvmlSystemGetDriverVersion": named,
    "nvmlDeviceGetHandleByPciBusId_v2": handle,
    "nvmlDeviceGetClockInfo": managed(1980, 1),
    "nvmlDeviceGetTemperature": managed(44, 0),
    "nvmlDeviceGetPowerUsage": managed(345_600),
    "nvmlDeviceGetCurrentClocksThrottleReasons": lambda driver, device, value: put(value, driver.reasons),
    "nvmlDeviceGetMemoryInfo": lambda driver, device, memory: (
        fill(memory, used=3 << 30, total=80 << 30) if device.value == 77 else 2
    ),
    "nvmlDeviceGetComputeRunningProcesses_v3": lambda driver, device, count, room: (
        7 * bool(put(count, driver.busy) or driver.busy)
    ),
}


@pytest.fixture
def _nothing_remembered() -> Iterator[None]:
    remembered = (gpu.cuda_absence, gpu._management, gpu._device)
    for one in remembered:
        one.cache_clear()
    yield
    for one in remembered:
        one.cache_clear()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, _nothing_remembered: None) -> Driver:
    cuda = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: cuda)
    return cuda


@pytest.mark.parametrize(
    ("started", "gpus", "expected"),
    [(0, 1, ""), (0, 0, "finds no GPU; check nvidia-smi"), (100, 0, "finds no GPU; check"), (999, 0, "does not start; ")],
)
def test_gpus_that_are_hidden_and_a_driver_that_does_not_start_are_two_things(
    driver: Driver, started: int, gpus: int, expected: str
) -> None:
    """With all of them hidden an H200's driver 580 gives 100, CUDA_ERROR_NO_DEVICE, from cuInit already."""
    driver.started, driver.gpus = started, gpus
    assert expected in str(cuda_absence() or "")
    assert (cuda_absence() is None) is (expected == "")


def test_a_gpu_tells_what_it_is_and_how_it_is(driver: Driver) -> None:
    assert cuda_absence() is None
    assert gpu_facts() == {
        "gpu": "0000:65:00.0",
        "compute capability": "9.0",
        "multiprocessors": "132",
        "gpu memory": "79 GiB",
        "cuda driver": "13.1",
        "driver": "0000:65:00.0",
    }
    assert gpu_state() == GpuState(1980, 44, 346, ())
    assert gpu_state() == GpuState(1980, 44, 346, ())
    assert driver.asked.count("nvmlInit_v2") == 1  # it takes long


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0x1, ()),  # idle
        (0x2 | 0x10 | 0x100, ()),  # clocks that somebody has set
        (0x4, ("its power limit",)),
        (0x8 | 0x40, ("its hardware", "heat")),
        (0x20 | 0x40, ("heat",)),
        (0x80, ("its power supply",)),
    ],
)
def test_what_takes_the_clock_down_is_named(driver: Driver, bits: int, expected: tuple[str, ...]) -> None:
    driver.reasons = bits
    state = gpu_state()
    assert state is not None
    assert state.slowed_by == expected


def test_what_a_gpu_or_its_library_cannot_tell_is_left_out(driver: Driver) -> None:
    driver.unsupported = ("nvmlDeviceGetPowerUsage",)
    driver.lacks = ("nvmlDeviceGetTemperature", "nvmlDeviceGetCurrentClocksThrottleReasons")
    assert gpu_state() == GpuState(1980, None, None, ())


@pytest.mark.parametrize("busy", [0, 3])
def test_processes_on_the_gpu_are_counted_without_room_for_them(driver: Driver, busy: int) -> None:
    driver.busy = busy
    assert gpu_processes() == busy
    driver.unsupported = ("nvmlDeviceGetComputeRunningProcesses_v3",)
    assert gpu_processes() is None


def test_an_old_library_counts_no_processes(driver: Driver) -> None:
    driver.lacks = ("nvmlDeviceGetComputeRunningProcesses_v3",)
    assert gpu_processes() is None


@pytest.mark.parametrize(
    ("unsupported", "absence"),
    [
        ("cuInit", Absence("the NVIDIA driver does not start", "run nvidia-smi to see why", broken=True)),
        ("cuDeviceGetCount", Absence("the NVIDIA driver finds no GPU", "check nvidia-smi and CUDA_VISIBLE_DEVICES", broken=True)),
    ],
)
def test_a_driver_that_is_there_and_gives_no_gpu_is_broken(driver: Driver, unsupported: str, absence: Absence) -> None:
    driver.unsupported = (unsupported,)
    assert cuda_absence() == absence


@pytest.mark.usefixtures("_nothing_remembered")
def test_no_driver_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert cuda_absence() == Absence("no NVIDIA driver is installed", "install one, or use ort-cpu")


def test_the_memory_in_use_is_the_first_gpus(driver: Driver) -> None:
    assert gpu_memory_used() == 3 << 30
    driver.unsupported = ("nvmlDeviceGetMemoryInfo",)
    assert gpu_memory_used() is None


@pytest.mark.parametrize("missing", ["libcuda", "nvmlInit_v2", "nvmlDeviceGetHandleByPciBusId_v2"])
def test_without_a_gpu_or_its_management_library_no_memory_is_told(driver: Driver, missing: str) -> None:
    driver.unsupported = (missing,)
    driver.gpus = 0 if missing == "libcuda" else 1
    assert gpu_memory_used() is None


@pytest.mark.parametrize("missing", ["cuInit", "nvmlInit_v2"])
def test_without_a_driver_or_its_management_library_there_is_no_state(driver: Driver, missing: str) -> None:
    driver.unsupported = (missing,)
    assert gpu_state() is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "L4T 36.4.3"),
        ("something else", ""),
        (None, ""),
    ],
)  # fmt: skip
def test_a_board_without_the_library_tells_the_release_that_brings_its_driver(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: str
) -> None:
    driver.unsupported = ("nvmlInit_v2",)
    monkeypatch.setattr(gpu, "BOARD", tmp_path / "release")
    if text is not None:
        (tmp_path / "release").write_text(text)
    assert gpu_facts()["driver"] == expected


def test_a_gpu_that_the_library_does_not_find_tells_nothing(driver: Driver) -> None:
    driver.unsupported = ("nvmlDeviceGetHandleByPciBusId_v2",)
    assert gpu_state() == GpuState(None, None, None, ())


@pytest.mark.parametrize(
    ("variable", "asked", "expected"),
    [
        (None, False, "off"),
        (None, True, "on"),
        ("", True, "on"),
        ("0", False, "off"),
        ("0", True, "off: NVIDIA_TF32_OVERRIDE=0 forces it"),
        ("1", False, "off (NVIDIA_TF32_OVERRIDE=1 is set)"),
        ("1", True, "on (NVIDIA_TF32_OVERRIDE=1 is set)"),
        ("off", True, "on (NVIDIA_TF32_OVERRIDE=off is set)"),
    ],
)
def test_tf32_is_as_asked_unless_the_user_forces_it_off(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, asked: bool, expected: str
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    if variable is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", variable)
    assert tf32_fact(asked) == expected


@pytest.mark.parametrize("before", [None, "", "0", "1", "2"])
@pytest.mark.parametrize("first_to_leave", [0, 1])
def test_tf32_is_put_back_when_the_last_has_left(
    monkeypatch: pytest.MonkeyPatch, before: str | None, first_to_leave: int
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", before or "")
    if before is None:
        monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    both = [without_tf32(), without_tf32()]
    for one in both:
        one.__enter__()
    during = before or "0"
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == during
    both.pop(first_to_leave).__exit__(None, None, None)
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == during
    both.pop().__exit__(None, None, None)
    assert os.environ.get("NVIDIA_TF32_OVERRIDE") == before
    with pytest.raises(ZeroDivisionError), without_tf32():
        raise ZeroDivisionError
    assert os.environ.get("NVIDIA_TF32_OVERRIDE") == before
