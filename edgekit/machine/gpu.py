"""Asking the CUDA driver itself, before any runtime is touched: a missing driver makes some of them crash."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.setups import Absence

TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"
BOARD = Path("/etc/nv_tegra_release")
POWER_LIMIT = "its power limit"
_NO_DEVICE = 100  # CUresult
_NO_ROOM = 7  # nvmlReturn_t: NVML_ERROR_INSUFFICIENT_SIZE
_MULTIPROCESSORS, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 16, 75, 76  # CUdevice_attribute
_SM_CLOCK, _GPU_SENSOR = 1, 0  # nvmlClockType_t, nvmlTemperatureSensors_t
_SLOWED_BY = {0x4: POWER_LIMIT, 0x8: "its hardware", 0x20: "heat", 0x40: "heat", 0x80: "its power supply"}  # nvml.h
_before: list[str | None] = []  # what TF32_OVERRIDE was before each ``without_tf32`` that is open: the first is the user's


class GpuState(NamedTuple):
    """The first GPU at one moment; None for what it does not tell. ``slowed_by``: why its clock is lower than it could be."""

    clock_mhz: int | None
    temperature_c: int | None
    power_w: int | None
    slowed_by: tuple[str, ...]


@cache
def cuda_absence() -> Absence | None:
    """Why there is no usable NVIDIA GPU here; None when there is one."""
    try:
        driver = _driver()
    except OSError:
        return Absence("no NVIDIA driver is installed", "install one, or use ort-cpu")
    started, count = driver.cuInit(0), ctypes.c_int(0)
    if started not in (0, _NO_DEVICE):
        return Absence("the NVIDIA driver does not start", "run nvidia-smi to see why", broken=True)
    # where CUDA_VISIBLE_DEVICES hides every GPU, the driver does not even start
    if started == _NO_DEVICE or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return Absence("the NVIDIA driver finds no GPU", "check nvidia-smi and CUDA_VISIBLE_DEVICES", broken=True)
    return None


def gpu_facts() -> dict[str, str]:
    """The first GPU's name, compute capability, multiprocessors and memory, the CUDA its driver supports, the driver's version.

    Empty without a GPU.
    """
    if cuda_absence():
        return {}
    driver = _driver()
    name, version = ctypes.create_string_buffer(256), ctypes.c_int(0)
    driver.cuDeviceGetName(name, 256, 0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor, processors, memory = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0), ctypes.c_size_t(0)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, 0)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, 0)
    driver.cuDeviceGetAttribute(ctypes.byref(processors), _MULTIPROCESSORS, 0)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), 0)
    return {
        "gpu": name.value.decode(errors="replace"),
        "compute capability": f"{major.value}.{minor.value}",
        "multiprocessors": str(processors.value),
        "gpu memory": f"{memory.value / 2**30:.0f} GiB",  # a board's own share of it varies by a little from start to start
        "cuda driver": f"{version.value // 1000}.{version.value % 1000 // 10}",
        "driver": _driver_version(),
    }


def gpu_state() -> GpuState | None:
    """Clock, temperature and power now; None without a GPU, or where there is no management library, as on older Jetsons."""
    if cuda_absence() or _management() is None:
        return None
    power = _managed("nvmlDeviceGetPowerUsage", ctypes.c_uint)
    slowed = _managed("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong) or 0
    return GpuState(
        clock_mhz=_managed("nvmlDeviceGetClockInfo", ctypes.c_uint, _SM_CLOCK),
        temperature_c=_managed("nvmlDeviceGetTemperature", ctypes.c_uint, _GPU_SENSOR),
        power_w=None if power is None else round(power / 1000),
        slowed_by=tuple(dict.fromkeys(reason for bit, reason in _SLOWED_BY.items() if slowed & bit)),
    )


def gpu_processes() -> int | None:
    """How many processes compute on the first GPU, those of other containers too; None where the driver does not tell."""
    if cuda_absence() or _management() is None:
        return None
    count, device = ctypes.c_uint(0), _device()
    function = getattr(_management(), "nvmlDeviceGetComputeRunningProcesses_v3", None)
    if function is None or device is None:
        return None
    # with no room for them it only counts
    return int(count.value) if function(device, ctypes.byref(count), None) in (0, _NO_ROOM) else None


def gpu_memory_used() -> int | None:
    """Bytes of the first GPU's memory that are in use, by whomever; None without a GPU or its management library."""
    if cuda_absence() or _management() is None:
        return None
    device, memory = _device(), _Memory()
    if device is None or _management().nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) != 0:
        return None
    return int(memory.used)


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _driver() -> Any:
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _driver_version() -> str:
    """The driver's version as nvidia-smi prints it; on a Jetson without a management library, the release of its system."""
    library, text = _management(), ctypes.create_string_buffer(96)
    if library is None or library.nvmlSystemGetDriverVersion(text, 96) != 0:
        return _board_release()
    return text.value.decode(errors="replace")


def _board_release() -> str:
    """``# R36 (release), REVISION: 4.3, GCID: ...`` -> ``L4T 36.4.3``."""
    try:
        match = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", BOARD.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return f"L4T {match[1]}.{match[2]}" if match else ""


@cache
def _management() -> Any:
    """NVIDIA's management library, started; None where there is none."""
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


@cache
def _device() -> ctypes.c_void_p | None:
    """CUDA's first GPU by its place on the bus: the management library counts those too that CUDA_VISIBLE_DEVICES hides."""
    place, device = ctypes.create_string_buffer(64), ctypes.c_void_p()
    if _driver().cuDeviceGetPCIBusId(place, 64, 0) != 0:
        return None
    return device if _management().nvmlDeviceGetHandleByPciBusId_v2(place, ctypes.byref(device)) == 0 else None


def _managed(name: str, kind: type[ctypes.c_uint] | type[ctypes.c_ulonglong], *which: int) -> int | None:
    """The management library's answer to ``name`` for the first GPU; None where there is no answer."""
    value, function, device = kind(), getattr(_management(), name, None), _device()
    if function is None or device is None or function(device, *which, ctypes.byref(value)) != 0:
        return None
    return int(value.value)


def users_override() -> str:
    """The user's own value of the variable, also while ``without_tf32`` overrides it."""
    return (_before[0] if _before else os.environ.get(TF32_OVERRIDE)) or ""


def tf32_fact(asked: bool = False, override: str | None = None) -> str:
    """``on`` or ``off`` as ``asked``, unless the variable is 0; NVIDIA documents no other value, so any other is only told.

    ``override``: the variable's value, if it is not to be the one that is set now.
    """
    state = "on" if asked else "off"
    variable = os.environ.get(TF32_OVERRIDE, "") if override is None else override
    if variable == "0":
        return f"off: {TF32_OVERRIDE}=0 forces it" if asked else state
    return f"{state} ({TF32_OVERRIDE}={variable} is set)" if variable else state


@contextmanager
def without_tf32() -> Iterator[None]:
    """Libraries of NVIDIA that start inside compute without TF32, unless the user has set the variable.

    The variable is restored when the last session closes.
    """
    if not _before and os.environ.get(TF32_OVERRIDE):
        yield
        return
    _before.append(os.environ.get(TF32_OVERRIDE))
    os.environ[TF32_OVERRIDE] = "0"
    try:
        yield
    finally:
        last = _before.pop()
        if not _before and last is None:
            del os.environ[TF32_OVERRIDE]
        elif not _before:
            os.environ[TF32_OVERRIDE] = str(last)
