"""The arrays of an .npz file from anywhere, which may take so much memory and no more."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from edgekit.tensors import Array


class TooMuch(ValueError):
    """What an .npz file unpacks to is more than is read of one."""


def unpacked(stream: BinaryIO, most: int) -> Iterator[tuple[str, Array]]:
    """Name and array of each member, which take at most ``most`` bytes in all: sizes are read before anything is unpacked.

    Raises TooMuch for a file that takes more, and whatever zipfile, zlib and numpy raise for one that is damaged.
    """
    with zipfile.ZipFile(stream) as archive:
        total = sum(member.file_size for member in archive.infolist())
    if total > most:
        raise TooMuch(f"it unpacks to {total / 2**20:.3g} MiB, and at most {most / 2**20:g} MiB are read")
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as content:
        for name in content.files:
            yield name, content[name]
