"""``edgekit web``: a bundle as a page that a browser checks and runs."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle.folder import open_bundle
from edgekit.errors import OutputError
from edgekit.files import as_path, check_outside
from edgekit.progress import SILENT, Progress
from edgekit.reports.web import WebReport
from edgekit.ship.onnxruntime_web import web_runtime
from edgekit.ship.web import check_replaceable, page_files, write_page


def web(
    bundle: Path | str,
    folder: Path | str,
    *,
    variant: str = "",
    runtime: Path | str | None = None,
    progress: Progress = SILENT,
) -> WebReport:
    """Write ``bundle`` as the page ``folder``, whole or not at all; a browser proves the golden outputs and labels pictures.

    ``runtime`` is a folder with onnxruntime-web; without one the pinned version is taken from the cache or fetched by npm. Raises
    BundleError for a damaged bundle, OutputError for a folder that is no page, MissingError where npm cannot fetch.
    """
    opened, place = open_bundle(bundle), as_path(folder, "folder", OutputError)
    check_outside(place, opened.root)
    check_replaceable(place)
    chosen = opened.variant(variant).name
    found = web_runtime(None if runtime is None else as_path(runtime, "runtime"), progress)
    files = page_files(opened, chosen, found)
    write_page(place, files)
    return WebReport(str(opened.root), chosen, str(place), found.version, {name: len(content) for name, content in files.items()})
