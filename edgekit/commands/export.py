"""``edgekit export``: write a bundle from a recipe, a model or an ONNX file, or an existing bundle in other formats."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgekit.bundle.draft import Draft
from edgekit.bundle.folder import Bundle, check_replaceable, open_bundle, write_bundle
from edgekit.bundle.manifest import MANIFEST
from edgekit.bundle.variants import with_variant
from edgekit.commands.quantize import with_accuracy
from edgekit.errors import OutputError, UsageError
from edgekit.files import as_path, check_writable
from edgekit.progress import SILENT, Progress
from edgekit.reports.export import ExportReport
from edgekit.reports.ship import Shipped, ShipReport
from edgekit.ship import NO_FORMS, Forms
from edgekit.sources import NOTHING_ADDED, ExportOptions, origin_of
from edgekit.sources.provenance import moment
from edgekit.training.folder import RUNS
from edgekit.variants import Wanted, convert

EXPORTED = Path("exported")


def export(
    source: str,
    output: Path | str | None = None,
    options: ExportOptions = NOTHING_ADDED,
    *,
    forms: Forms = NO_FORMS,
    runs: Path | str = RUNS,
    progress: Progress = SILENT,
) -> ExportReport:
    """Export ``source`` into the bundle ``output``, or ``exported/<name>``, and write it in other ``forms`` too.

    Raises EdgekitError on failure, and then leaves an older bundle untouched.
    """
    with progress.task("exporting", 5) as advance:
        origin = origin_of(source, options, runs=as_path(runs, "runs"))
        root = EXPORTED / origin.name if output is None else as_path(output, "output", OutputError)
        check_replaceable(root)
        check_writable(root.parent)
        forms.check(root)
        now = moment(root)
        draft = origin.draft(advance)
        draft = draft._replace(provenance=now.of(draft.provenance))
        advance(1, "writing the bundle")
        bundle = _written(draft, root)
        shipped = forms.write(bundle)
        advance(1, "")
    return _report(draft, bundle, shipped)


def is_bundle(source: str) -> bool:
    """Whether ``source`` is a bundle's folder."""
    return (Path(source) / MANIFEST).is_file()


def ship(bundle: str, forms: Forms, output: Path | str | None = None, options: ExportOptions = NOTHING_ADDED) -> ShipReport:
    """Write an existing bundle in other ``forms``; it stays as it is, so that ``output`` and ``options`` are refused.

    Raises BundleError for a damaged bundle, UsageError where nothing is asked for, and OutputError for what is in the way.
    """
    if forms == NO_FORMS:
        raise UsageError(f"{bundle} is a bundle already", "say what to write of it: --triton DIR or --golden-raw DIR")
    if output is not None or options != NOTHING_ADDED:
        raise UsageError(
            f"{bundle} is a bundle already, and a bundle is immutable", "leave out all options but --triton and --golden-raw"
        )
    opened = open_bundle(bundle)
    forms.check(opened.root)
    return ShipReport(str(opened.root), opened.sha256, forms.write(opened), opened.notes)


def _written(draft: Draft, root: Path) -> Bundle:
    """The bundle at ``root``, with the int8 file that the network was trained for, if it was: whole or not at all."""
    manifest = draft.manifest()
    if draft.learned is None:
        return write_bundle(root, manifest, draft.contents(manifest))
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        bundle = write_bundle(Path(folder) / "float32", manifest, draft.contents(manifest))
        outcome = convert(bundle, "int8", Wanted(learned=draft.learned, training=draft.data))
        outcome, _ = with_accuracy(bundle, outcome)
        return with_variant(bundle, outcome.draft, root)


def _report(draft: Draft, bundle: Bundle, shipped: tuple[Shipped, ...]) -> ExportReport:
    variant, golden = bundle.variant(), bundle.manifest.golden
    assert variant.error is not None
    return ExportReport(
        bundle=str(bundle.root),
        variant=variant.name,
        opset=draft.opset,
        fold=draft.fold,
        original_error=draft.original_error,
        exported_error=variant.error,
        golden=f"{golden.samples} {'test pictures' if golden.kind == 'test-set' else 'random inputs'}",
        notes=draft.notes,
        onnx_sha256=bundle.sha256_of(),
        onnx_bytes=bundle.manifest.files[variant.file].size,
        measured_in=draft.measured_in,
        shipped=shipped,
    )
