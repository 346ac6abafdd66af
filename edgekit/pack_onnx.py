"""From an ONNX file from elsewhere to a bundle: fold, compare with the original in ONNX Runtime, write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from edgekit.bundle import (
    CARD,
    GOLDEN,
    MODEL,
    SCHEMA,
    Golden,
    GoldenArrays,
    Manifest,
    Source,
    Variant,
    check_replaceable,
    write_bundle,
)
from edgekit.card import model_card
from edgekit.errors import ModelError
from edgekit.files import check_writable, sha256_of
from edgekit.machine import tool_versions
from edgekit.onnx_fold import fold_onnx, load_whole, output_specs_of, run_unoptimised, specs_of
from edgekit.progress import SILENT, Progress
from edgekit.recipe import Tolerance, check_name
from edgekit.reports import ExportReport, FoldReport
from edgekit.tensors import Array, TensorSpec, sample_feed
from edgekit.verify import normalised_error

SAMPLES, LARGEST_ERROR = 8, 1e-4
REFERENCE = (
    "the reference is the original ONNX file in ONNX Runtime, float32, with graph optimisations off",
    "the golden inputs are random numbers, because the model's data is not known",
)


def export_onnx_file(path: Path, output: Path, *, fold_bn: bool = True, progress: Progress = SILENT) -> ExportReport:
    """Fold ``path`` into the bundle ``output``; raises EdgekitError and leaves an older bundle as it was on failure."""
    with progress.task("exporting", 3) as advance:
        check_replaceable(output)
        check_writable(output.parent)
        original = load_whole(path)
        inputs = specs_of(original, path)
        outputs = output_specs_of(original, inputs, path)
        golden = _golden(original, inputs, outputs, path)
        advance(1, "folding")
        folded, report = fold_onnx(original, fold_bn=fold_bn)
        error = _error(run_unoptimised(folded, golden.inputs, path), golden.float64)
        if not error <= LARGEST_ERROR:
            raise ModelError(
                f"folding {path} changed its outputs by {error:.1e} of their scale in ONNX Runtime; "
                "export with --no-fold-bn and report the file"
            )
        advance(1, "writing the bundle")
        content = folded.SerializeToString(deterministic=True)
        manifest = _manifest(path, original, inputs, outputs, report)
        contents = {MODEL: content, GOLDEN: golden.to_npz(), CARD: model_card(manifest).encode()}
        bundle = write_bundle(output, manifest, contents)
        advance(1, "")
    return ExportReport(
        bundle=str(output),
        opset=manifest.opset,
        fold=report,
        float32_error=None,
        exported_error=error,
        golden=f"{SAMPLES} random inputs",
        notes=manifest.notes,
        onnx_sha256=bundle.onnx_sha256,
        onnx_bytes=len(content),
    )


def _golden(model: onnx.ModelProto, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], path: Path) -> GoldenArrays:
    feed = sample_feed(inputs, SAMPLES)
    found = run_unoptimised(model, feed, path)
    return GoldenArrays(feed, {spec.name: found[spec.name].astype(np.float64) for spec in outputs}, found, None)


def _error(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    return max(normalised_error(outputs[name], reference[name]) for name in reference)


def _manifest(
    path: Path, model: onnx.ModelProto, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], report: FoldReport
) -> Manifest:
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    return Manifest(
        schema=SCHEMA,
        name=path.stem if check_name(path.stem) else "model",
        inputs=inputs,
        outputs=outputs,
        preprocess=None,
        labels=(),
        source=Source(path.name, {}, None, sha256_of(path), None),
        opset=opset,
        fold=report,
        test_accuracy=None,
        golden=Golden(GOLDEN, SAMPLES, "random", 0, 0.0),
        variants=(Variant("fp32", MODEL, inputs[0].dtype if inputs else "float32", Tolerance()),),
        tools=tool_versions(),
        notes=REFERENCE,
        files={},
    )
