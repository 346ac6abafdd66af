"""Parity: whether a backend computes what the original model does.

The reference is the float64 output recorded in the bundle, so no framework is needed. Every golden input is run twice,
all at once and one by one, so that a batch axis that is free only in name is found out; what takes no such batches is run in the
largest and the smallest of each of its ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from edgekit.backends.contract import InRanges, Opened, Session
from edgekit.bundle.golden import GoldenArrays
from edgekit.parity.compare import compare_output
from edgekit.reports.verify import OutputDiff, ParityReport
from edgekit.tensors import Array, Feed, batches_of, real_samples
from edgekit.tolerance import Tolerance


def parity(opened: Opened, golden: GoldenArrays, tolerance: Tolerance, reference: str) -> ParityReport:
    """One session against the recorded float64 outputs; ``reference`` says what they are of, in the manifest's words."""
    samples = len(next(iter(golden.inputs.values())))
    sizes = sizes_to_run(opened.session, samples)
    ran = [(size, _in_batches(opened.session, golden.inputs, size)) for size in sizes]
    outputs = []
    for name, wanted in golden.float64.items():
        diffs = [_compare_parts(name, [part.get(name) for part in parts], size, wanted, tolerance) for size, parts in ran]
        outputs.append(reduce(_worse, diffs))
    return ParityReport(
        reference=reference,
        backend=opened.name,
        samples=samples,
        tolerance=tolerance,
        outputs=tuple(outputs),
        facts=dict(opened.session.facts) | {"batch sizes": ", ".join(map(str, sizes))},
        setup=opened.setup,
    )


def sizes_to_run(session: Session, samples: int) -> tuple[int, ...]:
    """In which sizes to run so many samples: every range may run other kernels, and each is to be seen."""
    ranges = session.ranges if isinstance(session, InRanges) else ()
    sizes = [size for allowed in ranges for size in (max(allowed.min, min(allowed.max, samples)), allowed.min)]
    return tuple(dict.fromkeys(sizes)) or (samples, 1)


def _in_batches(session: Session, inputs: Feed, size: int) -> list[dict[str, Array]]:
    """The outputs of each batch of ``size``, of the real samples alone."""
    return [real_samples(session.run(feed), size, real) for feed, real in batches_of(inputs, size)]


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
