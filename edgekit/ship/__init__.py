"""A bundle in other people's formats: Triton's model repository, raw tensors for trtexec, one file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from edgekit.bundle.folder import Bundle
from edgekit.files import check_writable
from edgekit.reports.ship import Shipped


class Forms(NamedTuple):
    """Folders for a bundle in other formats: a model repository of Triton's, and raw golden tensors; None: not wanted."""

    triton: Path | None = None
    golden_raw: Path | None = None

    def check(self, bundle: Path) -> None:
        """Raise OutputError where a folder lies in the ``bundle`` that is written, or cannot be: better before long work."""
        from edgekit.ship.places import check_no_bundle

        for folder in filter(None, self):
            check_no_bundle(folder, bundle)
            check_writable(folder)

    def write(self, bundle: Bundle) -> tuple[Shipped, ...]:
        """Write each that is wanted; raises EdgekitError, and leaves what was there, where one cannot be."""
        from edgekit.ship.raw import write_raw
        from edgekit.ship.triton import write_triton

        made = []
        if self.triton is not None:
            made.append(write_triton(bundle, self.triton))
        if self.golden_raw is not None:
            made.append(write_raw(bundle, self.golden_raw))
        return tuple(made)


NO_FORMS = Forms()
