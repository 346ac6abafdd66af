"""Golden inputs as pixels: with mean and std undone they show whether the preprocessing is the one they were made by."""

from __future__ import annotations

import numpy as np

from edgekit.bundle.folder import Bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.preprocess import Preprocess
from edgekit.reports.verify import Check
from edgekit.tensors import Array

WHOLE = 1e-3
"""Distance from a whole number that a pixel may have after mean and std are undone: 1e-5 is usual, 3e-3 is another unit."""


def pixels(bundle: Bundle, golden: GoldenArrays) -> list[Check]:
    """Golden inputs with mean and std undone must be pixels: whole numbers within 0..255, some of them above 1."""
    preprocess = bundle.manifest.preprocess
    if preprocess is None or len(golden.inputs) != 1:
        return []
    if bundle.manifest.golden.kind == "random" and not bundle.manifest.golden.parts:
        return [
            Check("pixels", "unchecked", "mean and std: the golden inputs are random numbers of an older edgekit, and no pixels")
        ]
    levels = undone(next(iter(golden.inputs.values())), preprocess)
    if levels is None:
        return [Check("pixels", "fail", "the golden inputs do not have the channels that the preprocessing describes")]
    distance, low, high = float(np.abs(levels - levels.round()).max()), float(levels.min()), float(levels.max())
    problem = ""
    if not distance <= WHOLE:
        problem = f"undoing mean and std of the golden inputs does not give whole pixels (off by up to {distance:.2g})"
    elif low < -WHOLE or high > 255 + WHOLE:
        problem = f"undoing mean and std of the golden inputs gives pixels from {low:.0f} to {high:.0f}, not within 0 to 255"
    elif high <= 1:
        problem = "undoing mean and std of the golden inputs gives 0 and 1 only"
    if problem:
        return [Check("pixels", "fail", f"{problem}: mean or std is not what the network was given")]
    if low > 64 or high < 192:
        return [Check("pixels", "note", f"the golden inputs use the pixels {low:.0f} to {high:.0f} of 0 to 255 only")]
    return [Check("pixels", "pass")]


def undone(inputs: Array, preprocess: Preprocess) -> Array | None:
    """The pixels 255 * (x * std + mean), float64 of the shape of ``inputs``; None if the channels do not fit."""
    if inputs.ndim != 4 or inputs.shape[1] != len(preprocess.mean):
        return None
    mean, std = (np.asarray(values, np.float64).reshape(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std))
    return np.asarray(255 * (inputs.astype(np.float64) * std + mean))
