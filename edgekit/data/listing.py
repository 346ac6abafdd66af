"""Which files below a folder are pictures: the one answer for loading, for fingerprints and for ``predict``.

Links are followed. Left out, and told with the reason: whatever is hidden or below a hidden folder, what file managers and
servers leave behind, and files in other formats.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekit.decoding import SUFFIXES
from edgekit.errors import DataError, EdgekitError, printable
from edgekit.files import sha256_of, state_root, write_bytes
from edgekit.progress import SILENT, Progress
from edgekit.reports.train import LeftOut

SYSTEM_FOLDERS = frozenset({
    "@eadir", "#recycle", "$recycle.bin", "__macosx", "__pycache__", "_thumbnails", "_thumbs", "lost+found",
    "system volume information", "thumbnails",
})  # fmt: skip
"""Names, in lower case, of folders with copies and remains of pictures."""
_SETTLED_NS = 2_000_000_000
"""A file may change again within the tick of its clock: its hash is kept once the file is older than this."""


class Picture(NamedTuple):
    """A picture file; ``name`` is its path below the folder that was listed, with / between the parts."""

    path: Path
    name: str
    size: int
    modified_ns: int


class Listing(NamedTuple):
    """The pictures below a folder in the order of their paths, and what is there besides."""

    pictures: tuple[Picture, ...]
    left_out: tuple[LeftOut, ...]


def list_pictures(root: Path) -> Listing:
    """Every picture below ``root``; raises DataError where ``root`` or a folder below it cannot be read."""
    pictures: list[Picture] = []
    reasons: dict[str, list[str]] = {}
    for entry in _walk(root, "", frozenset()):
        if isinstance(entry, Picture):
            pictures.append(entry)
        else:
            reason, name = entry
            reasons.setdefault(reason, []).append(name)
    left_out = tuple(LeftOut(reason, len(names), printable(names[0])) for reason, names in sorted(reasons.items()))
    return Listing(tuple(sorted(pictures, key=lambda picture: picture.name.split("/"))), left_out)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders directly in ``folder`` that are not left out, in sorted order."""
    with _readable(folder), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not _skipped(entry.name))


def digests(root: Path, pictures: tuple[Picture, ...], progress: Progress = SILENT) -> dict[str, str]:
    """The hex sha256 of each picture's bytes, by its name; what was hashed before is remembered by size and time of change."""
    place, remembered = _remembered(root)
    hashes: dict[str, str] = {}
    new = [picture for picture in pictures if not _same(remembered.get(picture.name), picture)]
    with progress.task("hashing pictures", len(new)) as advance:
        for picture in new:
            with _readable(picture.path):
                hashes[picture.name] = sha256_of(picture.path)
            advance(1, "")
    hashes |= {picture.name: remembered[picture.name][2] for picture in pictures if picture.name not in hashes}
    if new and place is not None:
        _remember(place, pictures, hashes)
    return hashes


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[Picture | tuple[str, str]]:
    """Pictures, and (reason, name) of what is none; ``above`` are the folders on the way down."""
    with _readable(folder):
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        yield "a link to a folder above it", prefix.rstrip("/")
        return
    for entry in entries:
        name = prefix + entry.name
        skipped = _skipped(entry.name)
        if skipped:
            yield skipped, name
        elif entry.is_dir():
            yield from _walk(Path(entry.path), f"{name}/", above | {identity})
        else:
            yield _file(entry, name)


def _file(entry: os.DirEntry[str], name: str) -> Picture | tuple[str, str]:
    suffix = Path(entry.name).suffix.lower()
    if suffix not in SUFFIXES:
        return f"no picture format that is read: {suffix or 'no suffix'}", name
    try:
        status = entry.stat()
    except OSError:
        return "a link to nothing", name
    if not entry.is_file():
        return "not a regular file", name
    return Picture(Path(entry.path), name, status.st_size, status.st_mtime_ns)


def _skipped(name: str) -> str:
    """Why a file or folder of this name is left out, wherever it lies; empty for the others."""
    if name.startswith("."):
        return "hidden"
    return "a folder of thumbnails or of the system" if name.lower() in SYSTEM_FOLDERS else ""


class _readable:
    """Turns an OSError into a DataError that names the path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, problem: BaseException | None, traceback: object) -> None:
        if isinstance(problem, OSError):
            raise DataError(f"{self.path} cannot be read: {problem.strerror}", "check the path and its permissions") from None


_Known = Mapping[str, tuple[int, int, str]]
"""Name -> size, time of change in ns, sha256."""


def _same(remembered: tuple[int, int, str] | None, picture: Picture) -> bool:
    return remembered is not None and remembered[:2] == (picture.size, picture.modified_ns)


def _remembered(root: Path) -> tuple[Path | None, _Known]:
    """Where the hashes of ``root`` are kept, and those that are; without a place for state nothing is."""
    key = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()
    try:
        place = state_root() / "pictures" / f"{key}.json"
        return place, msgspec.json.decode(place.read_bytes(), type=dict[str, tuple[int, int, str]])
    except EdgekitError:
        return None, {}
    except (OSError, msgspec.DecodeError):
        return place, {}


def _remember(place: Path, pictures: tuple[Picture, ...], hashes: Mapping[str, str]) -> None:
    """A place that cannot be written is no fault; a name that is not UTF-8 is hashed every time."""
    before = time.time_ns() - _SETTLED_NS
    entries = {
        picture.name: (picture.size, picture.modified_ns, hashes[picture.name])
        for picture in pictures
        if picture.modified_ns < before and printable(picture.name) == picture.name
    }
    with suppress(EdgekitError):
        write_bytes(place, msgspec.json.encode(entries))
