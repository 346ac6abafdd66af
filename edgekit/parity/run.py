"""Parity: whether a runtime computes what the original model does.

The reference is the float64 output recorded in the bundle, so no framework is needed. Every golden input is run twice,
all at once and one by one, so that a batch axis that is free only in name is found out; what takes no such batches is run in the
largest and the smallest of each of its ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

import numpy as np

from edgekit.backends.contract import Backend, InRanges
from edgekit.bundle.golden import GoldenArrays
from edgekit.parity.compare import compare_output
from edgekit.reports.verify import OutputDiff, ParityReport
from edgekit.tensors import Array
from edgekit.tolerance import Tolerance

REFERENCE = "PyTorch float64, unfolded (recorded)"
FILE_REFERENCE = "the original ONNX file in float64 (recorded)"
FILE_ITSELF = "the original ONNX file in its own dtype, unoptimised (recorded)"


def parity(backend: Backend, golden: GoldenArrays, tolerance: Tolerance, reference_name: str = REFERENCE) -> ParityReport:
    """One runtime against the recorded reference."""
    samples = len(next(iter(golden.inputs.values())))
    sizes = sizes_to_run(backend, samples)
    ran = [(size, list(_in_batches(backend, golden.inputs, samples, size))) for size in sizes]
    outputs = []
    for name, reference in golden.float64.items():
        diffs = [_compare_parts(name, [part.get(name) for part in parts], size, reference, tolerance) for size, parts in ran]
        outputs.append(reduce(_worse, diffs))
    facts = dict(backend.facts) | {"batch sizes": ", ".join(map(str, sizes))}
    return ParityReport(reference_name, backend.name, samples, tolerance, tuple(outputs), facts)


def sizes_to_run(backend: Backend, samples: int) -> tuple[int, ...]:
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


def _compare_parts(name: str, parts: Sequence[Array | None], size: int, reference: Array, tolerance: Tolerance) -> OutputDiff:
    """The outputs of batches of ``size``, joined; one of a wrong shape is reported as it is, because it may not join."""
    good: list[Array] = []
    for index, part in enumerate(parts):
        wanted = reference[index * size : (index + 1) * size]
        if part is None or part.shape != wanted.shape:
            return compare_output(name, part, wanted, tolerance)
        good.append(part)
    return compare_output(name, np.concatenate(good), reference, tolerance)


def _worse(first: OutputDiff, second: OutputDiff) -> OutputDiff:
    larger = max(first, second, key=lambda diff: diff.max_abs)
    if first.top1 is None or second.top1 is None:
        return larger
    return OutputDiff(larger.name, larger.max_abs, larger.normalised, larger.limit, min(first.top1, second.top1), larger.problem)
