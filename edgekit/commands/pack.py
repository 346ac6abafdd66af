"""``edgekit pack``: a bundle as one file, the same bytes from the same bundle."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle.folder import open_bundle
from edgekit.bundle.signed import strays_of
from edgekit.errors import OutputError
from edgekit.files import as_path, check_writable, sha256_of
from edgekit.reports.pack import PackReport
from edgekit.ship.pack import check_zip_place, write_zip
from edgekit.ship.places import folder_name


def pack(bundle: Path | str, output: Path | str | None = None) -> PackReport:
    """Write ``bundle``, with its signatures, as the zip ``output``, or ``NAME.zip`` in the current folder.

    Raises BundleError for a damaged bundle, and OutputError where something else is in the way.
    """
    opened = open_bundle(bundle)
    file = Path(f"{folder_name(opened.manifest.name)}.zip") if output is None else as_path(output, "output", OutputError)
    check_zip_place(file)
    check_writable(file.parent)
    files = write_zip(opened, file)
    left_out = tuple(f"{name} is not part of the bundle, and was left out" for name in strays_of(opened))
    return PackReport(
        str(opened.root), opened.sha256, str(file), sha256_of(file), file.stat().st_size, files, (*opened.notes, *left_out)
    )
