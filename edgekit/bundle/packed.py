"""Whether a file is a packed bundle; ``edgekit.ship.pack`` looks closer before it unpacks anything."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edgekit.bundle.manifest import MANIFEST
from edgekit.files import opened


def is_packed(file: Path) -> bool:
    """Whether ``file`` is a zip with a manifest in a folder, as ``edgekit pack`` writes; checkpoints of PyTorch are zips too."""
    if not file.is_file():
        return False
    try:
        with opened(file) as stream, zipfile.ZipFile(stream) as archive:
            return any(name.partition("/")[2] == MANIFEST for name in archive.namelist())
    except Exception:  # zipfile raises a dozen kinds for what is no zip
        return False
