"""Signatures of a bundle, and what else lies in its folder that its manifest does not list.

A signature is a file beside ``manifest.json``, which has the sha256 of all others; a manifest cannot list what signs it.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import MANIFEST, SIGNATURES
from edgekit.errors import BundleError

OF_GIT = (".git", ".gitattributes", ".gitignore")
"""What a bundle that is a git repository, as on Hugging Face, holds beside its files; model-signing leaves them out too."""


def signatures_of(bundle: Bundle) -> tuple[str, ...]:
    """The signatures beside the manifest, by their files' names; whether one is good is not looked at."""
    return bundle.reading(lambda place: tuple(name for name in SIGNATURES if is_file(place / name)))


def is_file(path: Path) -> bool:
    """Whether a regular file is there, and no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def strays_of(bundle: Bundle) -> tuple[str, ...]:
    """What lies in the folder, sorted, that the manifest does not list and that is no signature; git's own too."""
    known = {MANIFEST, *bundle.manifest.files, *signatures_of(bundle)}
    return bundle.reading(lambda place: tuple(sorted(set(_names(place)) - known)))


def _names(place: Path) -> Iterator[str]:
    try:
        yield from (path.name for path in place.iterdir())
    except OSError as problem:
        raise BundleError(f"bundle {place} cannot be listed: {problem.strerror}", "check its permissions") from None
