"""From an ONNX file from elsewhere to a bundle: fold, compare with the original in ONNX Runtime, write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from edgekit.bundle.card import model_card
from edgekit.bundle.folder import check_replaceable, write_bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import CARD, GOLDEN, MODEL, SCHEMA, Golden, Manifest, Source, Variant
from edgekit.errors import ModelError
from edgekit.files import check_name, check_writable, sha256_of
from edgekit.machine.packages import tool_versions
from edgekit.onnx.exact import Inexact, run_file_exact
from edgekit.onnx.fold import Folding, fold_onnx
from edgekit.onnx.free import OnnxSource, open_onnx
from edgekit.onnx.read import precision_of
from edgekit.onnx.run import UNOPTIMISED, open_unoptimised
from edgekit.parity.compare import compare_output, normalised_error, top1_agreement
from edgekit.progress import SILENT, Progress
from edgekit.reports.export import ExportReport, FoldReport
from edgekit.tensors import Array, sample_feed
from edgekit.tolerance import Tolerance

SAMPLES, PROVED_ON = 8, 2  # golden inputs, and how many of them folding is proved on in float64
FLOAT64_LIMIT, FLOAT64_CEILING = 1e-12, 1e-9
RANDOM = "the golden inputs are random numbers, because the model's data is not known"
_VARIANTS = {"float16": "fp16", "float64": "fp64", "bfloat16": "bf16"}
_PLAUSIBLE = {"float16": 5e-2, "bfloat16": 3e-1, "float64": 1e-9}  # how far an original may be from float64, of the scale


class Reference(NamedTuple):
    """What the folded file is held against; ``error`` is the original's own in its dtype, None where float64 cannot be had."""

    golden: GoldenArrays
    error: float | None
    note: str


def export_onnx_file(path: Path, output: Path, *, fold_bn: bool = True, progress: Progress = SILENT) -> ExportReport:
    """Fold ``path`` into the bundle ``output``; raises EdgekitError and leaves an older bundle as it was on failure."""
    with progress.task("exporting", 4) as advance:
        check_replaceable(output)
        check_writable(output.parent)
        source = open_onnx(path)
        advance(1, "golden outputs")
        reference = _reference(source)
        advance(1, "folding")
        folding = fold_onnx(source.model, fold_bn=fold_bn)
        report = _proved(source, folding, reference)
        found = _run_folded(source, folding, reference.golden)
        error = _error(found, reference.golden.float64)
        report = msgspec.structs.replace(report, error_exported=error)
        variant = _variant(source, reference, found)
        _check_outputs(source, found, reference, variant.tolerance, bool(report.folded))
        advance(1, "writing the bundle")
        content = folding.model.SerializeToString(deterministic=True)
        manifest = _manifest(source, report, reference, variant)
        contents = {MODEL: content, GOLDEN: reference.golden.to_npz(), CARD: model_card(manifest).encode()}
        bundle = write_bundle(output, manifest, contents)
        advance(1, "")
    return ExportReport(
        bundle=str(output),
        opset=manifest.opset,
        fold=report,
        float32_error=reference.error,
        exported_error=error,
        golden=f"{SAMPLES} random inputs",
        notes=manifest.notes,
        onnx_sha256=bundle.onnx_sha256,
        onnx_bytes=len(content),
        measured_in=UNOPTIMISED,
    )


def _reference(source: OnnxSource) -> Reference:
    """The original in float64, as long as ONNX Runtime agrees with it; otherwise the original as ONNX Runtime computes it."""
    feed = sample_feed(source.inputs, SAMPLES)
    own = source.run(feed)
    wide = {name: array.astype(np.float64) for name, array in own.items()}
    dtype = precision_of(source.original)
    try:
        exact = run_file_exact(source.model, feed)
        error = _error(own, exact) if all(exact[name].shape == array.shape for name, array in own.items()) else np.inf
        if not error <= _PLAUSIBLE.get(dtype, 2.5e-4):
            raise Inexact(f"ONNX's reference evaluator differs from ONNX Runtime by {error:.1e} of the scale")
    except Inexact as problem:
        note = f"the reference is the original ONNX file in ONNX Runtime, {dtype}, with graph optimisations off"
        return Reference(GoldenArrays(feed, wide, own, None), None, f"{note}; not in float64: {problem}")
    exact = {name: exact[name].astype(np.float64) for name in own}
    return Reference(GoldenArrays(feed, exact, own, None), error, "the reference is the original ONNX file in float64")


def _proved(source: OnnxSource, folding: Folding, reference: Reference) -> FoldReport:
    """The report with the difference that folding makes in float64, the folded numbers unrounded; raises ModelError if any.

    A model that amplifies rounding is held to eight times what its own dtype's error amounts to in float64.
    """
    if folding.exact is None or reference.error is None:
        return folding.report
    try:
        feed, wanted = (
            {name: array[:PROVED_ON] for name, array in part.items()}
            for part in (reference.golden.inputs, reference.golden.float64)
        )
        error = _error(run_file_exact(folding.exact, feed, math.inf), wanted)
    except Inexact as problem:
        raise ModelError(
            f"{source.path} runs in float64 and its folded copy does not: {problem}; export with --no-fold-bn and report the file"
        ) from None
    dtype = np.dtype(precision_of(source.original))
    unit = float(np.finfo(dtype).eps) if dtype.kind == "f" else 2.0**-7
    noise = 8 * reference.error * float(np.finfo(np.float64).eps) / unit
    if not error <= min(max(FLOAT64_LIMIT, noise), FLOAT64_CEILING):
        raise ModelError(
            f"folding {source.path} changed its outputs by {error:.1e} of their scale in float64; "
            "export with --no-fold-bn and report the file"
        )
    return msgspec.structs.replace(folding.report, error_float64=error)


def _run_folded(source: OnnxSource, folding: Folding, golden: GoldenArrays) -> list[dict[str, Array]]:
    """All golden inputs at once, and one by one, as ``edgekit verify`` runs them."""
    run = open_unoptimised(folding.model, source.path)
    single = [run({name: array[index : index + 1] for name, array in golden.inputs.items()}) for index in range(SAMPLES)]
    return [run(golden.inputs), {name: np.concatenate([one[name] for one in single]) for name in golden.float64}]


def _check_outputs(
    source: OnnxSource, found: list[dict[str, Array]], reference: Reference, tolerance: Tolerance, folded: bool
) -> None:
    """What the bundle's own tolerance does not allow is not written."""
    for outputs in found:
        for name, wanted in reference.golden.float64.items():
            diff = compare_output(name, outputs[name], wanted, tolerance)
            if diff.within(tolerance):
                continue
            source.check_independent(reference.golden.inputs)  # of those that differ, no dtype and no folding is at fault
            what = f"{diff.normalised:.1e} of its scale, beyond {tolerance.rtol:.1e}"
            if diff.top1 is not None and diff.top1 < tolerance.top1:
                what += f", and the largest value of {1 - diff.top1:.0%} of the samples moved"
            if not folded:
                raise ModelError(
                    f"output {name!r} of {source.path} is off by {what}; such a file cannot be verified, use a wider dtype"
                )
            raise ModelError(
                f"folding {source.path} changed output {name!r} by {what}; export with --no-fold-bn and report the file"
            )


def _error(outputs: list[dict[str, Array]] | Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    every = outputs if isinstance(outputs, list) else [outputs]
    return max(normalised_error(one[name], reference[name]) for one in every for name in reference)


def _variant(source: OnnxSource, reference: Reference, found: list[dict[str, Array]]) -> Variant:
    """Precision is that of the weights; tolerances as for PyTorch models, wider where the original itself is further off."""
    dtype = precision_of(source.original)
    if dtype not in _VARIANTS and any(spec.dtype == "float16" for spec in source.outputs):
        dtype = "float16"
    own = reference.error
    if dtype in ("float16", "bfloat16"):
        error = own if own is not None else _error(found, reference.golden.float64)
        top1 = min(_top1(outputs, reference.golden.float64) for outputs in (*found, reference.golden.float32))
        tolerance = Tolerance(atol=1e-5, rtol=min(max(8 * error, 1e-3), 2e-2), top1=top1)
    else:
        tolerance = Tolerance(rtol=max(Tolerance().rtol, 4 * (own or 0.0)))
    return Variant(_VARIANTS.get(dtype, "fp32"), MODEL, dtype, tolerance)


def _top1(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    classes = [name for name, array in reference.items() if array.ndim == 2 and array.shape[1] > 1]
    return min((top1_agreement(outputs[name], reference[name]) for name in classes), default=1.0)


def _notes(source: OnnxSource, reference: Reference, variant: Variant) -> tuple[str, ...]:
    notes = [reference.note, RANDOM]
    if source.fixed is not None:
        notes.append(
            f"the file takes batches of {source.fixed}; its batch axis was freed, and the freed file agreed with the original "
            "in batches of several sizes"
        )
    if variant.precision == "float32" and variant.tolerance.rtol > Tolerance().rtol:
        notes.append(f"the tolerance is {variant.tolerance.rtol:.1e}, 4 times what the original itself is off in float32")
    if variant.tolerance.top1 < 1:
        notes.append(f"in {variant.precision} the largest value of {variant.tolerance.top1:.0%} of the samples stays where it is")
    return tuple(notes)


def _manifest(source: OnnxSource, report: FoldReport, reference: Reference, variant: Variant) -> Manifest:
    model, path = source.original, source.path
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    return Manifest(
        schema=SCHEMA,
        name=path.stem if check_name(path.stem) else "model",
        inputs=source.inputs,
        outputs=source.outputs,
        preprocess=None,
        labels=(),
        source=Source(path.name, {}, None, sha256_of(path), None),
        opset=opset,
        fold=report,
        test_accuracy=None,
        golden=Golden(GOLDEN, SAMPLES, "random", 0, reference.error),
        variants=(variant,),
        tools=tool_versions(),
        notes=_notes(source, reference, variant),
        files={},
    )
