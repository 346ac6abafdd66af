"""What this machine found out about a bundle: files in the user's state folder, under the sha256 of its manifest.json."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import MANIFEST
from edgekit.errors import OutputError
from edgekit.files import sha256_of, state_folder, write_bytes

MOST_BYTES = 64 << 20
"""A larger file there is not one that edgekit wrote."""


def manifest_sha256(bundle: Bundle) -> str:
    """What names the bundle in the state folder: it changes with every file, label and recorded figure."""
    return bundle.reading(lambda place: sha256_of(place / MANIFEST))


def keep(bundle: Bundle, name: str, content: bytes) -> Path | None:
    """Write the file ``name`` of what is known of the bundle; None where the folder cannot be written, which is no fault."""
    try:
        place = state_folder(manifest_sha256(bundle)) / name
        write_bytes(place, content)
    except OutputError:
        return None
    return place


def kept(bundle: Bundle, name: str) -> bytes | None:
    """The file ``name`` of what is known of the bundle; None where there is none that can be read."""
    with suppress(OSError, OutputError):
        place = state_folder(manifest_sha256(bundle)) / name
        if place.is_file() and place.stat().st_size <= MOST_BYTES:
            return place.read_bytes()
    return None
