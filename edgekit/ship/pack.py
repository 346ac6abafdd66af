"""A bundle as one file: a zip whose bytes depend on the bundle alone, and the way back, which trusts nothing in it."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from edgekit.bundle.folder import Bundle, check_prepared, check_still_replaceable, open_bundle
from edgekit.bundle.golden import MAX_INFLATION
from edgekit.bundle.manifest import CARD, MANIFEST, MAX_MANIFEST_BYTES, SIGNATURES, Manifest, decode_manifest
from edgekit.bundle.packed import is_packed
from edgekit.bundle.signed import signatures_of
from edgekit.errors import FETCH_AGAIN, BundleError, OutputError
from edgekit.files import check_name, destination, opened, read_bytes, replacing, replacing_folder
from edgekit.ship.places import check_no_bundle, folder_name

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold, of every file."""
MODE = stat.S_IFREG | 0o644
SMALL_BYTES = 256 << 20
"""A zip that holds more may be at most ``MAX_INFLATION`` times as large unpacked; edgekit's own are not compressed at all."""
MOST_SIGNATURE_BYTES = 1 << 20
PIECE = 1 << 20


def write_zip(bundle: Bundle, file: Path) -> tuple[str, ...]:
    """Write a bundle, with its signatures, as the zip ``file``; returns the names of the files in it.

    Names are sorted, times fixed and nothing is compressed, because compressors of other releases give other bytes. Raises
    OutputError where something other than a packed bundle is there.
    """
    top = folder_name(bundle.manifest.name)
    names = tuple(sorted({MANIFEST, *bundle.manifest.files, *signatures_of(bundle)}))

    def packed(place: Path) -> tuple[str, ...]:
        with (
            replacing(file, lambda: check_zip_place(file)) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            for name in names:
                _add(archive, f"{top}/{name}", place / name)
        return names

    return bundle.reading(packed)


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.create_system = 3  # Unix, on whatever system this is
    entry.external_attr = MODE << 16
    entry.file_size = path.stat().st_size
    with opened(path) as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target, PIECE)


def check_zip_place(file: Path) -> None:
    """Raise OutputError unless ``file`` is free, or a packed bundle, which may be replaced."""
    place = destination(file)
    check_no_bundle(place)
    if not place.is_file() or not place.stat().st_size:
        return
    if not is_packed(place):
        raise OutputError(f"cannot write {file}: a file that is no packed bundle is there", "choose another --output")


class Packed(NamedTuple):
    """A zip whose entries are those of a bundle and nothing else: ``top`` is its one folder, ``entries`` by plain names."""

    file: Path
    top: str
    entries: Mapping[str, zipfile.ZipInfo]
    manifest: Manifest

    def write(self, root: Path) -> Bundle:
        """Unpack into the folder ``root``, whole or not at all.

        Raises BundleError where a checksum is wrong, and OutputError unless ``root`` is free or an unsigned bundle.
        """
        with replacing_folder(root, lambda: check_still_replaceable(root)) as folder, _archive(self.file) as archive:
            for name, entry in self.entries.items():
                _extract(archive, entry, folder / name, self.file)
            try:
                check_prepared(folder)
            except BundleError as problem:
                raise BundleError(problem.reason.replace(str(folder), str(self.file)), problem.remedy) from None
        return open_bundle(root)


def read_zip(file: Path) -> Packed:
    """Look into a packed bundle before anything is unpacked.

    Raises BundleError for names that leave the folder, links, encrypted or repeated entries, anything that the manifest does not
    list, sizes that are not the manifest's, and archives that grow beyond all measure.
    """
    if (file / MANIFEST).is_file():
        raise BundleError(f"{file} is a bundle's folder, and there is nothing to unpack", "use it as it is")
    if not file.is_file():
        read_bytes(file, "packed bundle", BundleError)  # raises
    with _archive(file) as archive:
        try:
            infos = archive.infolist()
        except Exception as problem:
            raise _damaged(file, problem) from None
        top, entries = _plain_entries(infos, file)
        if MANIFEST not in entries:
            raise BundleError(f"{file} is no packed bundle: it has no {MANIFEST}", "give a file that edgekit pack wrote")
        _check_size(file, entries[MANIFEST], MAX_MANIFEST_BYTES)
        content = _content(archive, entries[MANIFEST], file)
    manifest = decode_manifest(content, file / top / MANIFEST)
    _check_entries(entries, manifest, file)
    total = sum(entry.file_size for entry in entries.values())
    size = file.stat().st_size
    if total > max(SMALL_BYTES, MAX_INFLATION * size):
        raise BundleError(f"{file} would unpack to {total >> 20} MiB from {size} bytes", "do not use this file")
    return Packed(file, top, entries, manifest)


@contextmanager
def _archive(file: Path) -> Iterator[zipfile.ZipFile]:
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(opened(file))))
        except OSError as problem:
            raise BundleError(f"{file} cannot be read: {problem.strerror}", "check the path and its permissions") from None
        except Exception as problem:  # zipfile raises a dozen kinds for a crafted file
            raise _damaged(file, problem) from None
        yield archive


def _plain_entries(infos: list[zipfile.ZipInfo], file: Path) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """The one folder, and the entries in it by their names; raises BundleError for anything but plain files in it."""
    top = infos[0].filename.partition("/")[0] if infos else ""
    entries: dict[str, zipfile.ZipInfo] = {}
    folded: set[str] = set()
    for info in infos:
        folder, slash, name = info.filename.partition("/")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.filename == f"{top}/" and check_name(top):  # the folder itself, which other programs pack too
            continue
        if info.orig_filename != info.filename or not slash or folder != top or not check_name(top) or not check_name(name):
            raise BundleError(f"{file} holds {info.orig_filename!r}, which is no file of a bundle", "do not use this file")
        if kind not in (0, stat.S_IFREG) or info.flag_bits & 1:
            what = "is encrypted" if info.flag_bits & 1 else "is a link or a device"
            raise BundleError(f"{file}: {info.filename} {what}, and a bundle is of plain files", "do not use this file")
        if name.casefold() in folded:
            raise BundleError(f"{file} holds {info.filename} twice", "do not use this file")
        folded.add(name.casefold())
        entries[name] = info
    return top, entries


def _check_entries(entries: Mapping[str, zipfile.ZipInfo], manifest: Manifest, file: Path) -> None:
    """Raise BundleError unless the entries are the manifest's files, in their sizes, and signatures."""
    listed = {MANIFEST, *manifest.files}
    strangers = sorted(set(entries) - listed - {*SIGNATURES})
    if strangers:
        raise BundleError(f"{file} holds {strangers[0]}, which the manifest does not list", "do not use this file")
    missing = sorted(listed - set(entries))
    if missing:
        raise BundleError(f"{file} lacks {missing[0]}", FETCH_AGAIN)
    for name, entry in manifest.files.items():
        if name == CARD:  # an edited one is noted, as in a folder
            _check_size(file, entries[name], MAX_MANIFEST_BYTES)
        elif entries[name].file_size != entry.size:
            raise BundleError(
                f"{file}: {name} has {entries[name].file_size} bytes where the manifest says {entry.size}", FETCH_AGAIN
            )
    for name in set(entries) & {*SIGNATURES}:
        _check_size(file, entries[name], MOST_SIGNATURE_BYTES)


def _check_size(file: Path, entry: zipfile.ZipInfo, most: int) -> None:
    if entry.file_size > most:
        raise BundleError(f"{file}: {entry.filename} is larger than any such file", "do not use this file")


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: Path) -> bytes:
    """The bytes of a small entry; zipfile gives no more than the size that was looked at."""
    try:
        return archive.read(entry)
    except Exception as problem:
        raise _damaged(file, problem) from None


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, file: Path) -> None:
    """Write an entry to ``path``, by pieces."""
    try:
        source = archive.open(entry)
    except Exception as problem:
        raise _damaged(file, problem) from None
    with source, path.open("xb") as target:
        while True:
            try:
                piece = source.read(PIECE)
            except Exception as problem:
                raise _damaged(file, problem) from None
            if not piece:
                return
            target.write(piece)


def _damaged(file: Path, problem: Exception) -> BundleError:
    return BundleError(f"{file} is damaged: {str(problem) or type(problem).__name__}", FETCH_AGAIN)
