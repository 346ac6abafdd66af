"""The single calls behind a report: a few thousand in its JSON, all that were kept in a file beside it."""

from __future__ import annotations

import io
import zipfile
from array import array
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import numpy as np

from edgekit.errors import InputError, first_line
from edgekit.files import read_bytes
from edgekit.reports.base import Part
from edgekit.tensors import Array

MOST_SAMPLES = 5000
"""Calls of a row that a report's JSON holds."""
MOST_KEPT = 1 << 18
"""Calls of a row that are kept while it is timed: 2 MB, and forty times what P99.9 takes."""
ZIP = b"PK"
"""What a file of samples begins with."""
Blocks: TypeAlias = "tuple[tuple[float, ...], ...]"


class SamplesFile(Part, frozen=True):
    """The file beside a report that holds the calls of all of its rows: its name and its sha256."""

    name: str
    sha256: str


class Kept:
    """The calls of a long timing in bounded memory: of more than ``most`` every second of each block, then every fourth, ...

    ``calls`` and ``slowest_ms`` are of all calls. The first call of each block always stays.
    """

    def __init__(self, most: int = MOST_KEPT) -> None:
        self.calls, self.slowest_ms = 0, 0.0
        self._most, self._every, self._held = most, 1, 0
        self._blocks: list[array[float]] = []

    def add(self, block: Sequence[float]) -> None:
        """One more block, of at least one call, in milliseconds."""
        self.calls += len(block)
        self.slowest_ms = max(self.slowest_ms, *block)
        self._blocks.append(array("d", block[:: self._every]))
        self._held += len(self._blocks[-1])
        while self._held > max(self._most, len(self._blocks)):
            self._every *= 2
            self._blocks = [kept[::2] for kept in self._blocks]
            self._held = sum(map(len, self._blocks))

    @property
    def blocks(self) -> Blocks:
        """What was kept, block by block."""
        return tuple(map(tuple, self._blocks))

    @property
    def flat(self) -> tuple[float, ...]:
        """What was kept, in one."""
        return tuple(sample for block in self._blocks for sample in block)


def thinned(samples: tuple[float, ...], most: int = MOST_SAMPLES) -> tuple[float, ...]:
    """Every k-th of ``samples`` with the smallest k that leaves at most ``most``; all of them where they are few."""
    return samples[:: -(-len(samples) // most)] if samples else samples


def thinned_blocks(blocks: Blocks, most: int = MOST_SAMPLES) -> Blocks:
    """Every k-th of each block from its first on, with the smallest k that leaves at most ``most`` in all.

    Of more than ``most`` blocks, every j-th with its first call.
    """
    if len(blocks) > most:
        return tuple(block[:1] for block in blocks[:: -(-len(blocks) // most)])
    low, high = 1, max(map(len, blocks), default=1)
    while low < high:
        middle = (low + high) // 2
        fits = sum(-(-len(block) // middle) for block in blocks) <= most
        low, high = (low, middle) if fits else (middle + 1, high)
    return tuple(block[::low] for block in blocks)


def samples_path(report: Path) -> Path:
    """``bench.json`` -> ``bench.samples.npz`` in the same folder."""
    return report.with_name(f"{report.stem}.samples.npz")


def packed(samples: Mapping[str, Blocks]) -> bytes:
    """An .npz file: for each name ``NAME/ms`` (float64, all blocks in one) and ``NAME/lengths`` (int64, of each block)."""
    memory = io.BytesIO()
    arrays: dict[str, Array] = {}
    for name, blocks in samples.items():
        arrays[f"{name}/ms"] = np.asarray([sample for block in blocks for sample in block], np.float64)
        arrays[f"{name}/lengths"] = np.asarray([len(block) for block in blocks], np.int64)
    np.savez_compressed(memory, allow_pickle=False, **arrays)
    return memory.getvalue()


def named(report: Path, content: bytes) -> SamplesFile:
    """What the report at ``report`` says of the file ``content`` beside it."""
    return SamplesFile(samples_path(report).name, sha256(content).hexdigest())


def read_samples(report: Path, file: SamplesFile) -> dict[str, Blocks]:
    """The calls in the file that the report at ``report`` names, by the names of ``packed``.

    Raises InputError where the file is not there, is another run's, or cannot be read.
    """
    path = report.with_name(Path(file.name).name)
    content = read_bytes(path, "file of samples")
    if sha256(content).hexdigest() != file.sha256:
        raise InputError(f"{path} holds the samples of another run than {report}", "make the report again")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            names = [name.removesuffix("/ms") for name in arrays.files if name.endswith("/ms")]
            return {name: _split(arrays[f"{name}/ms"], arrays[f"{name}/lengths"]) for name in names}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as problem:
        raise InputError(f"{path} is no file of samples: {first_line(problem)}", "make the report again") from None


def _split(samples: Array, lengths: Array) -> Blocks:
    ends = np.cumsum(lengths)
    return tuple(tuple(samples[end - length : end].tolist()) for end, length in zip(ends, lengths, strict=True))
