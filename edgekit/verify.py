"""Parity: whether a runtime computes what the original model does.

The reference is the float64 output recorded in the bundle, so no framework is needed. Every golden input is run twice,
all at once and one by one, so that a batch axis that is free only in name is found out; what takes no such batches is run in the
largest and the smallest of each of its ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce

import numpy as np

from edgekit.backends import Backend, InRanges
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
    sizes = batch_sizes(backend, samples)
    ran = [(size, list(_in_batches(backend, golden.inputs, samples, size))) for size in sizes]
    outputs = []
    for name, reference in golden.float64.items():
        diffs = [_compare_parts(name, [part.get(name) for part in parts], size, reference, tolerance) for size, parts in ran]
        outputs.append(reduce(_worse, diffs))
    facts = dict(backend.facts) | {"batch sizes": ", ".join(map(str, sizes))}
    return ParityReport(reference_name, backend.name, samples, tolerance, tuple(outputs), facts)


def batch_sizes(backend: Backend, samples: int) -> tuple[int, ...]:
    """In which sizes to run so many samples: every range may run other kernels, and each is to be seen."""
    ranges = backend.ranges if isinstance(backend, InRanges) else ()
    found = [size for one in ranges for size in (max(one.min, min(one.max, samples)), one.min)]
    return tuple(dict.fromkeys(found)) or (samples, 1)


def _in_batches(backend: Backend, inputs: Mapping[str, Array], samples: int, size: int) -> Iterator[dict[str, Array]]:
    """Batches of ``size``; the last is filled up with its last sample, and what that gives is left out."""
    for start in range(0, samples, size):
        index = np.minimum(np.arange(start, start + size), samples - 1)
        outputs = backend.run({name: array[index] for name, array in inputs.items()})
        filled = start + size > samples
        yield {name: array[: samples - start] if filled and array.ndim else array for name, array in outputs.items()}


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


def _compare_parts(name: str, parts: Sequence[Array | None], size: int, reference: Array, tolerance: Tolerance) -> OutputDiff:
    """The outputs of batches of ``size``, joined; one of a wrong shape is reported as it is, because it may not join."""
    good: list[Array] = []
    for index, part in enumerate(parts):
        wanted = reference[index * size : (index + 1) * size]
        if part is None or part.shape != wanted.shape:
            return compare(name, part, wanted, tolerance)
        good.append(part)
    return compare(name, np.concatenate(good), reference, tolerance)


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
