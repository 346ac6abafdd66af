"""Bundles: a folder that proves itself. Opening one checks every file against the manifest's sizes and sha256.

    model.onnx            the network, folded or not
    golden.npz            inputs with the reference outputs of the original model, in float64 and in float32
    weights.safetensors   the original PyTorch weights, unfolded (optional: only PyTorch needs them)
    manifest.json         everything about the above, as data
    README.md             the model card

Nothing in a bundle is executed or unpickled, and no name in its manifest leaves its folder.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgekit.bundle.files import ModelFiles
from edgekit.bundle.golden import GoldenArrays, read_golden
from edgekit.bundle.manifest import MANIFEST, MAX_MANIFEST_BYTES, FileEntry, Manifest, Variant, decode_manifest
from edgekit.errors import BundleError, OutputError
from edgekit.files import read_bytes, replacing_folder, sha256_of, write_error
from edgekit.models import MODELS


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
        return read_golden(self.root / self.manifest.golden.file, self.manifest)


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
    manifest = decode_manifest(read_bytes(path, "manifest", BundleError), path)
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
            known = {MANIFEST, *decode_manifest(read_bytes(root / MANIFEST, "manifest", BundleError), root / MANIFEST).files}
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


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()
