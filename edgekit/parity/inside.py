"""Values inside a file that runs as it is written, held to the fingerprints that were taken of them at export."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle.evidence import Fingerprint
from edgekit.parity.bisect import LEAST
from edgekit.parity.converted import FAR
from edgekit.parity.fingerprints import distances, group_scales, statistics
from edgekit.parity.rounding import TIMES_ROUNDING
from edgekit.tensors import Array
from edgekit.tolerance import EPSILON, Measured

LAST_PLACES, SUMMED = 2.0, 1e-12
"""What a fingerprint of numbers that are the same to the last bit may be off: in units of float32's last place, in which it is
recorded, and of the largest number, because numpy sums in another order on another CPU."""


class Inside(NamedTuple):
    """What values inside a file are held to: ``recorded`` fingerprints, ``limits`` as of ``limits_of``, and what computes them.

    ``nodes``: every value that the file computes -> its node in words.
    """

    recorded: Mapping[str, Fingerprint] = {}
    limits: Mapping[str, NDArray[np.float64]] = {}
    nodes: Mapping[str, str] = {}

    def measured(self, values: Mapping[str, Array]) -> Measured:
        """The largest share of its limit that any of the ``values`` is off; without bound where a recorded one is missing."""
        lost = next((name for name in self.recorded if name not in self.nodes), None)
        if lost is not None:
            return Measured(FAR, f"it does not compute {lost!r}, of which a fingerprint was recorded")
        most, beyond = 0.0, ""
        for name, mine in _alike({name: values[name] for name in self.recorded if name in values}, self.recorded).items():
            apart = distances(mine, self.recorded[name].statistics)
            with np.errstate(invalid="ignore"):
                share = float(np.nan_to_num(apart / self.limits[name], nan=0.0, posinf=FAR).max(initial=0.0))
            if share > 1 and not beyond:  # the first in the file's order; what is behind it may be off by more
                off = min(float(apart.max()), FAR)
                beyond = f"what {self.nodes[name]} computes is {off:.1e} of scale from the fingerprint that was recorded of it"
            most = max(most, share)
        return Measured(most, beyond)


def limits_of(
    recorded: Mapping[str, Fingerprint], fixed: Collection[str], seen: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """How far each value's statistics may be from the ``recorded`` ones, of the scale of each group.

    Values that no input changes (``fixed``) are the same everywhere. Any other may be off by four times what rounding was
    ``seen`` to do to it; one of which nothing was seen has no limit.
    """
    exact = {name: _of_last_places(recorded[name].statistics) for name in recorded if name in fixed}
    rounded = {name: np.maximum(LEAST, TIMES_ROUNDING * seen[name]) for name in recorded if name in seen}
    return rounded | exact


def _of_last_places(recorded: NDArray[np.float32]) -> NDArray[np.float64]:
    """What rounding the statistics themselves may change, of the scale of each group."""
    scale, sizes = group_scales(recorded), np.abs(recorded.astype(np.float64))
    return LAST_PLACES * EPSILON * np.divide(sizes, scale, out=np.zeros(sizes.shape), where=scale > 0) + SUMMED


def seen_inside(
    own: Mapping[str, Array], readings: Iterable[Mapping[str, Array]], recorded: Mapping[str, Fingerprint]
) -> dict[str, NDArray[np.float64]]:
    """The most by which any of the ``readings`` moves each statistic of the values ``own``: float64 of 3 x 1, of scale."""
    mine, seen = _alike(own, recorded), dict.fromkeys(own, np.zeros((3, 1)))
    for values in readings:
        for name, moved in _alike(values, recorded).items():
            seen[name] = np.maximum(seen[name], distances(moved, mine[name]).max(axis=1, keepdims=True))
    return seen


def _alike(values: Mapping[str, Array], recorded: Mapping[str, Fingerprint]) -> dict[str, NDArray[np.float32]]:
    """Fingerprints of ``values`` in as many groups as the ``recorded`` ones have."""
    return {name: statistics(value, recorded[name].statistics.shape[1]) for name, value in values.items()}
