"""The bar of a file in fewer bits, which is held to its reference as a whole, and to its own recorded outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.tensors import bounded_snr_db, differences, largest, snr_db
from edgekit.tolerance import TIE, Measured, ScaleBar, apart, finite_scale, parts_of

FAR = float(np.finfo(np.float64).max)
"""Stands for infinity, which JSON has not."""
USUAL = 0.75
"""The share of samples that rounding hardly moves."""
STEPS = 127
"""Steps of a signed 8-bit number on each side of zero."""


class ConvertedBar(NamedTuple):
    """A bar for a file in fewer bits, which was recorded when it was made: ``own`` are its outputs then, samples first.

    ``sizes`` are the samples of the parts, in order. On the first part, all elements pass where

        10 log10(sum r^2 / sum (y - r)^2) >= snr_db

    and on the first ``against`` samples each where |y - r| <= rtol * max|r| of its part. On the first ``own_parts`` parts max|y -
    own| <= steps * max|own| / 127. None: on all of them, which hold where the file is computed as it was recorded: inputs that no
    calibration saw reach codes above 127, which runtimes clip in their own ways. Classes tie whose reference values are nearer
    than ``tie`` each of max|r|. None of ``snr_db`` or ``steps``: not asked. ``typical_steps``: what three of four samples may be
    off at most: a changed weight moves most samples, and another order of summation a few, however far. ``whose`` the recorded
    outputs are is told where they are missed.
    """

    rtol: float
    against: int
    sizes: Sequence[int]
    own: NDArray[Any]
    snr_db: float | None
    steps: float | None
    tie: float
    top1: float = 1.0
    own_parts: int | None = None
    typical_steps: float | None = None
    whose: str = "its own"

    def limits(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """Float64 of samples x 1 x ... x 1: rtol * max|r| of the sample's part, infinite values of r left out."""
        return self._by_part(self.rtol, reference)

    def blur(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """``tie`` * max|r|, whatever ``rtol``: a wide one does not make all classes equal."""
        return self._by_part(max(self.tie, TIE / 2), reference)

    def _by_part(self, share: float, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        sizes = self.sizes if len(reference) == sum(self.sizes) else (len(reference),)
        return ScaleBar(share, sizes).limits(reference)

    def held(self, reference: NDArray[np.float64]) -> int:
        """``against``."""
        return self.against

    def measured(self, output: NDArray[Any], reference: NDArray[np.float64]) -> Measured:
        """The share of the allowed noise, and of the allowed steps; the larger one."""
        first = slice(self.sizes[0])
        snr = self._noise(differences(output[first], reference[first]), reference[first])
        steps = self._steps(output)
        return max(snr, steps, key=lambda measured: measured.share)._replace(own_steps=steps.own_steps)

    def _noise(self, difference: NDArray[np.float64], reference: NDArray[np.float64]) -> Measured:
        """rms(y - r) as a share of what ``snr_db`` allows."""
        snr = snr_db(difference, reference)
        if self.snr_db is None or snr == math.inf:
            return Measured()
        share = min(10 ** ((self.snr_db - snr) / 20), FAR) if snr > -math.inf else FAR
        ratio, asked = apart(snr, self.snr_db, 1, "f")
        return Measured(share, f"SNR {ratio} dB, {asked} dB are asked" if share > 1 else "")

    def _steps(self, output: NDArray[Any]) -> Measured:
        """The most steps of any part between the output and the recorded one."""
        most = 0.0
        pairs = list(zip(parts_of(output, self.sizes), parts_of(self.own, self.sizes), strict=True))
        for mine, own in pairs[: self.own_parts]:
            moved, scale = largest(differences(mine, own)), finite_scale(own)
            most = max(most, 0.0 if moved == 0 else STEPS * moved / scale if scale and math.isfinite(moved) else FAR)
        if self.steps is None:
            return Measured(own_steps=most)
        if most == FAR:
            return Measured(FAR, f"it is not finite, or not zero, where {self.whose} recorded output is", most)
        held = self.sizes[: self.own_parts]
        typical = usual_steps(output[: sum(held)], self.own[: sum(held)], held)
        held_to = [("", most, self.steps), ("a quarter of the samples are ", typical, self.typical_steps)]
        shares = [(_share(off, allowed), whose, off, allowed) for whose, off, allowed in held_to if allowed is not None]
        share, which, off, allowed = max(shares, key=lambda each: each[0])
        figure, bar = apart(off, allowed, 3)
        far = f"{which}{figure} steps from {self.whose} recorded output, {bar} are allowed"
        return Measured(share, far if share > 1 else "", most)


def _share(off: float, allowed: float) -> float:
    """``off`` as a share of what is ``allowed``, which may be nothing."""
    return min(off / allowed, FAR) if allowed else FAR if off else 0.0


def usual_steps(output: NDArray[Any], own: NDArray[Any], sizes: Sequence[int]) -> float:
    """The steps that three of four samples (in parts of ``sizes``) are at most off what was recorded, of their part's scale."""
    of_samples = [
        STEPS * differences(mine, part).reshape(len(part), -1).max(axis=1, initial=0.0) / (finite_scale(part) or 1.0)
        for mine, part in zip(parts_of(output, sizes), parts_of(own, sizes), strict=True)
    ]
    return float(np.quantile(np.concatenate(of_samples), USUAL))


def worst_snr_db(outputs: Mapping[str, NDArray[Any]], references: Mapping[str, NDArray[Any]]) -> float:
    """The SNR in dB of the worst output, within ``MOST_DB`` on both sides of 0."""
    return min(bounded_snr_db(outputs[name], reference) for name, reference in references.items())
