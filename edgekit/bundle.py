"""Bundles: a folder that proves itself. Opening one checks every file against the manifest's sizes and sha256.

    model.onnx            the network, folded or not
    golden.npz            inputs with the reference outputs of the original model, in float64 and in float32
    weights.safetensors   the original PyTorch weights, unfolded (optional: only PyTorch needs them)
    manifest.json         everything about the above, as data
    README.md             the model card

Nothing in a bundle is executed or unpickled, and no name in its manifest leaves its folder.
"""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edgekit.backends import ModelFiles
from edgekit.errors import BundleError, OutputError
from edgekit.files import read_bytes, replacing_folder, sha256_of, write_error
from edgekit.models import MODELS
from edgekit.preprocess import Preprocess
from edgekit.recipe import Tolerance, check_name
from edgekit.reports import FoldReport
from edgekit.tensors import Array, TensorSpec

MANIFEST, MODEL, GOLDEN, WEIGHTS, CARD = "manifest.json", "model.onnx", "golden.npz", "weights.safetensors", "README.md"
SCHEMA = 3
MAX_MANIFEST_BYTES = 16 << 20
MAX_GOLDEN_BYTES = 4 << 30


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


class GoldenArrays(msgspec.Struct, frozen=True):
    """The arrays of ``golden.npz``: name -> samples x ..."""

    inputs: dict[str, Array]
    float64: dict[str, Array]
    float32: dict[str, Array]
    labels: Array | None

    def to_npz(self) -> bytes:
        """The same arrays give the same bytes."""
        members = {f"input.{name}": array for name, array in self.inputs.items()}
        members |= {f"float64.{name}": array for name, array in self.float64.items()}
        members |= {f"float32.{name}": array for name, array in self.float32.items()}
        if self.labels is not None:
            members["labels"] = self.labels
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **members)  # type: ignore[arg-type]
        return buffer.getvalue()


class Bundle(msgspec.Struct, frozen=True):
    """An opened, checked bundle."""

    root: Path
    manifest: Manifest

    @property
    def variant(self) -> Variant:
        """The first variant: float32."""
        return self.manifest.variants[0]

    @property
    def onnx(self) -> Path:
        """The first variant's file."""
        return self.root / self.variant.file

    @property
    def onnx_sha256(self) -> str:
        """What reports are tied to."""
        return self.manifest.files[self.variant.file].sha256

    def model_files(self) -> ModelFiles:
        """What a runtime needs; PyTorch is offered only for edgekit's own models, never for an import path in a manifest."""
        source = self.manifest.source
        rebuildable = source.model in MODELS and source.weights_file is not None
        return ModelFiles(
            self.onnx,
            self.manifest.inputs,
            self.manifest.outputs,
            torch_model=source.model if rebuildable else None,
            torch_args=source.args,
            torch_weights=self.weights if rebuildable else None,
            precision=self.variant.precision,
            onnx_sha256=self.onnx_sha256,
        )

    @property
    def weights(self) -> Path | None:
        """The original PyTorch weights, where the bundle holds them."""
        name = self.manifest.source.weights_file
        return self.root / name if name else None

    def golden(self) -> GoldenArrays:
        """Read ``golden.npz``; raises BundleError when it is not what the manifest says."""
        return _read_golden(self.root / self.manifest.golden.file, self.manifest)


def open_bundle(root: Path) -> Bundle:
    """Read the manifest and check every file it lists; raises BundleError naming the file at fault."""
    path = root / MANIFEST
    try:
        if not root.exists():
            raise BundleError(f"bundle {root} does not exist; check the path, or make it with edgekit export")
        if not root.is_dir() or not path.is_file() or path.is_symlink():
            raise BundleError(f"{root} is not a bundle: it has no {MANIFEST}; give the folder that edgekit export wrote")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} is larger than any manifest; export the bundle again")
    except OSError as problem:
        raise BundleError(f"bundle {root} cannot be read: {problem.strerror}; check the path and its permissions") from None
    manifest = _decode(read_bytes(path, "manifest", BundleError), path)
    for name, entry in manifest.files.items():
        _check_file(root, name, entry)
    return Bundle(root, manifest)


def write_bundle(root: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Bundle:
    """Write ``contents`` and the manifest as the folder ``root``, whole or not at all.

    An older bundle there is replaced; raises OutputError for a folder that holds anything else.
    """
    check_replaceable(root)
    files = {name: FileEntry(_sha256(content), len(content)) for name, content in sorted(contents.items())}
    manifest = msgspec.structs.replace(manifest, files=files)
    with replacing_folder(root) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        (folder / MANIFEST).write_bytes(manifest.to_json())
        open_bundle(folder).golden()  # what cannot be opened must not take an older bundle's place
    return Bundle(root, manifest)


def check_replaceable(root: Path) -> None:
    """Raise OutputError unless ``root`` is free, an empty folder, or a bundle with nothing of the user's in it."""
    if root.name in ("", ".."):
        raise OutputError(
            f"cannot write the bundle {root}: this folder cannot be replaced by another; give --output a name in it"
        )
    try:
        if root.is_symlink() or (root.exists() and not root.is_dir()):
            raise OutputError(f"cannot write the bundle {root}: something that is not a folder is there; choose another --output")
        there = {path.name: path for path in root.iterdir()} if root.exists() else {}
    except OSError as problem:
        raise write_error(root, problem) from problem
    known: set[str] = set()
    if MANIFEST in there:
        try:
            known = {MANIFEST, *_decode(read_bytes(root / MANIFEST, "manifest", BundleError), root / MANIFEST).files}
        except BundleError as problem:
            raise OutputError(
                f"cannot write the bundle {root}: a {MANIFEST} that is no bundle's is there ({problem}); "
                "remove the folder yourself or choose another --output"
            ) from None
    strangers = sorted(name for name, path in there.items() if name not in known or path.is_dir())
    if strangers:
        raise OutputError(
            f"cannot write the bundle {root}: it holds {strangers[0]}, which is not part of a bundle; "
            "move it away or choose another --output"
        )


def _decode(content: bytes, path: Path) -> Manifest:
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


def _check_file(root: Path, name: str, entry: FileEntry) -> None:
    path = root / name
    try:
        found = path.lstat()
    except OSError:
        raise BundleError(f"bundle {root} lacks {name}; copy the whole folder again") from None
    if not stat.S_ISREG(found.st_mode):
        raise BundleError(f"{path} is not a regular file; copy the whole folder again")
    if found.st_size != entry.size:
        raise BundleError(f"{path} has {found.st_size} bytes where the manifest says {entry.size}; copy the bundle again")
    try:
        digest = sha256_of(path)
    except OSError as problem:
        raise BundleError(f"{path} cannot be read: {problem.strerror}; check its permissions") from None
    if digest != entry.sha256:
        raise BundleError(f"{path} does not have the sha256 that the manifest says; copy the bundle again")


def _read_golden(path: Path, manifest: Manifest) -> GoldenArrays:
    samples = manifest.golden.samples
    wanted = {f"input.{spec.name}": (spec.dtype, spec.concrete(samples)) for spec in manifest.inputs}
    for spec in manifest.outputs:
        wanted[f"float64.{spec.name}"] = ("float64", spec.concrete(samples))
        wanted[f"float32.{spec.name}"] = (spec.dtype, spec.concrete(samples))
    arrays: dict[str, Array] = {}
    try:
        _check_sizes(path, wanted)
        with np.load(path, allow_pickle=False) as content:
            labels = content["labels"] if "labels" in content.files else None
            for name, (dtype, shape) in wanted.items():
                arrays[name] = content[name]
                if str(arrays[name].dtype) != dtype or arrays[name].shape != shape:
                    raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, not {dtype} {shape}")
            if labels is not None and (str(labels.dtype) != "int64" or labels.shape != (samples,)):
                raise ValueError(f"labels is {labels.dtype} {labels.shape}, not int64 {(samples,)}")
    except Exception as problem:  # zipfile, zlib and numpy raise a dozen kinds for a crafted file
        reason = str(problem) or type(problem).__name__
        raise BundleError(f"{path} is not the golden file its manifest describes: {reason}; export the bundle again") from None

    def part(kind: str) -> dict[str, Array]:
        return {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{kind}.")}

    return GoldenArrays(part("input"), part("float64"), part("float32"), labels)


def _check_sizes(path: Path, wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Before anything is unpacked: no member may be larger than the manifest's shapes explain."""
    header = 4096
    limits = {
        f"{name}.npy": np.dtype(dtype).itemsize * int(np.prod(shape, dtype=object)) for name, (dtype, shape) in wanted.items()
    }
    limits["labels.npy"] = 8 * max((shape[0] for _, shape in wanted.values() if shape), default=0)
    if sum(limits.values()) > MAX_GOLDEN_BYTES:
        raise ValueError(f"it would take more than {MAX_GOLDEN_BYTES >> 30} GiB of memory")
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename not in limits or member.file_size > limits[member.filename] + header:
                raise ValueError(f"member {member.filename!r} is unknown or too large")


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()
