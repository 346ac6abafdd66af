"""``edgekit build``: what a backend makes of a bundle ahead of time, an engine for example."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.backends import checked, row_of, table
from edgekit.backends.contract import Builder, Target
from edgekit.bundle.folder import open_bundle
from edgekit.errors import UsageError
from edgekit.files import check_outside
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
    """Build for this machine by ``setup``, with the build's own options; without one, by the first backend that builds.

    The result goes to the backend's cache, or to ``output``; ``rebuild`` builds even if a fitting one is there.

    Raises BundleError for a bundle that is damaged, MissingError where nothing can be built here, EngineError for what the
    backend refuses, and OutputError for a place that cannot be written.
    """
    opened = open_bundle(Path(bundle))
    wanted = Setup.parse(setup or builders()[0]) if isinstance(setup, str) else setup
    builder = _builder_of(wanted.backend)
    named = msgspec.structs.replace(wanted, variant=opened.variant(wanted.variant).name)
    place = None if output is None else Path(output)
    if place is not None:
        check_outside(place, opened.root)
    return builder.build(opened.files(named.variant), checked(named, builder.options), Target(place, rebuild), progress)


def builders() -> tuple[str, ...]:
    """The backends that build something ahead, in the order of the table."""
    return tuple(name for name, row in table().items() if row.builder is not None)


def _builder_of(name: str) -> Builder:
    builder = row_of(name).builder
    if builder is None:
        raise UsageError(f"{name} builds nothing ahead", f"use one of {', '.join(builders())}")
    return builder
