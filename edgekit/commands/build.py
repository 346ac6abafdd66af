"""``edgekit build``: build ahead of time what a backend needs of a bundle, such as a TensorRT engine."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.backends import checked, row_of, table
from edgekit.backends.contract import Builder, Target
from edgekit.bundle.folder import open_bundle
from edgekit.errors import OutputError, UsageError
from edgekit.files import as_path, check_outside
from edgekit.progress import SILENT, Progress
from edgekit.reports.build import BuildReport
from edgekit.setups import Setup


def build(
    bundle: Path | str,
    setup: Setup | str = "",
    *,
    output: Path | str | None = None,
    rebuild: bool = False,
    progress: Progress = SILENT,
) -> BuildReport:
    """Build for this machine by ``setup``, which may hold the build's own options; by default, the first backend that builds.

    The result goes to the backend's cache, or to ``output``. ``rebuild`` ignores a result in the cache.

    Raises BundleError for a damaged bundle, MissingError if this machine cannot build, EngineError if the backend refuses the
    network, and OutputError if ``output`` cannot be written.
    """
    opened = open_bundle(bundle)
    chosen = Setup.parse(setup or builders()[0]) if isinstance(setup, str) else setup
    builder = _builder_of(chosen.backend)
    named = msgspec.structs.replace(chosen, variant=opened.variant(chosen.variant).name)
    place = None if output is None else as_path(output, "output", OutputError)
    if place is not None:
        check_outside(place, opened.root)
    return builder.build(opened.files(named.variant), checked(named, builder.options), Target(place, rebuild), progress)


def builders() -> tuple[str, ...]:
    """The backends that build ahead of time, in the order of the table."""
    return tuple(name for name, row in table().items() if row.builder is not None)


def _builder_of(name: str) -> Builder:
    builder = row_of(name).builder
    if builder is None:
        raise UsageError(f"{name} builds nothing ahead of time", f"use one of {', '.join(builders())}")
    return builder
