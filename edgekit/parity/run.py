"""Run a session on the golden inputs and compare its outputs with the recorded ones.

The reference is the float64 output recorded in the bundle, so no framework is needed. The golden inputs are run twice, all in
one batch and in small batches of several sizes, which exposes a batch axis that is free in name only. A session with ranges of
batch sizes is run so in each range.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import msgspec
import numpy as np

from edgekit.backends.contract import InRanges, Opened, Session
from edgekit.bundle.golden import GoldenArrays
from edgekit.errors import TooLargeError
from edgekit.parity.bars import Bars
from edgekit.parity.cause import likely_cause
from edgekit.parity.compare import beside, compare_output, wrong_shape
from edgekit.reports.verify import OutputDiff, ParityReport
from edgekit.tensors import Array, Feed, fixed_batch, in_turns, joined_outputs, real_samples
from edgekit.tolerance import Bar, Measured

BATCHES = (1, 2, 3, 7)
"""Batch sizes beside all samples at once: none of them was traced."""
AT_ONCE = 1024
"""Samples that are run at once, at most: a runtime keeps the memory of a batch that was too large, and the next finds none."""


def parity(opened: Opened, golden: GoldenArrays, bars: Bars, reference: str, inside: Measured | None = None) -> ParityReport:
    """Compare one session with the recorded float64 outputs; ``reference`` describes their origin in the manifest's words.

    ``inside``: what was measured of the values inside the session, which counts for each output.
    """
    samples = len(next(iter(golden.inputs.values())))
    runs = [_in_batches_that_fit(opened.session, golden.inputs, sizes) for sizes in sizes_to_run(opened.session, samples)]
    outputs = []
    for name, reference_output in golden.float64.items():
        diffs = [_compare_parts(name, run, reference_output, bars.of[name], on_gpu=opened.on_gpu) for run in runs]
        worst = beside(reduce(_worse, diffs), inside or Measured())
        cause = _of_batches([run.sizes for run, diff in zip(runs, diffs, strict=True) if not diff.within(bars.tolerance)], runs)
        outputs.append(msgspec.structs.replace(worst, cause="; ".join(filter(None, (cause, worst.cause)))))
    sizes = dict.fromkeys(size for run in runs for size in run.sizes)
    return ParityReport(
        reference=reference,
        backend=opened.name,
        samples=samples,
        tolerance=bars.tolerance,
        outputs=tuple(outputs),
        facts=dict(opened.session.facts) | {"batch sizes": ", ".join(map(str, sizes))},
        setup=opened.setup,
        noise_factor=bars.noise_factor,
        snr_db=bars.snr_db,
        steps=bars.steps,
        as_written=bars.as_written,
    )


def outputs_of(session: Session, inputs: Feed) -> dict[str, Array]:
    """The outputs of all samples, in batches as large as fit."""
    sizes = sizes_to_run(session, len(next(iter(inputs.values()))))[0]
    return joined_outputs([outputs for _, outputs in _in_batches_that_fit(session, inputs, sizes).batches])


def sizes_to_run(session: Session, samples: int) -> tuple[tuple[int, ...], ...]:
    """The batch sizes of each run of all ``samples`` samples: all at once, up to ``AT_ONCE``, and in turn those of ``BATCHES``.

    A session with ranges of sizes does so in each range, because each may run other kernels. A model that takes one size only is
    run in that size.
    """
    fixed = fixed_batch(session.inputs)
    if fixed is not None:
        return ((fixed,),)
    samples = min(samples, AT_ONCE)
    ranges = session.ranges if isinstance(session, InRanges) else ()
    runs = [
        run
        for allowed in ranges
        for run in (
            (max(allowed.min, min(allowed.max, samples)),),
            tuple(dict.fromkeys(size for size in (allowed.min, *BATCHES) if size in allowed)),
        )
    ]
    return tuple(dict.fromkeys(runs)) or ((samples,), BATCHES)


class _Run(NamedTuple):
    """The outputs of each batch of a run, and the ``sizes`` of the batches, which take turns."""

    sizes: tuple[int, ...]
    batches: list[tuple[slice, dict[str, Array]]]


def _in_batches_that_fit(session: Session, inputs: Feed, sizes: tuple[int, ...]) -> _Run:
    """A run in batches of ``sizes``, or of smaller ones where memory is short.

    Raises TooLargeError where one sample alone does not fit.
    """
    while True:
        try:
            return _Run(sizes, list(_in_batches(session, inputs, sizes)))
        except TooLargeError:
            if max(sizes) in (1, fixed_batch(session.inputs)):
                raise
            sizes = tuple(dict.fromkeys(max(1, size // 4) for size in sizes))


def _in_batches(session: Session, inputs: Feed, sizes: Sequence[int]) -> Iterator[tuple[slice, dict[str, Array]]]:
    """The samples and the outputs of each batch, the ``sizes`` taking turns, without the outputs of filling samples."""
    for samples, feed, size in in_turns(inputs, sizes):
        yield samples, real_samples(session.run(feed), size, samples.stop - samples.start)


def _compare_parts(name: str, run: _Run, reference: Array, bar: Bar, *, on_gpu: bool) -> OutputDiff:
    """Compare the joined outputs of a run; a batch of a wrong shape is reported by itself."""
    joinable: list[Array] = []
    for samples, outputs in run.batches:
        part, expected = outputs.get(name), reference[samples]
        if part is None or part.shape != expected.shape:
            return wrong_shape(name, part, expected)
        joinable.append(part)
    output = np.concatenate(joinable)
    diff = compare_output(name, output, reference, bar)
    if diff.within(bar):
        return diff
    held = bar.held(reference)
    return msgspec.structs.replace(diff, cause=likely_cause(output[:held], reference[:held], bar, on_gpu=on_gpu))


def _of_batches(failing: Sequence[tuple[int, ...]], runs: Sequence[_Run]) -> str:
    """What some batch sizes have in common that fail where others pass; empty where all fail, or none."""
    if not failing or len(failing) == len(runs):
        return ""
    wrong = dict.fromkeys(size for run in failing for size in run)
    right = dict.fromkeys(size for run in runs if run.sizes not in failing for size in run.sizes if size not in wrong)
    sizes, others = (", ".join(map(str, each)) for each in (wrong, right))
    passes = f" and passes in batches of {others}" if others else " only"
    return f"it fails in batches of {sizes}{passes}: something in it depends on the batch"


def _worse(first: OutputDiff, second: OutputDiff) -> OutputDiff:
    """The one with the larger error, with the classes of the one in which fewer agree."""
    larger = max(first, second, key=lambda diff: (bool(diff.problem), diff.of_limit, diff.max_abs))
    if first.top1 is None or second.top1 is None:
        return larger
    least = min(larger, first, second, key=lambda diff: 1.0 if diff.top1 is None else diff.top1)
    return msgspec.structs.replace(larger, top1=least.top1, flips=least.flips, margin=least.margin)
