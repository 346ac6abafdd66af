"""Whether the TensorRT that ONNX Runtime's provider links is found, with a loader and a TensorRT that are made up."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.backends.onnxruntime.linked import linked_tensorrt, loading_problem


def provider(folder: Path, content: bytes) -> Path:
    (folder / "capi").mkdir(parents=True)
    path = folder / "capi" / "libonnxruntime_providers_tensorrt.so"
    path.write_bytes(content)
    return path


def test_what_the_provider_links_is_read_once(tmp_path: Path) -> None:
    path = provider(tmp_path, b"\x7fELF\0libnvinfer_plugin.so.10\0libnvinfer.so.10\0")
    assert linked_tensorrt(tmp_path) == "libnvinfer.so.10"
    path.unlink()  # it takes tens of megabytes
    assert linked_tensorrt(tmp_path) == "libnvinfer.so.10"


def test_a_provider_that_links_none_and_no_provider_are_alike(tmp_path: Path) -> None:
    provider(tmp_path / "other", b"\x7fELF")
    assert linked_tensorrt(tmp_path / "other") == linked_tensorrt(tmp_path) == ""


class Machine:
    """``imported`` is what was imported; once that is TensorRT, the loader finds its library."""

    def __init__(self) -> None:
        self.imported: list[str] = []
        self.versions = {"tensorrt": "10.13.2"}
        self.importing: Callable[[], None] = lambda: None

    def load(self, name: str) -> None:
        if name not in ("libc.so.6", *(["libnvinfer.so.10"] if self.imported else [])):
            raise OSError(f"{name}: cannot open shared object file")

    def module(self, name: str) -> None:
        self.importing()
        self.imported.append(name)

    def version(self, name: str) -> str:
        if name not in self.versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return self.versions[name]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    pretended = Machine()
    monkeypatch.setattr(ctypes, "CDLL", pretended.load)
    monkeypatch.setattr(importlib, "import_module", pretended.module)
    monkeypatch.setattr(importlib.metadata, "version", pretended.version)
    return pretended


def test_a_library_that_the_loader_finds_loads_without_any_import(machine: Machine) -> None:
    assert loading_problem("libc.so.6", driver=True) == ""
    assert machine.imported == []


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-cu13", "tensorrt-cu12"])
def test_tensorrt_from_pip_is_found_by_importing_it(machine: Machine, name: str) -> None:
    machine.versions = {name: "10.13.2"}
    assert loading_problem("libnvinfer.so.10", driver=True) == ""
    assert machine.imported == ["tensorrt"]


def test_without_a_driver_tensorrt_is_not_imported(machine: Machine) -> None:
    assert loading_problem("libnvinfer.so.10", driver=False) == "libnvinfer.so.10: cannot open shared object file"
    assert machine.imported == []


@pytest.mark.parametrize("versions", [{}, {"tensorrt": "11.4.0"}, {"tensorrt": "1.0.1"}])
def test_another_major_or_none_does_not_help(machine: Machine, versions: dict[str, str]) -> None:
    machine.versions = versions
    assert "libnvinfer.so.10: cannot open" in loading_problem("libnvinfer.so.10", driver=True)
    assert machine.imported == []


def test_a_tensorrt_that_cannot_be_imported_or_brings_nothing_leaves_the_loaders_reason(machine: Machine) -> None:
    machine.versions["tensorrt"] = "97.1"
    assert "libnvinfer.so.97: cannot open" in loading_problem("libnvinfer.so.97", driver=True)
    assert machine.imported == ["tensorrt"]

    def broken() -> None:
        raise OSError("libcudart.so: cannot open")

    machine.importing = broken
    assert "libnvinfer.so.97: cannot open" in loading_problem("libnvinfer.so.97", driver=True)
