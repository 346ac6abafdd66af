"""Compare one output with its reference."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.parity.converted import FAR
from edgekit.reports.verify import ERROR_BOUNDS, OutputDiff
from edgekit.tensors import Array, differences, largest, snr_db
from edgekit.tolerance import Bar, Measured, finite_scale


def compare_output(name: str, output: Array | None, reference: Array, bar: Bar) -> OutputDiff:
    """Compare an output with its float64 reference (samples first); a NaN or a wrong shape never passes.

    Infinite values agree where the reference has the same. The figures are of the samples that the bar holds against the
    reference; ``of_limit`` and ``own_steps`` also of what the bar measures of all.
    """
    if output is None or output.shape != reference.shape:
        return wrong_shape(name, output, reference)
    held, measured = bar.held(reference), bar.measured(output, reference)
    diff = _compare(name, output[:held], reference[:held], bar)
    return msgspec.structs.replace(beside(diff, measured), own_steps=measured.own_steps)


def beside(diff: OutputDiff, measured: Measured) -> OutputDiff:
    """The comparison of an output with what else was ``measured``, whose share of what is allowed counts where it is larger."""
    if measured.share <= diff.of_limit:
        return diff
    return msgspec.structs.replace(diff, of_limit=measured.share, beyond=measured.beyond)


def _compare(name: str, output: Array, reference: Array, bar: Bar) -> OutputDiff:
    """Compare each element of an output."""
    limits = bar.limits(reference)
    loosest = largest(limits)
    difference = differences(output, reference)
    classes = reference.ndim == 2 and reference.shape[1] > 1
    top1 = top1_agreement(output, reference, bar) if classes else None
    if not np.isfinite(difference).all():
        where = np.argwhere(~np.isfinite(difference))[0].tolist()
        return OutputDiff(name, FAR, FAR, loosest, FAR, top1, f"not finite at {where}")
    with np.errstate(over="ignore"):
        shares = np.divide(difference, limits, out=np.where(difference > 0, FAR, 0.0), where=limits > 0)
    worst = np.unravel_index(int(shares.argmax()), shares.shape) if shares.size else ()
    scale = finite_scale(reference)
    max_abs = largest(difference)
    flips, margin = _flips(output, reference) if classes else (None, None)
    return OutputDiff(
        name=name,
        max_abs=max_abs,
        normalised=max_abs / (scale or 1.0),
        limit=float(np.broadcast_to(limits, reference.shape)[worst]) if shares.size else loosest,
        top1=top1,
        mean_abs=float(difference.mean()) if difference.size else 0.0,
        of_limit=min(float(shares[worst]), FAR) if shares.size else 0.0,
        worst=tuple(int(index) for index in worst),
        snr_db=_snr(difference, reference),
        top5=_top5_agreement(output, reference) if classes and reference.shape[1] > 5 else None,
        flips=flips,
        margin=margin,
        histogram=_histogram(difference, scale),
    )


MOST_COUNTED = 1 << 20
"""Places of an output that its histogram counts; of a larger one, every so many."""


def _histogram(difference: NDArray[np.float64], scale: float | None) -> tuple[int, ...]:
    """Counts of |y - r| / max|r| below, between and from the last of ``ERROR_BOUNDS`` on; zero is below."""
    counted = difference.reshape(-1)[:: -(-difference.size // MOST_COUNTED) or 1]
    places = np.searchsorted(np.asarray(ERROR_BOUNDS) * (scale or 1.0), counted, side="right")
    return tuple(np.bincount(places, minlength=len(ERROR_BOUNDS) + 1).tolist())


def wrong_shape(name: str, output: Array | None, reference: Array) -> OutputDiff:
    """The row of an output that is missing, or not of the reference's shape."""
    problem = "is missing" if output is None else f"has the shape {output.shape}, not {reference.shape}"
    return OutputDiff(name, FAR, FAR, 0.0, FAR, None, f"the output {problem}")


def top1_agreement(output: Array, reference: Array, bar: Bar) -> float:
    """Share of samples (N x classes) whose largest value is where the reference has its largest value, or a tie with it.

    Two reference values tie if their distance is at most the sum of their ``bar.blur``.
    """
    blur = np.broadcast_to(bar.blur(reference), reference.shape)
    rows, best, chosen = np.arange(len(reference)), reference.argmax(1), output.argmax(1)
    with np.errstate(invalid="ignore"):
        behind = reference[rows, best] - reference[rows, chosen]
    return float(((behind <= blur[rows, best] + blur[rows, chosen]) | (best == chosen)).mean())


def _flips(output: Array, reference: Array) -> tuple[int, float | None]:
    """The number of samples whose largest value moved, and of these the largest margin r had, of scale; None if none moved."""
    rows, best, chosen = np.arange(len(reference)), reference.argmax(1), output.argmax(1)
    moved = best != chosen
    with np.errstate(invalid="ignore"):
        margins = (reference[rows, best] - reference[rows, chosen])[moved]
    return int(moved.sum()), min(float(margins.max()) / (finite_scale(reference) or 1.0), FAR) if moved.any() else None


def _top5_agreement(output: Array, reference: Array) -> float:
    """Share of samples (N x classes) whose largest reference value is among the five largest of the output."""
    best = np.argsort(-output.astype(np.float64), axis=1, kind="stable")[:, :5]
    return float((best == reference.argmax(1)[:, None]).any(1).mean())


def _snr(difference: NDArray[np.float64], reference: Array) -> float | None:
    """The signal-to-noise ratio in dB; None if there is no difference or no signal."""
    snr = snr_db(difference, reference)
    return snr if math.isfinite(snr) else None
