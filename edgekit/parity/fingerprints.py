"""Fingerprints of the values inside a file's graph: enough to see where a file, or a runtime, departs from what was exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle.evidence import Fingerprint
from edgekit.parity.noise import some_of_each_part
from edgekit.tensors import Array, Feed

SAMPLES = 8
MOST_NUMBERS = 60_000
"""Numbers of all fingerprints of a bundle together: at most 240 kB as float32, before they are packed."""


def fingerprinted(inputs: Feed, sizes: Sequence[int]) -> dict[str, Array]:
    """The golden samples that fingerprints are of: ``SAMPLES``, or one of each part if that is more."""
    index = some_of_each_part(sizes, SAMPLES)
    return {name: array[index] for name, array in inputs.items()}


def fingerprints(values: Mapping[str, Array], modules: Mapping[str, str]) -> dict[str, Fingerprint]:
    """Fingerprints of the float ``values`` by name; wide ones are put into fewer groups, so that all of them fit."""
    floats = {name: array for name, array in values.items() if np.issubdtype(array.dtype, np.floating) and array.size}
    most = max(1, MOST_NUMBERS // (3 * max(1, len(floats))))
    return {name: Fingerprint(statistics(array, most), modules.get(name, "")) for name, array in floats.items()}


def statistics(value: Array, most: int) -> NDArray[np.float32]:
    """Mean, deviation and largest |value| of each channel (axis 1) over samples and all other axes: float32 of 3 x channels.

    Of more than ``most`` channels, neighbours are taken together, so that there are ``most`` groups.
    """
    array = np.asarray(value)
    if not array.size:
        return np.zeros((3, 0), np.float32)
    channels = np.moveaxis(array, 1, 0).reshape(array.shape[1], -1) if array.ndim > 1 else array.reshape(1, -1)
    groups = np.array_split(channels, min(most, len(channels)))
    return np.ascontiguousarray(np.asarray([_of_group(group) for group in groups], np.float32).T)


def _of_group(group: Array) -> tuple[float, float, float]:
    """Mean, deviation and largest |value| of what is finite, or NaN, in a group; in float64, which takes twice the memory."""
    finite = group[~np.isinf(group)].astype(np.float64)  # a mask is -inf in every runtime
    return (finite.mean(), finite.std(), np.abs(finite).max()) if finite.size else (0.0, 0.0, 0.0)


def distance(mine: NDArray[np.float32], recorded: NDArray[np.float32]) -> float:
    """The largest difference of two fingerprints' statistics, of scale; infinite for other shapes."""
    return float(distances(mine, recorded).max(initial=0.0))


def distances(mine: NDArray[np.float32], recorded: NDArray[np.float32]) -> NDArray[np.float64]:
    """The differences of two fingerprints' statistics, of the largest |value| of their group; infinite for other shapes.

    What is not finite in both is no difference. A group far below the whole value's scale counts against a
    millionth of that scale.
    """
    if mine.shape != recorded.shape:
        return np.full(recorded.shape, np.inf)
    scale = np.broadcast_to(group_scales(recorded), recorded.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.nan_to_num(np.abs(mine.astype(np.float64) - recorded), nan=np.inf, posinf=np.inf)
        difference[(mine == recorded) | (np.isnan(mine) & np.isnan(recorded))] = 0.0
        return np.asarray(np.divide(difference, scale, out=np.where(difference > 0, np.inf, 0.0), where=scale > 0))


def group_scales(recorded: NDArray[np.float32]) -> NDArray[np.float64]:
    """What differences of a fingerprint's groups count against; 0 where a group holds nothing but zeros, or no number."""
    finite = np.where(np.isfinite(recorded[2]), recorded[2], 0.0).astype(np.float64)
    return np.asarray(np.maximum(finite, 1e-6 * finite.max(initial=0.0)))
