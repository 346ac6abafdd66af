"""How far an output may be from its reference: bars, and the measured noise that one of them stands on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

TIE = 1e-6
"""Reference values within this share of the scale are a tie, which float32 cannot tell apart."""
EPSILON = float(np.finfo(np.float32).eps)
MOST_DIGITS = 15
"""Digits beyond which no two numbers differ."""
MEASURED_FACTOR, UNMEASURED_FACTOR = 4, 16
"""Times the noise floor that a runtime may be off: one whose own floor was measured, and any other."""


def apart(figure: float, bar: float, digits: int, kind: str = "g") -> tuple[str, str]:
    """A figure and the bar that it misses as texts, with ``digits`` or as many more as tell one from the other.

    ``kind`` is that of a format: ``g``, ``f`` or ``%``.
    """
    texts = [tuple(f"{number:.{more}{kind}}" for number in (figure, bar)) for more in range(digits, digits + MOST_DIGITS)]
    first, second = next((pair for pair in texts if pair[0] != pair[1]), texts[0])
    return first, second


class Measured(NamedTuple):
    """What a bar measures of a whole output, beside its elements.

    ``share``: of what is allowed, at most 1 where the output passes. ``beyond`` says in a clause what is beyond it.
    ``own_steps``: max|y - own| in steps of 1/127 of the scale, ``own`` being what the file's variant recorded; None if nothing.
    """

    share: float = 0.0
    beyond: str = ""
    own_steps: float | None = None


class Bar(Protocol):
    """What an output is held to."""

    @property
    def top1(self) -> float:
        """The least share of samples whose largest value must be where the reference has its largest value."""
        ...

    def limits(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """The largest |y - r| of every element: an array that broadcasts to the shape of ``reference`` (samples first)."""
        ...

    def blur(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far an element may move without meaning: values tie where their distance is at most the sum of their blurs."""
        ...

    def held(self, reference: NDArray[np.float64]) -> int:
        """How many samples, from the first, are held against the reference; the others only as ``measured`` says."""
        ...

    def measured(self, output: NDArray[Any], reference: NDArray[np.float64]) -> Measured:
        """What else is allowed of a whole output, all of its samples, which has the shape of ``reference``."""
        ...


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An output y passes against the reference r when max|y - r| <= atol + rtol * max|r| and top-1 agrees.

    ``top1`` is the least share of samples (outputs of shape N x classes) whose largest value must be at the place of the
    reference's largest value, or at a place whose reference value is within a millionth of max|r| of the largest.
    """

    atol: Annotated[float, Meta(ge=0)] = 1e-6
    rtol: Annotated[float, Meta(ge=0, lt=1)] = 2e-5
    top1: Annotated[float, Meta(ge=0, le=1)] = 1.0

    def of(self, recorded: Tolerance) -> Tolerance:
        """Hold to this tolerance, whatever a bundle has recorded."""
        return self

    def limits(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """One limit for all elements, float64 of no axes: atol + rtol * max|r|, infinite values of r left out."""
        return np.asarray(self.atol + self.rtol * finite_scale(reference))

    def blur(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """Half a millionth of max|r|, whatever the tolerance: a wide one does not make all classes equal."""
        return np.asarray(TIE / 2 * finite_scale(reference))

    def held(self, reference: NDArray[np.float64]) -> int:
        """All samples."""
        return len(reference)

    def measured(self, output: NDArray[Any], reference: NDArray[np.float64]) -> Measured:
        """Nothing beside the elements."""
        return Measured()


_WIDEST = {"float16": 2e-2, "bfloat16": 2e-1, "int8": 5e-2}


PRECISIONS = frozenset({"float32", "float64", *_WIDEST})
"""Precisions that a variant may be of."""


def widest_rtol(precision: str) -> float:
    """The widest rtol that a bundle may ask for a file of ``precision``; beyond it only the caller decides."""
    return _WIDEST.get(precision, Tolerance().rtol)


class ScaleBar(NamedTuple):
    """A bar relative to the scale alone: each part of the samples passes where max|y - r| <= rtol * max|r| of that part.

    ``sizes`` are the numbers of samples of the parts, in order; none: all samples are one part.
    """

    rtol: float
    sizes: Sequence[int] = ()
    top1: float = 1.0

    def limits(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """Float64 of samples x 1 x ... x 1: rtol * max|r| of the sample's part, infinite values of r left out."""
        return self.rtol * self._scales(reference)

    def blur(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """The limits: a file may be so far off, so that it cannot tell classes apart that are nearer."""
        return max(self.rtol, TIE / 2) * self._scales(reference)

    def held(self, reference: NDArray[np.float64]) -> int:
        """All samples."""
        return len(reference)

    def measured(self, output: NDArray[Any], reference: NDArray[np.float64]) -> Measured:
        """Nothing beside the elements."""
        return Measured()

    def _scales(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = parts_of(reference, self.sizes) if self.sizes else [reference]
        rows = [np.full(len(part), finite_scale(part)) for part in parts]
        return np.concatenate(rows).reshape(len(reference), *[1] * (reference.ndim - 1))


def half_tolerance(own_error: float, top1: float = 1.0) -> Tolerance:
    """The tolerance of a 16-bit file: rtol is 8 times the original's own error in 16 bits, at least 1e-3 and at most 2e-2."""
    return Tolerance(atol=1e-5, rtol=min(max(8 * own_error, 1e-3), 2e-2), top1=top1)


class ToleranceChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user's changes to a bundle's tolerance; None leaves the recorded value."""

    atol: float | None = None
    rtol: float | None = None

    def of(self, recorded: Tolerance) -> Tolerance:
        """The recorded tolerance with these changes."""
        changes = {name: value for name, value in (("atol", self.atol), ("rtol", self.rtol)) if value is not None}
        return msgspec.structs.replace(recorded, **changes)


class NoiseBar(NamedTuple):
    """A bar from measured rounding noise, for one output.

    An element of channel c in the part p of the samples passes where

        |y - r| <= min(factor * max(floors[p, c], eps * scale[p, c]), rtol * scale[p])

    with scale[p, c] = max|r| of that channel over that part, scale[p] = max|r| over the part, and eps that of float32.
    ``sizes`` are the numbers of samples of the parts, in order; ``axis`` is the channels' axis of the output.
    """

    floors: NDArray[np.float64]
    sizes: Sequence[int]
    axis: int
    factor: float
    rtol: float
    top1: float = 1.0

    def limits(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """The formula above, float64 of samples x 1 x ... x channels x ... 1."""
        rows = []
        for part, floors in zip(parts_of(reference, self.sizes), self.floors, strict=True):
            scales = channel_scales(part, self.axis)
            row = np.minimum(self.factor * np.maximum(floors, EPSILON * scales), self.rtol * finite_scale(part))
            rows.append(np.repeat(row[None], len(part), axis=0))
        shape = [len(reference)] + [1] * (reference.ndim - 1)
        if reference.ndim > 1:
            shape[self.axis] = reference.shape[self.axis]
        return np.concatenate(rows).reshape(shape)

    def blur(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """The limits: rounding may move each value so far."""
        return np.maximum(self.limits(reference), TIE / 2 * finite_scale(reference))

    def held(self, reference: NDArray[np.float64]) -> int:
        """All samples."""
        return len(reference)

    def measured(self, output: NDArray[Any], reference: NDArray[np.float64]) -> Measured:
        """Nothing beside the elements."""
        return Measured()


def parts_of(array: NDArray[np.float64], sizes: Sequence[int]) -> list[NDArray[np.float64]]:
    """``array`` cut along its first axis into parts of ``sizes`` samples."""
    return np.split(array, np.cumsum(sizes)[:-1])


def channel_scales(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """max|value| of each place along ``axis``, over all other axes; one value where there is the sample axis only."""
    finite = np.where(np.isfinite(values), np.abs(values), 0.0)
    if values.ndim < 2:
        return np.asarray([finite.max(initial=0.0)])
    return np.asarray(finite.max(axis=tuple(other for other in range(values.ndim) if other != axis), initial=0.0))


def channel_axis(reference: NDArray[np.float64]) -> int:
    """The axis that holds channels: of axis 1 and the last, the one whose places differ more in scale; 1 for samples x classes.

    A detector writes boxes and scores beside each other, along axis 1 or along the last one.
    """
    if reference.ndim < 3:
        return min(1, reference.ndim - 1)
    last = reference.ndim - 1
    return max((1, last), key=lambda axis: _spread(channel_scales(reference, axis)))


def _spread(scales: NDArray[np.float64]) -> float:
    """How many powers of two lie between the scales, as a standard deviation; zeros left out."""
    positive = scales[scales > 0]
    return float(np.log2(positive).std()) if len(positive) else 0.0


def finite_scale(values: NDArray[np.float64]) -> float:
    """max|value| over the finite values; 0 where there is none."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
