"""A bundle in other people's formats: Triton's model repository, raw tensors for trtexec, one file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from edgekit.bundle.folder import Bundle
from edgekit.errors import OutputError
from edgekit.files import as_path, check_writable
from edgekit.reports.ship import Shipped


class Forms(NamedTuple):
    """Folders for a bundle in other formats: a model repository of Triton's, and raw golden tensors; None: not wanted."""

    triton: Path | str | None = None
    golden_raw: Path | str | None = None

    def check(self, bundle: Path) -> None:
        """Raise OutputError where a folder lies in the ``bundle`` that is written, or cannot be: better before long work."""
        from edgekit.ship.places import check_no_bundle

        for form, given in self._asdict().items():
            if given is not None:
                folder = as_path(given, form, OutputError)
                check_no_bundle(folder, bundle)
                check_writable(folder)

    def write(self, bundle: Bundle) -> tuple[Shipped, ...]:
        """Write each that is wanted; raises EdgekitError, and leaves what was there, where one cannot be."""
        from edgekit.ship.raw import write_raw
        from edgekit.ship.triton import write_triton

        made = []
        if self.triton is not None:
            made.append(write_triton(bundle, as_path(self.triton, "triton", OutputError)))
        if self.golden_raw is not None:
            made.append(write_raw(bundle, as_path(self.golden_raw, "golden_raw", OutputError)))
        return tuple(made)


NO_FORMS = Forms()
