"""Which files below a folder are pictures: the one answer for loading, for fingerprints and for ``predict``.

Links are followed. Left out, and told with the reason: whatever is hidden or below a hidden folder, what file managers and
servers leave behind, and files in other formats.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from edgekit.decoding.opening import SUFFIXES
from edgekit.errors import DataError, EdgekitError, printable
from edgekit.files import sha256_of, state_root, write_bytes
from edgekit.progress import SILENT, Progress
from edgekit.reports.train import LeftOut

SYSTEM_FOLDERS = frozenset({
    "@eadir", "#recycle", "$recycle.bin", "__macosx", "__pycache__", "_thumbnails", "_thumbs", "lost+found",
    "system volume information", "thumb", "thumbnail", "thumbnails", "thumbs",
})  # fmt: skip
"""Names, in lower case, of folders with copies and remains of pictures."""
_NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Errors of links whose target is nowhere."""
_SETTLED_NS = 2_000_000_000
"""A file may change again within the tick of its clock: its hash is kept once the file is older than this."""


class Stamp(NamedTuple):
    """What differs where a file's content may; ``status_ns`` changes with renaming too, ``modified_ns`` can be set at will."""

    size: int
    modified_ns: int
    status_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of a file that has this status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class Picture(NamedTuple):
    """A picture file; ``name`` is its path below the folder that was listed, with / between the parts."""

    path: Path
    name: str
    stamp: Stamp


_Entry: TypeAlias = Picture | tuple[str, str]
"""A picture, or the reason why something is none, and its name."""


class Listing(NamedTuple):
    """The pictures below a folder in the order of their paths, and what is there besides."""

    pictures: tuple[Picture, ...]
    left_out: tuple[LeftOut, ...]


def list_pictures(root: Path, apart: int = 0) -> Listing:
    """Every picture below ``root``; raises DataError where ``root`` or a folder below it cannot be read.

    A folder that links reach twice is listed once: once below each of the folders that are ``apart`` levels down.
    """
    listing = _listing(_Walk(apart).below(root))
    return Listing(tuple(sorted(listing.pictures, key=lambda picture: picture.name.split("/"))), listing.left_out)


def matching(pattern: Path) -> Listing:
    """The pictures that a pattern matches, and those below folders that it matches; ``**`` stands for folders at any depth.

    What is left out of a folder is left out here too, unless the pattern spells it. A picture's name is its path.
    """
    return _listing(_matching(pattern))


def _listing(entries: Iterable[_Entry]) -> Listing:
    pictures: dict[Path, Picture] = {}
    reasons: dict[str, dict[str, None]] = {}
    for entry in entries:
        if isinstance(entry, Picture):
            pictures[entry.path] = entry
        else:
            reason, name = entry
            reasons.setdefault(reason, {})[name] = None
    left_out = tuple(LeftOut(reason, len(names), printable(next(iter(names)))) for reason, names in sorted(reasons.items()))
    return Listing(tuple(pictures.values()), left_out)


def _matching(pattern: Path) -> Iterator[_Entry]:
    parts = pattern.parts
    depth = parts.index("**") if "**" in parts else len(parts)
    head, spelt = Path(*parts[:depth]), next((index for index, part in enumerate(parts) if has_magic(part)), len(parts))
    for place in map(Path, sorted(glob(str(head))) if has_magic(str(head)) else [head]):
        reason = next(filter(None, map(_skipped, place.parts[spelt:])), "")
        if reason:
            yield reason, str(place)
        else:
            yield from _matching_below(place, parts[depth:])


def of_first_frames(names: Sequence[str]) -> tuple[str, ...]:
    """A note on the pictures of these names, which have several frames; empty where there are none."""
    count = f"{len(names)} picture{'s' * (len(names) != 1)}"
    return (f"{count} with several frames, like {names[0]}: the first one alone counts",) if names else ()


def subfolders(folder: Path) -> list[str]:
    """Names of the folders directly in ``folder`` that are not left out, in sorted order."""
    with _readable(folder), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not _skipped(entry.name) and _is_folder(_status(entry)))


def dangling(folder: Path) -> list[str]:
    """Names of the links directly in ``folder`` whose target is nowhere and, by its name, was a folder; in sorted order."""
    with _readable(folder), os.scandir(folder) as entries:
        named = (entry for entry in entries if not _skipped(entry.name) and not Path(entry.name).suffix)
        return sorted(entry.name for entry in named if _status(entry) is None)


def digests(root: Path, pictures: tuple[Picture, ...], progress: Progress = SILENT) -> dict[str, str]:
    """The hex sha256 of each picture's bytes, by its name; what was hashed before is remembered by its stamp."""
    place, remembered = _remembered(root)
    hashes: dict[str, str] = {}
    new = [picture for picture in pictures if remembered.get(picture.name, (None, ""))[0] != picture.stamp]
    with progress.task("hashing pictures", len(new)) as advance:
        for picture in new:
            with _readable(picture.path):
                hashes[picture.name] = sha256_of(picture.path)
            advance(1, "")
    hashes |= {picture.name: remembered[picture.name][1] for picture in pictures if picture.name not in hashes}
    if new and place is not None:
        _remember(place, pictures, hashes)
    return hashes


def _matching_below(place: Path, pattern: tuple[str, ...]) -> Iterator[_Entry]:
    """``place`` itself, or what is below it and matches the rest of a pattern, by its path."""
    with _readable(place):
        status = place.stat() if place.exists() else None
    if _is_folder(status):
        entries = sorted(_Walk(0).below(place), key=lambda entry: _name(entry).split("/"))
        fitting = (entry for entry in entries if _fits(_name(entry).split("/"), pattern))
        for entry in fitting:
            name = str(place / _name(entry))
            yield entry._replace(name=name) if isinstance(entry, Picture) else (entry[0], name)
    elif status and not pattern:
        yield _file(place, str(place), status)
    elif place.is_symlink() and not pattern:
        yield "a link to nothing", str(place)


def _name(entry: _Entry) -> str:
    return entry.name if isinstance(entry, Picture) else entry[1]


def _fits(parts: Sequence[str], pattern: tuple[str, ...]) -> bool:
    """Whether a pattern matches a path or a folder above it."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_fits(parts[start:], pattern[1:]) for start in range(len(parts)))
    return bool(parts) and fnmatch(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


class _Walk:
    """A walk down from a folder, through links; ``apart`` as of ``list_pictures``."""

    def __init__(self, apart: int) -> None:
        self.apart = apart
        self.listed: set[tuple[int, int]] = set()

    def below(
        self, folder: Path, parts: tuple[str, ...] = (), above: frozenset[tuple[int, int]] = frozenset()
    ) -> Iterator[_Entry]:
        """Pictures, and (reason, name) of what is none; ``parts`` and ``above`` are names and folders on the way down."""
        with _readable(folder):
            own = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        identity = (own.st_dev, own.st_ino)
        if len(parts) <= self.apart:
            self.listed = set()
        if identity in above | self.listed:
            yield (
                "a link to a folder above it" if identity in above else "a folder that a link has led to already",
                "/".join(parts),
            )
            return
        self.listed.add(identity)
        for entry in entries:
            below = (*parts, entry.name)
            name, skipped = "/".join(below), _skipped(entry.name)
            status = None if skipped else _status(entry)
            if status is None:
                yield skipped or "a link to nothing", name
            elif _is_folder(status):
                yield from self.below(Path(entry.path), below, above | {identity})
            else:
                yield _file(Path(entry.path), name, status)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What is behind an entry, through links; None for a link to nothing, or to itself."""
    with _readable(Path(entry.path)):
        try:
            return entry.stat()
        except OSError as problem:
            if problem.errno in _NOWHERE:
                return None
            raise


def _is_folder(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode)


def _file(path: Path, name: str, status: os.stat_result) -> Picture | tuple[str, str]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        return f"no picture format that is read: {suffix or 'no suffix'}", name
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file", name
    return Picture(path, name, Stamp.of(status))


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


_Known = Mapping[str, tuple[Stamp, str]]
"""Name -> stamp, sha256."""


def _remembered(root: Path) -> tuple[Path | None, _Known]:
    """Where the hashes of ``root`` are kept, and those that are; without a place for state nothing is."""
    key = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()
    try:
        place = state_root() / "pictures" / f"{key}.json"
        return place, msgspec.json.decode(place.read_bytes(), type=dict[str, tuple[Stamp, str]])
    except EdgekitError:
        return None, {}
    except (OSError, msgspec.DecodeError):
        return place, {}


def _remember(place: Path, pictures: tuple[Picture, ...], hashes: Mapping[str, str]) -> None:
    """A place that cannot be written is no fault; a name that is not UTF-8 is hashed every time."""
    before = time.time_ns() - _SETTLED_NS
    entries = {
        picture.name: (picture.stamp, hashes[picture.name])
        for picture in pictures
        if max(picture.stamp.modified_ns, picture.stamp.status_ns) < before and printable(picture.name) == picture.name
    }
    with suppress(EdgekitError):
        write_bytes(place, msgspec.json.encode(entries))
