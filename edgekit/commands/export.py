"""``edgekit export``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edgekit.bundle.card import model_card
from edgekit.bundle.folder import check_replaceable, write_bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import CARD, GOLDEN, MODEL, SCHEMA, WEIGHTS, Golden, Manifest, Source, Variant
from edgekit.errors import UsageError
from edgekit.files import check_name, check_writable
from edgekit.graphs.golden import record
from edgekit.graphs.trace import trace
from edgekit.machine.packages import tool_versions
from edgekit.models.factory import weights_bytes
from edgekit.progress import SILENT, Progress
from edgekit.recipe import ExportRecipe
from edgekit.reports.export import ExportReport
from edgekit.sources.module import (
    Exported,
    ExportOptions,
    ModelSource,
    check_error,
    check_labels,
    described_by,
    export_settings,
    exported_file,
    golden_inputs,
    load_source,
    metadata_of,
    notes_on,
    portable,
    variant_of,
    worst_error,
)
from edgekit.sources.onnx_file import export_onnx_file

EXPORTED = Path("exported")


def export_source(source: str, options: ExportOptions, *, runs: Path = Path("runs"), progress: Progress = SILENT) -> ExportReport:
    """Export what ``source`` names into a bundle; raises EdgekitError and leaves an older bundle as it was on failure."""
    if Path(source).suffix.lower() == ".onnx":
        return _export_file(Path(source), options, progress)
    with progress.task("exporting", 4) as advance:
        found = load_source(source, runs=runs, input_shapes=options.input_shapes, weights=options.weights)
        settings = export_settings(found.recipe, options)
        root = options.output or EXPORTED / found.name
        check_replaceable(root)
        check_writable(root.parent)
        preprocess, labels = described_by(found, options)
        advance(1, "tracing, golden outputs")
        traced = trace(found.module, found.inputs)
        golden = record(found.module, traced, *golden_inputs(found, settings.golden))
        advance(1, "folding and writing ONNX")
        weights = weights_bytes(found.module)
        metadata = metadata_of(found, preprocess, labels, hashlib.sha256(weights).hexdigest())
        exported = exported_file(found, traced, settings, golden, metadata)
        check_labels(labels, exported.outputs)
        original = worst_error(golden.float32, golden.float64)
        variant = variant_of(found, exported.outputs, original)
        check_error(exported, variant, original)
        advance(1, "writing the bundle")
        manifest = _manifest(found, settings, options, exported, variant, golden, weights)
        manifest = msgspec.structs.replace(manifest, preprocess=preprocess, labels=labels)
        contents = {MODEL: exported.onnx, GOLDEN: golden.to_npz(), CARD: model_card(manifest).encode()}
        bundle = write_bundle(root, manifest, {**contents, WEIGHTS: weights} if options.keep_weights else contents)
        advance(1, "")
    return ExportReport(
        bundle=str(root),
        opset=settings.opset,
        fold=exported.fold,
        float32_error=manifest.golden.float32_error,
        exported_error=exported.error,
        golden=f"{manifest.golden.samples} {'test pictures' if found.recipe else 'random inputs'}",
        notes=manifest.notes,
        onnx_sha256=bundle.onnx_sha256,
        onnx_bytes=len(exported.onnx),
        measured_in=exported.measured_in,
    )


def _export_file(path: Path, options: ExportOptions, progress: Progress) -> ExportReport:
    """An ONNX file knows its shapes, weights and opset itself."""
    given = {
        "--input-shape": bool(options.input_shapes), "--weights": options.weights, "--opset": options.opset,
        "--mean": options.mean, "--std": options.std, "--labels": options.labels,
    }  # fmt: skip
    wrong = [name for name, value in given.items() if value]
    if wrong:
        raise UsageError(f"{wrong[0]} does not go with an ONNX file, which is taken as it is; leave it out")
    output = options.output or EXPORTED / (path.stem if check_name(path.stem) else "model")
    return export_onnx_file(path, output, fold_bn=options.fold_bn is not False, progress=progress)


def _manifest(
    found: ModelSource,
    settings: ExportRecipe,
    options: ExportOptions,
    exported: Exported,
    variant: Variant,
    golden: GoldenArrays,
    weights: bytes,
) -> Manifest:
    samples = len(next(iter(golden.inputs.values())))
    digest = hashlib.sha256(weights).hexdigest()
    kept = WEIGHTS if options.keep_weights else None
    return Manifest(
        schema=SCHEMA,
        name=found.name,
        inputs=found.inputs,
        outputs=exported.outputs,
        preprocess=None,
        labels=(),
        source=Source(found.factory, found.args, portable(found.recipe), digest, kept),
        opset=settings.opset,
        fold=exported.fold,
        test_accuracy=found.report.test_accuracy if found.report else None,
        golden=Golden(GOLDEN, samples, "test-set" if found.recipe else "random", 0, worst_error(golden.float32, golden.float64)),
        variants=(variant,),
        tools=tool_versions(),
        notes=notes_on(found, exported.fold),
        files={},
    )
