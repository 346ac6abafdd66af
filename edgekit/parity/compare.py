"""Compare one output with its reference."""

from __future__ import annotations

import numpy as np

from edgekit.reports.verify import OutputDiff
from edgekit.tensors import Array, largest, normalised_error
from edgekit.tolerance import Tolerance

FAR = float(np.finfo(np.float64).max)  # JSON has no infinity
TIE = 1e-6


def compare_output(name: str, output: Array | None, reference: Array, tolerance: Tolerance) -> OutputDiff:
    """Compare an output with its float64 reference (samples first); a NaN or a wrong shape never passes."""
    scale = largest(reference)
    limit = tolerance.atol + tolerance.rtol * scale
    if output is None or output.shape != reference.shape:
        problem = "is missing" if output is None else f"has the shape {output.shape}, not {reference.shape}"
        return OutputDiff(name, FAR, FAR, limit, None, f"the output {problem}")
    difference = np.abs(output.astype(np.float64) - reference)
    top1 = None
    if reference.ndim == 2 and reference.shape[1] > 1:
        top1 = top1_agreement(output, reference)
    if not np.isfinite(difference).all():
        where = np.argwhere(~np.isfinite(difference))[0].tolist()
        return OutputDiff(name, FAR, FAR, limit, top1, f"not finite at {where}")
    return OutputDiff(name, largest(difference), normalised_error(output, reference, scale=scale), limit, top1)


def top1_agreement(output: Array, reference: Array) -> float:
    """Share of samples (N x classes) whose largest value is where the reference has its largest value, or a tie with it.

    Two reference values tie if they are within a millionth of max|r|, which float32 cannot tell apart.
    """
    behind = reference.max(1) - reference[np.arange(len(reference)), output.argmax(1)]
    return float((behind <= TIE * largest(reference)).mean())
