"""Files and a CUDA that several backends are tried with."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import open_bundle
from tests.ways import set_driver


@pytest.fixture
def files(bundle: Path) -> ModelFiles:
    return open_bundle(bundle).files()


@pytest.fixture
def pretended_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which ONNX Runtime lists CUDA and the driver starts."""
    monkeypatch.setattr(
        "edgekit.backends.onnxruntime.session.available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    set_driver(monkeypatch, None)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
