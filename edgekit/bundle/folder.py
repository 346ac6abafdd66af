"""Bundles: a folder that proves itself. Opening one checks every file against the manifest's sizes and sha256.

    model.onnx            the network, folded or not; further variants of it are files beside it
    golden.npz            inputs with the reference outputs of the original model, in float64 and in its own dtype
    evidence.npz          what was measured at export: noise floors, fingerprints, predictions
    weights.safetensors   the original PyTorch weights, unfolded (optional: only PyTorch needs them)
    bom.cdx.json          the bill of materials, of the manifest's content in CycloneDX's words
    manifest.json         everything about the above, as data
    README.md             the model card

Nothing in a bundle is executed or unpickled, and no name in its manifest leaves its folder.
"""

from __future__ import annotations

import hashlib
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from edgekit import atomic
from edgekit.bundle.around import bundle_around, inside
from edgekit.bundle.bom import bill_of_materials
from edgekit.bundle.evidence import EvidenceArrays, read_evidence
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.golden import GoldenArrays, read_golden
from edgekit.bundle.manifest import (
    BOM,
    CARD,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SCHEMA,
    SIGNATURES,
    FileEntry,
    Manifest,
    Variant,
    decode_manifest,
    reads_from,
)
from edgekit.bundle.packed import is_packed
from edgekit.errors import FETCH_AGAIN, BundleError, EdgekitError, OutputError
from edgekit.files import as_path, kind_at, opened, read_bytes, replacing_folder, sha256_of, write_error
from edgekit.preprocess import Intake

_T = TypeVar("_T")


class Bundle(msgspec.Struct, frozen=True):
    """An opened, checked bundle; ``sha256`` is that of its ``manifest.json``, and so of all of it.

    Where a variant is named, the empty name is the first. ``notes`` are sentences about what differs and does no harm.
    ``signed`` says by what key it was found to be signed; empty where that was not asked.
    """

    root: Path
    manifest: Manifest
    sha256: str
    notes: tuple[str, ...] = ()
    identity: tuple[int, ...] | None = None  # of the folder on the disk
    held: bytes | None = None  # golden.npz, unless it is large
    signed: str = ""
    hold: atomic.Hold | None = None  # keeps the folder when a writer puts another bundle in its place

    def variant(self, name: str = "") -> Variant:
        """The variant ``name``; raises UsageError that lists those there are."""
        return self.manifest.variant(name)

    def onnx_of(self, name: str = "") -> Path:
        """The file of the variant ``name``; see ``reading``."""
        return self.place / self.variant(name).file

    def onnx_bytes(self, name: str = "") -> bytes:
        """The content of the file of the variant ``name``; raises BundleError where it is no longer there."""
        file = self.variant(name).file
        return self.reading(lambda place: read_bytes(place / file, "ONNX file", BundleError))

    def read_of(self, name: str, read: Callable[[bytes], _T]) -> _T:
        """What ``read``, which raises ValueError for a malformed file, finds in the file of the variant ``name``.

        Raises BundleError for what is no ONNX file.
        """
        try:
            return read(self.onnx_bytes(name))
        except ValueError as problem:
            raise BundleError(f"{self.onnx_of(name)} is no ONNX file: {problem}", FETCH_AGAIN) from None

    def sha256_of(self, name: str = "") -> str:
        """The fingerprint of the variant's file, which reports are tied to."""
        return self.manifest.files[self.variant(name).file].sha256

    def files(self, name: str = "") -> ModelFiles:
        """What a backend needs of the variant ``name``; what it says of the original model are the manifest's claims."""
        variant, source = self.variant(name), self.manifest.source
        return ModelFiles(
            onnx=self.onnx_of(name),
            inputs=self.manifest.inputs_of(name),
            outputs=self.manifest.outputs,
            precision=variant.precision,
            onnx_sha256=self.sha256_of(name),
            original=variant.conversion is None and variant.made_by.get("command") == "export",
            trained_for=str(self.manifest.variants[0].made_by.get("trained_for", "")),
            factory=source.model,
            args=source.args,
            weights=self.weights,
            conversion=variant.conversion,
            variant=variant.name,
        )

    def intake(self, name: str = "") -> Intake | None:
        """How pictures become the input of the variant ``name``; None for a bundle without preprocessing."""
        return self.variant(name).intake(self.manifest.preprocess)

    @property
    def weights(self) -> Path | None:
        """The original PyTorch weights, where the bundle holds them."""
        name = self.manifest.source.weights_file
        return self.place / name if name else None

    @property
    def place(self) -> Path:
        """Where the bundle's folder is now: ``root``, unless a writer has moved it aside meanwhile."""
        return self.root if self.hold is None else self.hold.path

    def reading(self, read: Callable[[Path], _T], undo: Callable[[_T], object] = id) -> _T:
        """What ``read`` makes of the bundle's folder; it is called again where a writer has moved the folder meanwhile.

        ``undo`` gets what is not returned. Raises what ``read`` does, and BundleError where the folder is gone.
        """
        for _ in range(atomic.MOVES):
            place = self.place
            try:
                result = read(place)
            except (EdgekitError, OSError):
                if self._was_moved(place):
                    continue
                raise
            try:
                moved = self._was_moved(place)
            except BundleError:
                undo(result)
                raise
            if not moved:
                return result
            undo(result)
        raise _replaced(self.root)

    def _was_moved(self, place: Path) -> bool:
        """Whether the folder is no longer at ``place``; raises BundleError where it is nowhere."""
        self.check_in_place()
        return self.place != place

    def check_in_place(self) -> None:
        """Raise BundleError where another bundle has taken the place of this one, so that its files are no longer there."""
        if self.identity is not None and _identity(self.root, self.hold) != self.identity:
            raise _replaced(self.root)

    def check_unchanged(self) -> None:
        """Raise BundleError unless what lies at ``root`` is the bundle that was read."""
        if self.identity is not None and _identity(self.root) != self.identity:
            raise _replaced(self.root)

    def golden(self, name: str = "") -> GoldenArrays:
        """Read the golden samples of what the variant ``name`` takes; raises BundleError unless they are as the manifest says."""
        file = self.manifest.golden_of(name).file
        if self.held is not None and file == self.manifest.golden.file:
            return read_golden(self.root / file, self.manifest, self.held)
        return self.reading(lambda place: read_golden(place / file, self.manifest, variant=name))

    def evidence(self) -> EvidenceArrays | None:
        """Read ``evidence.npz``; None for a bundle of an edgekit that wrote none. Raises BundleError for a damaged file."""
        described = self.manifest.evidence
        if described is None:
            return None
        return self.reading(lambda place: read_evidence(place / described.file, self.manifest))


MOST_HELD = 64 << 20
"""Bytes of golden.npz that an opened bundle holds in memory."""
ATTEMPTS = 100
"""Attempts to open a bundle that writers keep replacing."""
PAUSE = 0.005
"""Seconds to wait for a writer that is between two renames."""


def open_bundle(root: Path | str) -> Bundle:
    """Read the manifest and check every file it lists; raises BundleError naming the file at fault.

    Beside a writer the old bundle is opened or the new one, whole, and can be read as long as the Bundle lives. A changed model
    card is a note.
    """
    root = as_path(root, "bundle", BundleError)
    return _beside_writers(root, lambda place, hold: msgspec.structs.replace(_opened(place), root=root, hold=hold))


def check_prepared(folder: Path) -> None:
    """Raise BundleError unless ``folder``, which this process writes and keeps locked, holds a whole bundle.

    ``open_bundle`` would wait for the writer, which is this process.
    """
    _opened(folder)


def as_opened(bundle: Bundle | Path | str) -> Bundle:
    """A bundle that is open already, or that of a folder; raises what ``open_bundle`` does."""
    return bundle if isinstance(bundle, Bundle) else open_bundle(bundle)


def _beside_writers(root: Path, read: Callable[[Path, atomic.Hold | None], _T]) -> _T:
    """What ``read`` makes of the folder ``root``, wherever a writer moves it, or of the one that a writer has put there instead.

    Raises what ``read`` does for a folder that nobody replaces.
    """
    for _ in range(ATTEMPTS):
        with _let_go_on_failure(atomic.hold(root)) as hold:
            for _ in range(atomic.MOVES):
                place = root if hold is None else hold.path
                before = _identity(root, hold)
                problem: EdgekitError | OSError | None = None
                try:
                    result = read(place, hold)
                except (EdgekitError, OSError) as trouble:
                    problem = trouble
                if place != (root if hold is None else hold.path) or _identity(root, hold) != before:
                    continue  # a writer has moved it, or written another in its place
                if problem is None:
                    return result
                if place != root:
                    break  # what is damaged has been replaced
                if not atomic.between_renames(root):
                    raise problem
                time.sleep(PAUSE)
    raise _replaced(root)


@contextmanager
def _let_go_on_failure(hold: atomic.Hold | None) -> Iterator[atomic.Hold | None]:
    """Release ``hold`` where an error ends the block: the error's frames would keep it as long as somebody keeps the error."""
    try:
        yield hold
    except BaseException:
        if hold is not None:
            hold.release()
        raise


def _replaced(root: Path) -> BundleError:
    return BundleError(f"bundle {root} was replaced while it was read", "run the command again")


def _opened(root: Path) -> Bundle:
    identity = _identity(root)
    bundle = _read(root)
    for name, entry in bundle.manifest.files.items():
        if name != CARD:
            _check_sha256(root / name, entry)
    golden = bundle.manifest.files[bundle.manifest.golden.file]
    held = None
    if golden.size <= MOST_HELD:
        held = read_bytes(root / bundle.manifest.golden.file, "golden file", BundleError)
        if hashlib.sha256(held).hexdigest() != golden.sha256:
            raise BundleError(f"{root / bundle.manifest.golden.file} changed while it was read", "open the bundle again")
    return msgspec.structs.replace(bundle, identity=identity, held=held, notes=tuple(_card_notes(root, bundle.manifest)))


def _identity(root: Path, hold: atomic.Hold | None = None) -> tuple[int, ...] | None:
    """What tells a bundle from another that takes its place, even from one with the same manifest; None where there is none."""
    try:
        folder, manifest = (hold.status(), hold.status(MANIFEST)) if hold else (root.stat(), (root / MANIFEST).stat())
    except OSError:
        return None
    return folder.st_ino, manifest.st_ino, manifest.st_mtime_ns


def _card_notes(root: Path, manifest: Manifest) -> Iterator[str]:
    """The card is for people: one that was edited, or that git has given other line ends, harms nobody."""
    entry = manifest.files.get(CARD)
    try:
        differs = entry is not None and sha256_of(root / CARD) != entry.sha256
    except OSError as problem:
        yield f"{CARD}, the model card, cannot be read: {problem.strerror}; nothing depends on it"
        return
    if entry is not None and differs:
        kind = "has other line ends than" if _only_line_ends_differ(root / CARD, entry) else "is not"
        yield f"{CARD} {kind} the model card that was written with the bundle; nothing depends on it"


def _only_line_ends_differ(path: Path, entry: FileEntry) -> bool:
    """Whether converting line ends, as git does, gives the file that the manifest lists."""
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            return False
        with opened(path) as stream:
            content = stream.read()
    except OSError:
        return False
    unix = content.replace(b"\r\n", b"\n")
    return any(hashlib.sha256(text).hexdigest() == entry.sha256 for text in (unix, unix.replace(b"\n", b"\r\n")))


def write_bundle(root: Path, manifest: Manifest, contents: Mapping[str, bytes], *, instead_of: Bundle | None = None) -> Bundle:
    """Write ``contents``, their bill of materials and the manifest, in today's schema, as ``root``, whole or not at all.

    An older bundle there is replaced; raises OutputError for a folder that holds anything else. ``instead_of`` is the bundle that
    the new one was made from: raises BundleError where another has taken its place since, whose changes would be lost.
    """
    dropped = SIGNATURES if instead_of is not None else ()
    check_replaceable(root, dropped)
    files = {name: _entry_of(content) for name, content in contents.items()}
    contents = {**contents, BOM: bill_of_materials(manifest, files)}
    files = {name: _entry_of(content) for name, content in sorted(contents.items())}
    own_inputs = any(variant.inputs is not msgspec.UNSET for variant in manifest.variants)
    oldest = reads_from(manifest.preprocess, manifest.inputs, own_inputs=own_inputs)
    manifest = msgspec.structs.replace(manifest, schema=SCHEMA, reads_from=oldest, files=files)

    def check() -> None:
        if instead_of is not None:
            instead_of.check_unchanged()
        check_still_replaceable(root, dropped)

    with replacing_folder(root, check) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        (folder / MANIFEST).write_bytes(manifest.to_json())
        written = _read(folder, exactly=True)  # what cannot be opened must not take an older bundle's place
        for variant in written.manifest.variants:
            written.golden(variant.name)
    golden = contents[manifest.golden.file]
    held = golden if len(golden) <= MOST_HELD else None
    return msgspec.structs.replace(written, root=root, identity=_identity(root), held=held, hold=atomic.hold(root))


def _entry_of(content: bytes) -> FileEntry:
    return FileEntry(hashlib.sha256(content).hexdigest(), len(content))


def check_replaceable(root: Path, dropped: Collection[str] = ()) -> None:
    """Raise OutputError unless ``root`` is free, an empty folder, or a bundle with nothing of the user's in it.

    ``dropped``: files beside a bundle that the caller may do without, such as the signatures of what is replaced.
    """
    _check_place(root)
    try:
        _beside_writers(root, lambda place, hold: _check_contents(root, place, dropped))
    except OSError as problem:
        raise write_error(root, problem) from problem


def check_still_replaceable(root: Path, dropped: Collection[str] = ()) -> None:
    """The same while this process keeps other writers out, for whom ``check_replaceable`` would wait."""
    _check_place(root)
    try:
        _check_contents(root, root, dropped)
    except OSError as problem:
        raise write_error(root, problem) from problem


def _check_place(root: Path) -> None:
    """Raise OutputError for a name that cannot be replaced, a link, what is no folder, and a place in another bundle."""
    if root.name in ("", ".."):
        raise OutputError(
            f"cannot write the bundle {root}: this folder cannot be replaced by another", "give --output a name in it"
        )
    try:
        if root.is_symlink() or (root.exists() and not root.is_dir()):
            raise OutputError(
                f"cannot write the bundle {root}: something that is not a folder is there", "choose another --output"
            )
        other = bundle_around(root.absolute().parent)
        if other is not None:
            raise inside(root, other)
    except OSError as problem:
        raise write_error(root, problem) from problem


def _check_contents(root: Path, place: Path, dropped: Collection[str]) -> None:
    """Raise OutputError for a file of the user's in the folder ``root``, which is now at ``place``."""
    entries = {path.name: path for path in place.iterdir()} if place.exists() else {}
    listed: set[str] = set()
    if MANIFEST in entries:
        try:
            content = read_bytes(place / MANIFEST, "manifest", BundleError)
            listed = {MANIFEST, *decode_manifest(content, root / MANIFEST).files}
        except BundleError as problem:
            raise OutputError(
                f"cannot write the bundle {root}: a {MANIFEST} that is no bundle's is there ({problem})",
                "remove the folder yourself or choose another --output",
            ) from None
    listed.update(dropped)
    strangers = sorted(name for name, path in entries.items() if name not in listed or path.is_dir())
    if strangers and strangers[0] in SIGNATURES:
        raise OutputError(f"cannot write the bundle {root}: it is signed ({strangers[0]})", "choose another --output")
    if strangers:
        raise OutputError(
            f"cannot write the bundle {root}: it holds {strangers[0]}, which is not part of a bundle",
            "move it away or choose another --output",
        )


def _read(root: Path, *, exactly: bool = False) -> Bundle:
    """Everything that opening a bundle checks but the fingerprints: its files are there, of the right size."""
    path = root / MANIFEST
    try:
        if not root.exists():
            what = "is a link that leads nowhere" if kind_at(root) else "does not exist"
            raise BundleError(f"bundle {root} {what}", "check the path, or make it with edgekit export")
        if not root.is_dir() or not path.is_file() or path.is_symlink():
            raise _no_bundle(root)
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} is larger than any manifest", FETCH_AGAIN)
    except OSError as problem:
        raise BundleError(f"bundle {root} cannot be read: {problem.strerror}", "check the path and its permissions") from None
    content = read_bytes(path, "manifest", BundleError)
    manifest = decode_manifest(content, path)
    for name, entry in manifest.files.items():
        _check_size(root, name, entry, exactly=exactly or name != CARD)
    return Bundle(root, manifest, hashlib.sha256(content).hexdigest())


def _no_bundle(root: Path) -> BundleError:
    """The error for a place that is no bundle's folder."""
    if is_packed(root):
        return BundleError(f"{root} is a packed bundle", f"unpack it first: edgekit unpack {root}")
    kind = kind_at(root / MANIFEST)
    if not root.is_dir():
        what = f"it is a {kind_at(root.resolve())}, and a bundle is a folder"
    else:
        what = f"its {MANIFEST} is a {kind} in place of a file" if kind else f"it has no {MANIFEST}"
    return BundleError(f"{root} is not a bundle: {what}", "give the folder that edgekit export wrote")


def _check_size(root: Path, name: str, entry: FileEntry, *, exactly: bool) -> None:
    path = root / name
    try:
        status = path.lstat()
    except OSError:
        raise BundleError(f"bundle {root} lacks {name}", FETCH_AGAIN) from None
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is not a regular file", FETCH_AGAIN)
    if status.st_size != entry.size and exactly:
        _refuse_other_line_ends(path, entry)
        raise BundleError(f"{path} has {status.st_size} bytes where the manifest says {entry.size}", FETCH_AGAIN)


def _refuse_other_line_ends(path: Path, entry: FileEntry) -> None:
    if _only_line_ends_differ(path, entry):
        raise BundleError(
            f"only the line ends of {path} differ from those that the manifest lists, as after a checkout by git",
            "add '* -text' to a .gitattributes file in the bundle's repository and check it out again",
        )


def _check_sha256(path: Path, entry: FileEntry) -> None:
    try:
        digest = sha256_of(path)
    except OSError as problem:
        raise BundleError(f"{path} cannot be read: {problem.strerror}", "check its permissions") from None
    if digest != entry.sha256:
        _refuse_other_line_ends(path, entry)
        raise BundleError(f"{path} does not have the sha256 that the manifest says", FETCH_AGAIN)
