"""The bundle that a place lies in, to which nothing may be added."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from edgekit.bundle.manifest import MANIFEST, MAX_MANIFEST_BYTES
from edgekit.errors import InputError, OutputError
from edgekit.files import read_bytes

_OF_EVERY_SCHEMA = frozenset({"schema", "golden", "variants", "files"})


def bundle_around(place: Path) -> Path | None:
    """The nearest bundle that ``place``, which need not be there, is or lies in, by way of links too; None where there is none.

    Its manifest may be damaged or of any schema. Programs of other kinds have a manifest.json too: web apps and extensions.
    """
    own = Path(os.path.realpath(place))
    return next((folder for folder in (own, *own.parents) if _is_bundles(folder / MANIFEST)), None)


def inside(place: Path, bundle: Path) -> OutputError:
    """The error of a ``place`` that is or lies in ``bundle``."""
    return OutputError(f"cannot write {place}: {bundle} is a bundle, which is immutable", "choose a place outside of it")


def _is_bundles(manifest: Path) -> bool:
    try:
        content = read_bytes(manifest, "manifest", most=MAX_MANIFEST_BYTES)
        return msgspec.json.decode(content, type=dict[str, Any]).keys() >= _OF_EVERY_SCHEMA
    except (InputError, ValueError, RecursionError):
        return False
