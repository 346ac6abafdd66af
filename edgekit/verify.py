"""Parity: whether a runtime computes what the original model does.

The reference is the float64 output recorded in the bundle, so no framework is needed. Every golden input is run twice,
all at once and one by one, so that a batch axis that is free only in name is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgekit.backends import Backend
from edgekit.bundle import Bundle, GoldenArrays
from edgekit.progress import SILENT, Progress
from edgekit.recipe import Tolerance
from edgekit.reports import OutputDiff, ParityReport, Skipped, VerifyReport
from edgekit.tensors import Array

_FAR = float(np.finfo(np.float64).max)  # JSON has no infinity
TIE = 1e-6
REFERENCE = "PyTorch float64, unfolded (recorded)"
FILE_REFERENCE = "the original ONNX file in float64 (recorded)"
FILE_ITSELF = "the original ONNX file in its own dtype, unoptimised (recorded)"


def verify(
    bundle: Bundle,
    open_one: Callable[[str], Backend],
    kinds: Sequence[str],
    skipped: Sequence[Skipped] = (),
    *,
    tolerance: Tolerance | None = None,
    progress: Progress = SILENT,
) -> VerifyReport:
    """Run every runtime in ``kinds`` on the golden inputs and compare; ``tolerance`` is the manifest's unless given."""
    golden = bundle.golden()
    allowed = tolerance or bundle.variant.tolerance
    reference = FILE_REFERENCE if bundle.manifest.source.model.endswith(".onnx") else REFERENCE
    reference = FILE_ITSELF if bundle.manifest.golden.float32_error is None else reference
    parities = []
    with progress.task("verifying", len(kinds)) as advance:
        for kind in kinds:
            with open_one(kind) as backend:
                parities.append(parity(backend, golden, allowed, reference))
            advance(1, kind)
    return VerifyReport(str(bundle.root), bundle.onnx_sha256, tuple(parities), tuple(skipped))


def parity(backend: Backend, golden: GoldenArrays, tolerance: Tolerance, reference_name: str = REFERENCE) -> ParityReport:
    """One runtime against the recorded reference."""
    samples = len(next(iter(golden.inputs.values())))
    together = backend.run(golden.inputs)
    single = [backend.run({name: array[index : index + 1] for name, array in golden.inputs.items()}) for index in range(samples)]
    outputs = []
    for name, reference in golden.float64.items():
        alone = [part.get(name) for part in single]
        outputs.append(
            _worse(compare(name, together.get(name), reference, tolerance), _compare_single(name, alone, reference, tolerance))
        )
    return ParityReport(reference_name, backend.name, samples, tolerance, tuple(outputs), dict(backend.facts))


def compare(name: str, output: Array | None, reference: Array, tolerance: Tolerance) -> OutputDiff:
    """An output against its float64 reference of the same shape, samples first; a NaN or a wrong shape never passes."""
    scale = float(np.abs(reference).max(initial=0))
    limit = tolerance.atol + tolerance.rtol * scale
    if output is None or output.shape != reference.shape:
        found = "is missing" if output is None else f"has the shape {output.shape}, not {reference.shape}"
        return OutputDiff(name, _FAR, _FAR, limit, None, f"the output {found}")
    difference = np.abs(output.astype(np.float64) - reference)
    top1 = None
    if reference.ndim == 2 and reference.shape[1] > 1:
        top1 = top1_agreement(output, reference)
    if not np.isfinite(difference).all():
        where = np.argwhere(~np.isfinite(difference))[0].tolist()
        return OutputDiff(name, _FAR, _FAR, limit, top1, f"not finite at {where}")
    worst = float(difference.max(initial=0))
    return OutputDiff(name, worst, worst / scale if scale else worst, limit, top1)


def top1_agreement(output: Array, reference: Array) -> float:
    """Share of samples (N x classes) whose largest value is at the same place, or at one that ties with it.

    Two reference values tie when they are within a millionth of max|r|, which float32 cannot tell apart.
    """
    behind = reference.max(1) - reference[np.arange(len(reference)), output.argmax(1)]
    return float((behind <= TIE * np.abs(reference).max()).mean())


def _compare_single(name: str, parts: Sequence[Array | None], reference: Array, tolerance: Tolerance) -> OutputDiff:
    """The outputs of batches of one, joined; one of a wrong shape is reported as it is, because it may not join."""
    good = [part for part in parts if part is not None and part.shape == reference[:1].shape]
    if len(good) == len(parts):
        return compare(name, np.concatenate(good), reference, tolerance)
    wrong = next(part for part in parts if part is None or part.shape != reference[:1].shape)
    return compare(name, wrong, reference[:1], tolerance)


def normalised_error(output: Array, reference: Array) -> float:
    """max|output - reference| / max|reference|, in float64."""
    scale = float(np.abs(reference).max(initial=0))
    worst = float(np.abs(output.astype(np.float64) - reference).max(initial=0))
    return worst / scale if scale else worst


def _worse(first: OutputDiff, second: OutputDiff) -> OutputDiff:
    larger = max(first, second, key=lambda diff: diff.max_abs)
    if first.top1 is None or second.top1 is None:
        return larger
    return OutputDiff(larger.name, larger.max_abs, larger.normalised, larger.limit, min(first.top1, second.top1), larger.problem)
