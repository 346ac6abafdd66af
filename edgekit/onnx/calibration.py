"""Ranges of the values inside a network, measured on calibration samples batch by batch, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit.errors import ModelError
from edgekit.onnx.placing import BIASED, Placement
from edgekit.onnx.qdq import CODES
from edgekit.onnx.run import open_every_value
from edgekit.tensors import Array, Feed, batches_of, real_samples

Method: TypeAlias = Literal["minmax", "mse"]
Way: TypeAlias = tuple[Method, bool]
WAYS: tuple[Way, ...] = (("minmax", False), ("minmax", True), ("mse", False), ("mse", True))
"""Ranges, and bias correction or none."""
BATCH = 32
BINS = 4096
SMALLEST = 1e-6
"""The least limit: of a value that was zero on every sample."""
_SHARES = np.linspace(0.2, 1.0, 161)
"""Shares of the largest |value| that are tried as a limit."""


class Observed(NamedTuple):
    """What calibration saw of each value, by its name.

    ``lowest`` and ``highest`` are its extremes, ``histograms`` int64 counts of |value| over ``BINS`` equal bins from 0 to the
    largest |value|, and ``means`` float64 means of each channel (axis 1) of what layers read that add a bias themselves.
    """

    lowest: dict[str, float]
    highest: dict[str, float]
    histograms: dict[str, NDArray[np.int64]]
    means: dict[str, NDArray[np.float64]]

    def largest(self, value: str) -> float:
        """The largest |value|."""
        return max(-self.lowest[value], self.highest[value])


Batches: TypeAlias = Callable[[], Iterator[Mapping[str, Array]]]
"""Gives the values of every batch, as often as it is called."""


def values_of(model: onnx.ModelProto, names: set[str], feed: Feed, size: int = BATCH) -> Batches:
    """The values ``names`` of ``model`` on a ``feed``, in batches of ``size`` samples; inputs may be among them."""
    run = open_every_value(model, Path("model.onnx"), only=names)

    def batches() -> Iterator[Mapping[str, Array]]:
        for batch, real in batches_of(feed, size):
            yield real_samples({**run(batch), **{name: batch[name] for name in names & batch.keys()}}, size, real)

    return batches


def observe(placement: Placement, batches: Batches) -> Observed:
    """Measure extremes and means in a first pass, and histograms within them in a second.

    Raises ModelError for a value that is not finite on a sample.
    """
    observed = Observed({}, {}, {}, {})
    sums: dict[str, NDArray[np.float64]] = {}
    rows: dict[str, int] = {}
    read = {layer.data for layer in placement.layers if layer.operator in BIASED}
    for values in batches():
        for name in placement.groups:
            if not np.isfinite(values[name]).all():
                raise ModelError(
                    f"value {name!r} inside the network is not finite on the calibration samples, so that it has no range",
                    "keep the layers around it in float with --keep, or calibrate on other samples",
                )
            observed.lowest[name] = min(observed.lowest.get(name, np.inf), float(values[name].min()))
            observed.highest[name] = max(observed.highest.get(name, -np.inf), float(values[name].max()))
            if name in read:
                sums[name] = sums.get(name, np.zeros(1)) + _channel_means(values[name]).sum(axis=0)
                rows[name] = rows.get(name, 0) + len(values[name])
    for values in batches():
        for name in placement.groups:
            counts = _counts(values[name], max(observed.largest(name), SMALLEST))
            observed.histograms[name] = observed.histograms.get(name, np.zeros(BINS, np.int64)) + counts
    observed.means.update({name: total / rows[name] for name, total in sums.items()})
    return observed


def _channel_means(array: Array) -> NDArray[np.float64]:
    """Rows x channels, which are axis 1: the mean over all other axes."""
    return np.asarray(array.astype(np.float64).mean(axis=tuple(range(2, array.ndim))))


def _counts(array: Array, largest: float) -> NDArray[np.int64]:
    bins = (np.abs(array).reshape(-1) * np.float32(BINS / largest)).astype(np.int64).clip(0, BINS - 1)
    return np.bincount(bins, minlength=BINS)


def limits_of(placement: Placement, observed: Observed, method: Method) -> dict[str, float]:
    """Group -> its limit, the |value| that the code 127 stands for.

    ``minmax``: the largest |value| of the group. ``mse``: what makes the squared error of rounding and clipping least, of all
    values of the group together.
    """
    limits = {}
    for group, members in placement.members().items():
        own = [value for value in members if value not in placement.clamped]
        largest = max(*map(observed.largest, own), SMALLEST)
        limits[group] = largest if method == "minmax" else largest * _best_share(observed, own, largest)
    return limits


def _best_share(observed: Observed, values: list[str], largest: float) -> float:
    errors = np.zeros(len(_SHARES))
    for value in values:
        width = max(observed.largest(value), SMALLEST) / BINS
        errors += [_squared_error(observed.histograms[value], width, share * largest) for share in _SHARES]
    return float(_SHARES[int(errors.argmin())])


def _squared_error(counts: NDArray[np.int64], width: float, limit: float) -> float:
    """The sum of squared errors of rounding to limit/127, and of clipping at ``limit``, by a histogram of bins of ``width``.

    Rounding spreads evenly over a step s, so that its mean square is s^2/12; the first bin holds the zeros, which are exact.
    """
    centres = (np.arange(BINS) + 0.5) * width
    errors = np.where(centres <= limit, (limit / CODES) ** 2 / 12, np.square(centres - limit))
    return float((counts[1:] * errors[1:]).sum())
