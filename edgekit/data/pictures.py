"""Labelled pictures, in memory or mapped from a file, and what one pass over their pixels finds."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError

BLOCK_BYTES = 4 << 20
"""Whoever reads all pixels reads as many at a time, so that a set larger than memory is never copied."""


class Summary(NamedTuple):
    """The hex ``sha256`` of all pixels, and ``levels`` C x 256: how often each value occurs in each channel."""

    sha256: str
    levels: tuple[tuple[int, ...], ...]


class Pictures(msgspec.Struct, frozen=True):
    """``images`` uint8 N x C x H x W; ``labels`` int64 N; ``summary`` where the pixels have been read to its end already."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    summary: Summary | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def mapped(self) -> bool:
        """Whether the pixels lie in a file, of which the system keeps in memory what there is room for."""
        owner: object = self.images
        while isinstance(owner, np.ndarray):
            owner = owner.base
        return isinstance(owner, mmap.mmap)

    def pixels_sha256(self) -> str:
        """The hex sha256 of all pixels, in the order of ``images``."""
        if self.summary:
            return self.summary.sha256
        digest = hashlib.sha256()
        for block in blocks(self.images):
            digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()

    def levels(self) -> NDArray[np.int64]:
        """int64 C x 256: how often each value occurs in each channel."""
        if self.summary:
            return np.asarray(self.summary.levels, np.int64)
        return sum(map(levels_of, blocks(self.images)), np.zeros((self.images.shape[1], 256), np.int64))

    def brightest(self) -> int:
        """The largest value of any pixel; 0 where there is none."""
        if self.summary:
            return int(np.flatnonzero(self.levels().any(0)).max(initial=0))
        return int(self.images.max(initial=0))


def blocks(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Views of ``images``, one behind the other, of at most ``BLOCK_BYTES`` or one picture each."""
    step = max(1, BLOCK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), step):
        yield images[start : start + step]


def levels_of(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """int64 C x 256: how often each value occurs in each channel of a block of pictures; numpy widens them to int64 for it."""
    return np.stack([np.bincount(images[:, channel].reshape(-1), minlength=256) for channel in range(images.shape[1])])


def spread(total: int, count: int) -> NDArray[np.int64]:
    """At most ``count`` indices spread evenly over ``range(total)``."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def check_holdout(count: int, total: int) -> None:
    """Raise DataError where ``count`` pictures held out of ``total`` leave fewer than two to train on."""
    if count and count > total - 2:
        raise DataError(f"data.holdout = {count} leaves nothing of {total} training pictures", "lower it")


def divided(pictures: Pictures, count: int) -> tuple[Pictures, Pictures | None]:
    """Training pictures, and ``count`` held out: those whose pixels have the smallest hashes, whatever their order.

    Both are copies. Raises DataError as ``check_holdout`` does.
    """
    if not count:
        return pictures, None
    check_holdout(count, len(pictures))
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in pictures.images]
    held = np.zeros(len(pictures), bool)
    held[sorted(range(len(pictures)), key=hashes.__getitem__)[:count]] = True
    return (Pictures(pictures.images[~held], pictures.labels[~held]), Pictures(pictures.images[held], pictures.labels[held]))
