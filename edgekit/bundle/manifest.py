"""``manifest.json``: everything about a bundle, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgekit.errors import BundleError
from edgekit.files import check_name
from edgekit.preprocess import Preprocess
from edgekit.reports.export import FoldReport
from edgekit.tensors import TensorSpec
from edgekit.tolerance import Tolerance

MANIFEST, MODEL, GOLDEN, WEIGHTS, CARD = "manifest.json", "model.onnx", "golden.npz", "weights.safetensors", "README.md"
SCHEMA = 3
MAX_MANIFEST_BYTES = 16 << 20


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``size`` in bytes."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Meta(ge=0)]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ONNX file of the same network; fp16 and int8 files will stand beside the first."""

    name: str
    file: str
    precision: str
    tolerance: Tolerance


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the golden inputs came from: ``test-set`` pictures in order, or ``random`` normal numbers by ``seed``.

    ``float32_error`` is PyTorch's own float32 against its float64, scale-normalised: a yardstick for every runtime. For an ONNX
    file it is ONNX Runtime's, in the file's dtype, and None where the file could not be run in float64 and is its own reference.
    """

    file: str
    samples: Annotated[int, Meta(ge=1, le=1_000_000)]
    kind: Literal["test-set", "random"]
    seed: int
    float32_error: float | None


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was exported: a factory with its arguments, the recipe it was trained by, and its weights."""

    model: str
    args: dict[str, Any]
    recipe: dict[str, Any] | None
    weights_sha256: str
    weights_file: str | None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``manifest.json``. ``test_accuracy`` is a share of 1 on the whole test set, of the original model in float32."""

    schema: Annotated[int, Meta(ge=1)]
    name: str
    inputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1)]
    preprocess: Preprocess | None
    labels: tuple[str, ...]
    source: Source
    opset: int
    fold: FoldReport
    test_accuracy: float | None
    golden: Golden
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1)]
    tools: dict[str, str]
    notes: tuple[str, ...]
    files: dict[str, FileEntry]

    def to_json(self) -> bytes:
        """Indented, in the order of the fields; the same manifest gives the same bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def decode_manifest(content: bytes, path: Path) -> Manifest:
    try:
        document = msgspec.json.decode(content, type=dict[str, Any])
        schema = document.get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            raise BundleError(f"{path} has schema {schema}, and this edgekit reads up to {SCHEMA}; upgrade edgekit")
        manifest = msgspec.convert(_upgraded(document), Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as problem:
        raise BundleError(f"{path} is damaged: {problem}; export the bundle again") from None
    for spec in (*manifest.inputs, *manifest.outputs):
        if not spec.shape:
            raise BundleError(f"{path} gives {spec.name!r} no axes, and samples are the first axis; export the bundle again")
    used = [manifest.golden.file, *(variant.file for variant in manifest.variants)]
    used += [manifest.source.weights_file] if manifest.source.weights_file else []
    for name in (*manifest.files, *used):
        if not check_name(name) or name == MANIFEST:
            raise BundleError(f"{path} lists the file {name!r}, which is no plain name in its folder; do not use this bundle")
    missing = sorted(set(used) - set(manifest.files))
    if missing:
        raise BundleError(f"{path} gives no checksum for {missing[0]}; export the bundle again")
    return manifest


def _upgraded(document: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 named one layer that a batch norm was folded into, schema 2 names all of them."""
    folds = document.get("fold")
    if document.get("schema") == 1 and isinstance(folds, dict) and isinstance(folds.get("folded"), list):
        for fold in folds["folded"]:
            if isinstance(fold, dict) and isinstance(fold.get("into"), str):
                fold["into"] = [fold["into"]]
    return document
