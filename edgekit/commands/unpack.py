"""``edgekit unpack``: the folder of a packed bundle, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle.folder import check_replaceable
from edgekit.bundle.signed import signatures_of
from edgekit.errors import BundleError, OutputError
from edgekit.files import as_path, check_writable
from edgekit.reports.pack import UnpackReport
from edgekit.ship.pack import read_zip


def unpack(file: Path | str, output: Path | str | None = None) -> UnpackReport:
    """Unpack ``file`` into the folder ``output``, or one of the bundle's name in the current folder, and open it.

    An older bundle there is replaced, unless it is signed. Raises BundleError for a file that is damaged or holds anything but a
    bundle, and OutputError for a folder that holds anything else.
    """
    packed = read_zip(as_path(file, "packed bundle", BundleError))
    root = Path(packed.top) if output is None else as_path(output, "output", OutputError)
    check_replaceable(root)
    check_writable(root.parent)
    bundle = packed.write(root)
    return UnpackReport(str(file), str(root), bundle.sha256, tuple(sorted(packed.entries)), signatures_of(bundle), bundle.notes)
