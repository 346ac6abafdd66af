"""Asking the CUDA driver itself, before any runtime is touched: a missing driver makes some of them crash."""

from __future__ import annotations

import ctypes
import sys
from functools import cache


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
    """Name of the first GPU and the CUDA version its driver supports; empty where there is none."""
    if cuda_problem():
        return {}
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    name, version = ctypes.create_string_buffer(256), ctypes.c_int(0)
    driver.cuDeviceGetName(name, 256, 0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return {"gpu": name.value.decode(errors="replace"), "cuda driver": f"{version.value // 1000}.{version.value % 1000 // 10}"}
