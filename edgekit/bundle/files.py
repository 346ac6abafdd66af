"""One variant of a bundle, as a backend opens it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.bundle.manifest import Conversion
from edgekit.tensors import TensorSpec


class ModelFiles(NamedTuple):
    """One variant as a backend opens it: the ONNX file, its tensors, and how to build the original model.

    ``original``: this variant was exported from the original model, so both compute the same. ``factory`` and ``args`` built the
    original model, and ``weights`` is its state_dict as safetensors. All of these are unverified claims of a manifest.

    ``trained_for``: the precision that the folded network was trained on for, so that the original model is another network.
    ``conversion``: how ``edgekit quantize`` made the file, None for another; ``variant`` is its name in the bundle.
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
    conversion: Conversion | None = None
    trained_for: str = ""
    variant: str = ""

    @property
    def free_side(self) -> str:
        """The first axis behind the batch that is free, as the sides of pictures are; empty where none is."""
        axes = (axis for spec in self.inputs for axis in spec.shape[1:])
        return next((axis for axis in axes if isinstance(axis, str)), "")

    @property
    def floor(self) -> Mapping[str, str]:
        """Runtime -> the oldest release that runs the file as meant."""
        return self.conversion.floor if self.conversion else {}
