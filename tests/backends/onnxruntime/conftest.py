"""A provider of ONNX Runtime that is made up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime
import pytest

from tests.ways import set_driver


@pytest.fixture
def pretended_provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """ONNX Runtime with a TensorRT provider, as far as its first answers go; the list holds what it was asked for.

    The provider that onnxruntime-gpu really has, where that is installed, and the TensorRT that it links are not looked at.
    """
    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    class Session(real):  # type: ignore[misc, valid-type]  # the base class is a value
        used: ClassVar[list[str]] = ["TensorrtExecutionProvider"]
        first: ClassVar[str] = "TensorrtExecutionProvider"

        def __init__(self, content: bytes, options: Any, providers: Any, **rest: Any) -> None:
            super().__init__(content, options, providers=["CPUExecutionProvider"], **rest)
            sys.stdout.write("*************** EP Error ***************\n")
            asked.append(providers)

        def get_providers(self) -> list[str]:
            return [self.first, "CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> list[Any]:
            node = type("Node", (), {"op_type": "Conv"})
            return [type("Part", (), {"ep_name": name, "get_nodes": lambda: [node]}) for name in self.used]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "built in" / "__init__.py"))
    failed = "Failed to load libcublas.so.13\n"
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: sys.stdout.write(failed), raising=False)
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("edgekit.backends.onnxruntime.session.available_providers", lambda: names)
    set_driver(monkeypatch, None)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    return asked
