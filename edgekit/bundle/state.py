"""What this machine chose and measured once for a bundle, beside the last reports (``edgekit.machine.records``)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from edgekit.bundle.folder import Bundle
from edgekit.errors import InputError, OutputError
from edgekit.files import read_bytes, write_bytes
from edgekit.machine.records import MOST_BYTES, all_facts, folder_for


def keep(bundle: Bundle, name: str, content: bytes) -> Path | None:
    """Write the file ``name`` of what is known of the bundle; None where the folder cannot be written, which is no fault."""
    try:
        place = _folder(bundle) / name
        write_bytes(place, content)
    except OutputError:
        return None
    return place


def kept(bundle: Bundle, name: str) -> bytes | None:
    """The file ``name`` of what is known of the bundle; None where there is none that can be read."""
    with suppress(OutputError):
        return _read(_folder(bundle) / name)
    return None


def kept_elsewhere(bundle: Bundle, name: str) -> bytes | None:
    """The file ``name`` that a machine of another kind has left of the bundle in a home folder that it shares with this one."""
    with suppress(OSError, OutputError):
        own = _folder(bundle)
        places = sorted(place for place in own.parents[1].glob(f"*/{own.name}/{name}") if place.parent != own)
        return next((content for content in map(_read, places) if content is not None), None)
    return None


def _read(place: Path) -> bytes | None:
    with suppress(InputError):
        return read_bytes(place, "file", most=MOST_BYTES)
    return None


def _folder(bundle: Bundle) -> Path:
    return folder_for(bundle.sha256, all_facts()) / "kept"
