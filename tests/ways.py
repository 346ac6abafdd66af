"""Setups, as tests write them: a backend's name and options, the way the command line's words become setups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.backends import absence
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.bundle.files import ModelFiles
from edgekit.cli.options import spread
from edgekit.setups import EVERY, Absence, Setup


def way(backend: str, *, threads: int | None = None, batches: tuple[int, ...] = (), **options: Any) -> Setup:
    """One setup."""
    (setup,) = ways(backend, threads=threads, batches=batches, **options)
    return setup


def ways(*backends: str, threads: int | None = None, batches: tuple[int, ...] = (), **options: Any) -> tuple[Setup, ...]:
    """A setup for each backend, or for every one that is present."""
    given = {
        name: str(value) if isinstance(value, Path) else value for name, value in options.items() if value not in (None, False)
    }
    return spread([Setup(name, threads=threads, batches=tuple(batches)) for name in backends or (EVERY,)], given)


def building(flavour: str | None = None, options: BuildOptions | None = None) -> Setup:
    """The setup of a TensorRT build."""
    asked = msgspec.to_builtins(options) | {"profiles": list(map(str, options.profiles))} if options else {}
    return Setup("tensorrt", options={**asked, "flavour": flavour} if flavour else asked)


def why_not(backend: str, files: ModelFiles | None = None, **options: Any) -> str:
    """Why a backend is absent here, in the words that a user reads; nothing where it is present."""
    return str(absence(way(backend, **options), files) or "")


NO_DRIVER = Absence("no NVIDIA driver is installed", "install one, or use ort-cpu")


def set_driver(monkeypatch: pytest.MonkeyPatch, missing: Absence | None) -> None:
    """Every backend finds the driver ``missing``, or there."""
    for room in ("pytorch", "onnxruntime", "tensorrt", "tensorrt.flavour", "tensorrt.inspector"):
        monkeypatch.setattr(f"edgekit.backends.{room}.cuda_absence", lambda: missing)
