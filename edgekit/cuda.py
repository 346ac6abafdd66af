"""Asking the CUDA driver itself, before any runtime is touched: a missing driver makes some of them crash."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

NO_TF32 = "NVIDIA_TF32_OVERRIDE"
"""CUDA's variable: 0 takes TF32 from every library of the process."""
_MULTIPROCESSORS, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 16, 75, 76  # CUdevice_attribute


@cache
def cuda_problem() -> str:
    """Why there is no usable NVIDIA GPU, with the remedy; nothing when there is one."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return "no NVIDIA driver is installed; install one, or use ort-cpu"
    if driver.cuInit(0) != 0:
        return "the NVIDIA driver does not start; run nvidia-smi to see why"
    count = ctypes.c_int(0)
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return ""


def gpu_facts() -> dict[str, str]:
    """The first GPU's name, compute capability, multiprocessors and memory, the CUDA its driver supports, the driver's version.

    Empty without a GPU.
    """
    if cuda_problem():
        return {}
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
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


def _driver_version() -> str:
    """As nvidia-smi prints it; nothing where there is no management library, as on older Jetsons."""
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return ""
    text = ctypes.create_string_buffer(96)
    if library.nvmlInit_v2() != 0 or library.nvmlSystemGetDriverVersion(text, 96) != 0:
        return ""
    return text.value.decode(errors="replace")
