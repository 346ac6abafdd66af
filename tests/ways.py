"""Short forms of setups for tests: a backend's name and options, converted like the words of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.backends import absence
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.bundle.files import ModelFiles
from edgekit.cli.options.shared import spread
from edgekit.setups import EVERY, Absence, Setup


def way(backend: str, *, threads: int | None = None, batches: tuple[int, ...] = (), **options: Any) -> Setup:
    """One setup."""
    (setup,) = ways(backend, threads=threads, batches=batches, **options)
    return setup


def ways(*backends: str, threads: int | None = None, batches: tuple[int, ...] = (), **options: Any) -> tuple[Setup, ...]:
    """A setup for each backend, or for every backend that is present."""
    texts = {
        name: str(value) if isinstance(value, Path) else value for name, value in options.items() if value not in (None, False)
    }
    return spread([Setup(name, threads=threads, batches=tuple(batches)) for name in backends or (EVERY,)], texts)


def building(flavour: str | None = None, options: BuildOptions | None = None) -> Setup:
    """The setup of a TensorRT build."""
    values = msgspec.to_builtins(options) | {"profiles": list(map(str, options.profiles))} if options else {}
    return Setup("tensorrt", options={**values, "flavour": flavour} if flavour else values)


def why_not(backend: str, files: ModelFiles | None = None, **options: Any) -> str:
    """The reason why a backend is absent, in the words that a user reads; empty if the backend is present."""
    return str(absence(way(backend, **options), files) or "")


NO_DRIVER = Absence("no NVIDIA driver is installed", "install one, or use ort-cpu")


def set_driver(monkeypatch: pytest.MonkeyPatch, missing: Absence | None) -> None:
    """Make every backend find the driver absent for the reason ``missing``, or present for None."""
    for room in ("pytorch", "onnxruntime", "tensorrt", "tensorrt.flavour", "tensorrt.inspector"):
        monkeypatch.setattr(f"edgekit.backends.{room}.cuda_absence", lambda: missing)
