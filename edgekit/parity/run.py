"""Run a session on the golden inputs and compare its outputs with the recorded ones.

The reference is the float64 output recorded in the bundle, so no framework is needed. The golden inputs are run twice, all in
one batch and one by one, which exposes a batch axis that is free in name only. A session with ranges of batch sizes is run at
the largest and the smallest size of each range.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from edgekit.backends.contract import InRanges, Opened, Session
from edgekit.bundle.golden import GoldenArrays
from edgekit.errors import TooLargeError
from edgekit.parity.compare import compare_output
from edgekit.reports.verify import OutputDiff, ParityReport
from edgekit.tensors import Array, Feed, batches_of, fixed_batch, real_samples
from edgekit.tolerance import Tolerance


def parity(opened: Opened, golden: GoldenArrays, tolerance: Tolerance, reference: str) -> ParityReport:
    """Compare one session with the recorded float64 outputs; ``reference`` describes their origin in the manifest's words."""
    samples = len(next(iter(golden.inputs.values())))
    sizes = sizes_to_run(opened.session, samples)
    ran = [_in_batches_that_fit(opened.session, golden.inputs, size) for size in sizes]
    outputs = []
    for name, reference_output in golden.float64.items():
        diffs = [
            _compare_parts(name, [part.get(name) for part in parts], size, reference_output, tolerance) for size, parts in ran
        ]
        outputs.append(reduce(_worse, diffs))
    return ParityReport(
        reference=reference,
        backend=opened.name,
        samples=samples,
        tolerance=tolerance,
        outputs=tuple(outputs),
        facts=dict(opened.session.facts) | {"batch sizes": ", ".join(str(size) for size, _ in ran)},
        setup=opened.setup,
    )


def sizes_to_run(session: Session, samples: int) -> tuple[int, ...]:
    """The batch sizes in which to run ``samples`` samples: two of each range, because each range may run other kernels.

    A model that takes one size only is run in that size.
    """
    fixed = fixed_batch(session.inputs)
    if fixed is not None:
        return (fixed,)
    ranges = session.ranges if isinstance(session, InRanges) else ()
    sizes = [size for allowed in ranges for size in (max(allowed.min, min(allowed.max, samples)), allowed.min)]
    return tuple(dict.fromkeys(sizes)) or (samples, 1)


def _in_batches_that_fit(session: Session, inputs: Feed, size: int) -> tuple[int, list[dict[str, Array]]]:
    """The batch size that fits into memory, ``size`` or smaller, with the outputs.

    Raises TooLargeError where one sample alone does not fit.
    """
    while True:
        try:
            return size, _in_batches(session, inputs, size)
        except TooLargeError:
            if size in (1, fixed_batch(session.inputs)):
                raise
            size = max(1, size // 4)


def _in_batches(session: Session, inputs: Feed, size: int) -> list[dict[str, Array]]:
    """The outputs of each batch of ``size``, without those of filling samples."""
    return [real_samples(session.run(feed), size, real) for feed, real in batches_of(inputs, size)]


def _compare_parts(name: str, parts: Sequence[Array | None], size: int, reference: Array, tolerance: Tolerance) -> OutputDiff:
    """Compare the joined outputs of batches of ``size``; a part of a wrong shape is reported by itself."""
    joinable: list[Array] = []
    for index, part in enumerate(parts):
        expected = reference[index * size : (index + 1) * size]
        if part is None or part.shape != expected.shape:
            return compare_output(name, part, expected, tolerance)
        joinable.append(part)
    return compare_output(name, np.concatenate(joinable), reference, tolerance)


def _worse(first: OutputDiff, second: OutputDiff) -> OutputDiff:
    larger = max(first, second, key=lambda diff: diff.max_abs)
    if first.top1 is None or second.top1 is None:
        return larger
    return OutputDiff(larger.name, larger.max_abs, larger.normalised, larger.limit, min(first.top1, second.top1), larger.problem)
