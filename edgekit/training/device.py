"""Where training computes: the device, the cores and the memory of its process."""

from __future__ import annotations

import ctypes
import platform

import torch

from edgekit.errors import MissingError, UsageError
from edgekit.machine.cpu import cores
from edgekit.spelling import did_you_mean

DEVICES = ("auto", "cpu", "cuda")


def pick_device(name: str) -> torch.device:
    """``auto`` -> CUDA where there is one, else the CPU; raises MissingError where it is not, UsageError for other names."""
    if name not in DEVICES:
        raise UsageError(f"no device {name!r}", f"use auto, cpu or cuda{did_you_mean(name, DEVICES)}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise MissingError("torch finds no usable CUDA device on this machine", "use --device cpu, or see edgekit doctor")
    return torch.device("cuda" if available and name in ("auto", "cuda") else "cpu")


def reuse_memory() -> None:
    """Keep freed memory in the process: glibc gives a large tensor's pages back at once, and every step faults them in again."""
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3
        for parameter in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(parameter, 1 << 30)


def use_cores() -> None:
    """Use the cores that this process may: PyTorch does not know a container's quota."""
    torch.set_num_threads(min(torch.get_num_threads(), cores()))
