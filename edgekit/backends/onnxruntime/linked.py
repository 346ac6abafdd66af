"""The TensorRT that ONNX Runtime's provider links, and whether it loads: ONNX Runtime brings the provider alone."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
from functools import cache
from pathlib import Path

from edgekit.errors import BROKEN

_DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


@cache
def linked_tensorrt(onnxruntime: Path) -> str:
    """``libnvinfer.so.10`` or the like, out of the package in this folder; nothing where its provider is no file of its own."""
    provider = onnxruntime / "capi" / "libonnxruntime_providers_tensorrt.so"
    match = re.search(rb"libnvinfer\.so\.\d+", provider.read_bytes()) if provider.is_file() else None
    return match[0].decode() if match else ""


def loading_problem(library: str, driver: bool) -> str:
    """Why ``library`` does not load, or nothing; without a ``driver`` TensorRT's own package is not imported to find it."""
    try:
        ctypes.CDLL(library)
    except OSError as problem:
        if not (driver and _imported(library.rpartition(".")[2])):
            return str(problem)
        try:
            ctypes.CDLL(library)
        except OSError as still:
            return str(still)
    return ""


def _imported(major: str) -> bool:
    """TensorRT from pip lies where the loader does not look; once its package has loaded it, everyone finds it."""
    for name in _DISTRIBUTIONS:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version.partition(".")[0] == major:
            try:
                importlib.import_module("tensorrt")
            except BROKEN:  # another library is missing: what the loader said stays the reason
                return False
            return True
    return False
