"""One variant of a bundle, as a backend opens it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.tensors import TensorSpec


class ModelFiles(NamedTuple):
    """What a runtime needs of a bundle: the ONNX file, its tensors, and the PyTorch model where it can be rebuilt."""

    onnx: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    torch_model: str | None = None
    torch_args: Mapping[str, Any] = {}
    torch_weights: Path | None = None
    precision: str = "float32"
    onnx_sha256: str = ""
