"""Decoded pictures in files that the system maps into memory, so that a folder larger than memory can be trained on.

``decoded/KEY.npy`` in edgekit's cache holds the good pictures one behind the other, ``decoded/KEY.json`` what is known of them;
it is written last, and without it the array does not count. The key is a hash of the pictures' contents, their order and all that
decides their pixels: other pictures or settings have another file, and what a changed folder had before is removed. The pixels
are hashed before they are used, which also brings them into the system's memory as far as they fit.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit import atomic
from edgekit.data.decode import Bad, Decoded, Decoding, decode, decode_each
from edgekit.data.listing import Picture, Stamp
from edgekit.data.pictures import Summary, blocks, levels_of
from edgekit.decoding import decoder_version
from edgekit.errors import DataError, OutputError
from edgekit.files import cache_root, check_writable, replacing, write_bytes
from edgekit.machine.memory import available_memory
from edgekit.progress import Progress

SMALL = 64 << 20
"""Pictures of no more bytes, decoded, are kept in memory: to decode them anew takes seconds."""
UNFINISHED = "what an interrupted process left"
_BLOCK = 1 << 20
_WAITING = "another process decodes the same pictures; waiting for it"


class Wanted(NamedTuple):
    """Pictures to decode, with the sha256 of each file; ``name`` is what a bar calls them.

    Of one ``origin``, a folder and how it was divided, the cache keeps the pictures of each name and decoding once.
    """

    pictures: Sequence[Picture]
    hashes: Sequence[str]
    decoding: Decoding
    name: str
    origin: str

    @property
    def bytes(self) -> int:
        """Of all of them, decoded."""
        return len(self.pictures) * self.decoding.picture_bytes

    @property
    def described(self) -> str:
        """For people, and to know by what these pictures replace."""
        size, white = "x".join(map(str, self.decoding.size)), self.decoding.white
        return f"{self.name} pictures of {self.origin}, {self.decoding.color} {size}" + (f", white {white}" if white else "")

    @property
    def key(self) -> str:
        """A hash of all that decides the array."""
        digest = hashlib.sha256(repr((decoder_version(), self.decoding[:3])).encode())
        for each in self.hashes:
            digest.update(each.encode())
        return digest.hexdigest()


class Found(NamedTuple):
    """The decoded pictures, and their summary where their file has it."""

    decoded: Decoded
    summary: Summary | None = None


class Record(msgspec.Struct, frozen=True):
    """What is known of an array: how many ``good`` pictures it holds, the places of those that are bad, their ``summary``.

    ``several`` are the places of those with several frames; None where who wrote it did not look.
    """

    what: str
    good: int
    bad: tuple[int, ...]
    summary: Summary
    several: tuple[int, ...] | None = None


class Entry(NamedTuple):
    """An array in the cache: what it holds, where, and its bytes."""

    what: str
    path: Path
    bytes: int


def decoded_pictures(wanted: Wanted, progress: Progress) -> Found:
    """Every picture of ``wanted``: from the cache, decoded into it, or, where it has no room or they are few, in memory.

    Raises OutputError where neither the cache nor memory has room, and DataError for a file that changes meanwhile.
    """
    if wanted.bytes <= SMALL:
        return Found(decode(wanted.pictures, wanted.decoding, wanted.name, progress))
    try:
        array = folder() / f"{wanted.key}.npy"
        found = _opened(array, wanted, progress)
        if found:
            return found
        _remove_replaced(array, wanted.described)
        _check_room(array.parent, wanted.bytes)
        array.parent.mkdir(parents=True, exist_ok=True)
    except (OutputError, OSError) as problem:
        return _in_memory(wanted, problem, progress)
    with atomic.turn(array.with_suffix(".lock"), lambda: progress.say(f"note: {_WAITING}")):
        return _opened(array, wanted, progress) or _made(array, wanted, progress)


def folder() -> Path:
    """Where they lie; raises OutputError where no folder is named for a cache."""
    return cache_root() / "decoded"


def entries() -> list[Entry]:
    """What the cache holds of decoded pictures, sorted by what it is; raises OutputError where no folder is named for it."""
    records = ((path, _record(path)) for path in folder().glob("*.npy"))
    return sorted(Entry(record.what if record else UNFINISHED, path, path.stat().st_size) for path, record in records)


def remove_entries() -> list[Entry]:
    """Remove all of them, and what killed writers left behind; a training that uses one keeps it until it ends."""
    removed, place = entries(), folder()
    atomic.remove_dead(place)
    for path in [*place.glob("*.json"), *place.glob("*.npy"), *place.glob("*.lock")]:  # first what makes them count
        try:
            path.unlink(missing_ok=True)
        except OSError as problem:
            raise OutputError(f"cannot remove {path}: {problem.strerror}", "let its owner remove it") from None
    return removed


def _opened(array: Path, wanted: Wanted, progress: Progress) -> Found | None:
    """The array that is there, whole to the last bit; None where there is none or it is damaged."""
    record = _record(array)
    if record is None or record.several is None or not {*record.bad, *record.several} <= set(range(len(wanted.pictures))):
        return None
    try:
        mapped = _mapped(array)
    except (OSError, ValueError, EOFError):
        return None
    shape = (len(wanted.pictures), *wanted.decoding.shape)
    if mapped.shape != shape or mapped.dtype != np.uint8 or record.good + len(record.bad) != len(wanted.pictures):
        return None
    images = mapped[: record.good]
    digest = hashlib.sha256()
    with progress.task(f"reading decoded {wanted.name} pictures", len(images)) as advance:
        for block in blocks(images):
            digest.update(block.data)
            advance(len(block), "")
    if digest.hexdigest() != record.summary.sha256:
        progress.say(f"note: {array} is damaged, and is made anew")
        return None
    bad = _still_bad(record, wanted, progress)
    return None if bad is None else Found(Decoded(images, bad, record.several), record.summary)


def _still_bad(record: Record, wanted: Wanted, progress: Progress) -> tuple[Bad, ...] | None:
    """Why each bad picture cannot be decoded today; None where one can: memory may have been short."""
    if not record.bad:
        return ()
    bad = decode([wanted.pictures[place] for place in record.bad], wanted.decoding, "bad", progress).bad
    if len(bad) < len(record.bad):
        return None
    return tuple(Bad(place, one.reason) for place, one in zip(record.bad, bad, strict=True))


def _made(array: Path, wanted: Wanted, progress: Progress) -> Found:
    """Decode into the cache. Nothing is written through the map: where the disk is full that would kill the process."""
    atomic.remove_dead(array.parent)
    try:
        with replacing(array) as temporary:
            with temporary.open("wb") as stream:
                bad, several, summary = _written(stream, wanted, progress)
            _check_unchanged(wanted.pictures)
        good = len(wanted.pictures) - len(bad)
        record = Record(wanted.described, good, tuple(place for place, _ in bad), summary, several)
        write_bytes(_sidecar(array), msgspec.json.encode(record))
    except OutputError as problem:
        raise OutputError(problem.reason, _remedy(wanted)) from None
    return Found(Decoded(_mapped(array)[:good], bad, several), summary)


def _mapped(array: Path) -> NDArray[np.uint8]:
    """As an ordinary array, to be read: of one that may be written to, Linux maps no more than there is memory and swap."""
    return np.asarray(np.load(array, mmap_mode="r", allow_pickle=False))


def _written(stream: BinaryIO, wanted: Wanted, progress: Progress) -> tuple[tuple[Bad, ...], tuple[int, ...], Summary]:
    """Write the good pictures -> the bad ones, the places of those with several frames, and the summary.

    The file has room for all, since its head is written before it is known which are good.
    """
    shape = (len(wanted.pictures), *wanted.decoding.shape)
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    end = stream.tell() + wanted.bytes
    bad, several = list[Bad](), list[int]()
    digest, levels = hashlib.sha256(), np.zeros((shape[1], 256), np.int64)
    with closing(decode_each(wanted.pictures, wanted.decoding, wanted.name, progress, several)) as results:
        for block in _collected(results, wanted.decoding, bad):
            digest.update(block.data)
            levels += levels_of(block)
            stream.write(block.data)
    stream.truncate(end)
    return tuple(bad), tuple(several), Summary(digest.hexdigest(), tuple(map(tuple, levels.tolist())))


def _collected(results: Iterator[NDArray[np.uint8] | Bad], decoding: Decoding, bad: list[Bad]) -> Iterator[NDArray[np.uint8]]:
    """Good pictures in blocks N x C x H x W, valid until the next; the others are added to ``bad``."""
    block = np.empty((max(1, _BLOCK // decoding.picture_bytes), *decoding.shape), np.uint8)
    filled = 0
    for result in results:
        if isinstance(result, Bad):
            bad.append(result)
            continue
        block[filled] = result
        filled += 1
        if filled == len(block):
            yield block
            filled = 0
    if filled:
        yield block[:filled]


def _check_unchanged(pictures: Sequence[Picture]) -> None:
    """Raise DataError for a file that is no longer what was hashed: the array would lie under another one's key for ever."""
    for picture in pictures:
        with suppress(OSError):  # it was read; that it is gone since changes no pixel
            if Stamp.of(picture.path.stat())[:2] != picture.stamp[:2]:
                raise DataError(f"picture {picture.path} changed while it was read", "begin again once nobody writes there")


def _check_room(place: Path, size: int) -> None:
    """Raise OutputError unless files can be made in ``place`` and the disk has room for ``size`` bytes."""
    check_writable(place)
    existing = next(each for each in (place, *place.absolute().parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise OutputError(f"{place} has {gigabytes(free)} free and the decoded pictures take {gigabytes(size)}")


def _in_memory(wanted: Wanted, problem: OSError | OutputError, progress: Progress) -> Found:
    """The pictures without a cache, because of ``problem``; raises OutputError where memory has no room for them."""
    reason = problem.reason if isinstance(problem, OutputError) else str(problem)
    room = available_memory()
    if wanted.bytes > room:
        raise OutputError(
            f"{len(wanted.pictures)} {wanted.name} pictures take {gigabytes(wanted.bytes)} decoded, {gigabytes(room)} of memory "
            f"are free, and the cache cannot be used: {reason}",
            _remedy(wanted),
        )
    progress.say(f"note: decoded pictures stay in memory and are decoded anew each time: {reason}; {_remedy(wanted)}")
    return Found(decode(wanted.pictures, wanted.decoding, wanted.name, progress))


def _remedy(wanted: Wanted) -> str:
    return f"let EDGEKIT_CACHE name a folder that you may write to, with {gigabytes(wanted.bytes)} free"


def gigabytes(size: int) -> str:
    """Like ``1.25 GB``, never too few."""
    return f"{math.ceil(size / 1e7) / 100:.2f} GB"


def _remove_replaced(array: Path, what: str) -> None:
    """Remove what the same folder had before under the same settings; a training that uses it keeps it until it ends."""
    for other in array.parent.glob("*.npy"):
        record = _record(other)
        if record and record.what == what and other != array:
            with suppress(OSError):
                _sidecar(other).unlink(missing_ok=True)
                other.unlink(missing_ok=True)


def _record(array: Path) -> Record | None:
    try:
        return msgspec.json.decode(_sidecar(array).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def _sidecar(array: Path) -> Path:
    return array.with_suffix(".json")
