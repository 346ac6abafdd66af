"""One variant of a bundle, as a backend opens it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.tensors import TensorSpec


class ModelFiles(NamedTuple):
    """What a backend needs of a bundle: one variant's ONNX file and its tensors, and what the original model was made of.

    ``original``: this variant is what the original model was exported to, so that both compute the same. ``factory`` names what
    made the original model of ``args``, and ``weights`` is its state_dict as safetensors; all of these are claims of a manifest.
    """

    onnx: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str = "float32"
    onnx_sha256: str = ""
    original: bool = True
    factory: str = ""
    args: Mapping[str, Any] = {}
    weights: Path | None = None
