"""What rounding alone does to a model's outputs: where a tolerance comes from.

The same network is run in many ways that are all right: in other orders of summation (optimisation levels, threads, batch sizes,
runtimes), and with inputs moved by one unit in the last place. The largest |y - r| that any of them gives, for each channel of
each part of the golden samples, is the noise floor (``edgekit.tolerance.NoiseBar``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.onnx.scales import rescaled, scales_in_half
from edgekit.tensors import Array, Feed, differences
from edgekit.tolerance import EPSILON, channel_axis, channel_scales, finite_scale, parts_of

SEED = 0
DRAWS = 4
"""Pairs of readings of a file with moved numbers: in one of a pair all go the other way."""
FINER = 1 << 13
"""Units in float32's last place that are one of float16."""


class Outcome(NamedTuple):
    """The ``outputs`` by name of one run of the golden ``samples``, int64 numbers."""

    samples: NDArray[np.int64]
    outputs: Mapping[str, Array]


class Noise(NamedTuple):
    """Noise floors, float64 of parts x channels by output, and the axis of each output's channels; from ``runs`` runs."""

    floors: dict[str, Array]
    axes: dict[str, int]
    runs: int


def noise_of(references: Mapping[str, Array], sizes: Sequence[int], outcomes: Iterable[Outcome]) -> Noise:
    """The floors of ``references``, float64 outputs of samples in parts of ``sizes``; values that are not finite are left out."""
    axes = {name: channel_axis(reference) for name, reference in references.items()}
    floors = {
        name: np.zeros((len(sizes), reference.shape[axes[name]] if reference.ndim > 1 else 1))
        for name, reference in references.items()
    }
    part_of, runs = np.repeat(np.arange(len(sizes)), sizes), 0
    for samples, outputs in outcomes:
        runs += 1
        for name, reference in references.items():
            error = differences(outputs[name], reference[samples])
            for part in range(len(sizes)):
                chosen = error[part_of[samples] == part]
                if len(chosen):
                    floors[name][part] = np.maximum(floors[name][part], channel_scales(chosen, axes[name]))
    return Noise(floors, axes, runs)


ROOM = 30
"""Times the original's own error of scale, or four units in the last place, that a noise floor may be."""


def most_noise(reference: Array, original: Array, sizes: Sequence[int]) -> list[float]:
    """The largest noise floor of each part that the original's own error explains; no bar is made of more."""
    return [
        ROOM * max(finite_scale(differences(own, part)), 4 * EPSILON * finite_scale(part))
        for part, own in zip(parts_of(reference, sizes), parts_of(original.astype(np.float64), sizes), strict=True)
    ]


def noise_of_scale(floors: Array, reference: Array, sizes: Sequence[int]) -> float:
    """The largest noise floor of an output, of the scale of its part of ``reference``."""
    scales = [finite_scale(part) or 1.0 for part in parts_of(reference, sizes)]
    return max(float(floor.max(initial=0.0)) / scale for floor, scale in zip(floors, scales, strict=True))


def jittered(feed: Feed, seed: int = SEED, units: int = 1, of: type[np.floating[Any]] | None = None) -> dict[str, Array]:
    """A copy of ``feed`` whose float values are moved by ``units`` in the last place, up or down at random.

    As many units below zero move each value the other way than those above. ``of``: the dtype whose units count, None: the
    values' own. A dtype that has no steps so small is moved by one of its own.
    """
    rng = np.random.default_rng(seed)

    def moved(array: Array) -> Array:
        if not np.issubdtype(array.dtype, np.floating):
            return array
        finer = 0 if of is None else int(np.finfo(array.dtype).nmant - np.finfo(of).nmant)
        up = (rng.random(array.shape) < 0.5) != (units > 0)
        return _stepped(array, np.where(up, 1, -1) * max(1, int(abs(units) * 2.0**finer)))

    return {name: moved(array) for name, array in feed.items()}


def _stepped(array: Array, units: NDArray[np.int64]) -> Array:
    """Floats moved by ``units`` in their last place, as ``np.nextafter`` so many times; what is not finite stays."""
    whole = np.dtype(f"i{array.itemsize}")
    least = int(np.iinfo(whole).min)
    bits = np.ascontiguousarray(array).view(whole).astype(np.int64).reshape(array.shape)
    place = np.where(bits < 0, least - bits, bits) + units  # a float's bits count its steps from zero
    moved = np.where(place < 0, least - place, place).astype(whole).view(array.dtype)
    return np.where(np.isfinite(array), moved, array)


def moved_readings(content: bytes, feed: Feed, units: int = 1) -> Iterator[tuple[bytes, dict[str, Array]]]:
    """Copies of a file whose steps have scales moved by ``units`` in float32's last place, each with inputs that are moved alike.

    Another order of summation moves what lies between two codes to the other one. In one of two readings a value on the border
    falls to the other code. Units are float32's whatever the dtype, so that a file in coarser numbers is not moved by more. Where
    scales are of 16 bits, rounding to these would swallow units so small: there some values of the inputs are ``carried``.
    """
    half = scales_in_half(content)
    for seed in range(DRAWS):
        for way in (units, -units):
            moved = jittered(feed, DRAWS + seed, way, np.float32)
            yield (
                rescaled(content, partial(jittered, seed=seed, units=way, of=np.float32)),
                carried(moved, 2 * DRAWS + seed, way) if half else moved,
            )


def carried(feed: Feed, seed: int, units: int) -> dict[str, Array]:
    """A copy of ``feed`` with some float32 values moved by a unit of float16, as many as ``units`` of their own carry so far.

    Sums that differ by so little are rounded to the same number of 16 bits, but for those on the border between two.
    """
    rng = np.random.default_rng(seed)

    def moved(array: Array) -> Array:
        crossing = rng.random(array.shape) * FINER < abs(units)
        up = (rng.random(array.shape) < 0.5) != (units > 0)
        if array.dtype != np.float32:
            return array
        return _stepped(array, np.where(crossing, np.where(up, FINER, -FINER), 0))

    return {name: moved(array) for name, array in feed.items()}


def some_of_each_part(sizes: Sequence[int], most: int) -> NDArray[np.int64]:
    """At most ``most`` sample numbers, or one for each part if that is more, spread over the parts of ``sizes`` samples."""
    total, starts = sum(sizes), np.cumsum((0, *sizes))
    chosen = []
    for start, size in zip(starts, sizes, strict=False):
        count = min(size, max(1, most * size // total))
        chosen.append(start + np.linspace(0, size - 1, count).round().astype(np.int64))
    return np.unique(np.concatenate(chosen))
