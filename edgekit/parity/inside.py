"""Stored numbers of a file that runs as it is written, held to the fingerprints that were taken of them at export."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle.evidence import Fingerprint
from edgekit.parity.converted import FAR
from edgekit.parity.fingerprints import distances, group_scales, statistics
from edgekit.tensors import Array
from edgekit.tolerance import EPSILON, Measured

LAST_PLACES, SUMMED = 2.0, 1e-12
"""What a fingerprint of numbers that are the same to the last bit may be off: in units of float32's last place, in which it is
recorded, and of the largest number, because numpy sums in another order on another CPU."""


def measured_inside(
    recorded: Mapping[str, Fingerprint], nodes: Mapping[str, str], values: Iterable[tuple[str, Array]]
) -> Measured:
    """The largest share of its limit that any of the ``values`` is off, which no input changes and every machine has alike.

    ``nodes``: every value that the file computes -> its node in words. Without bound where a ``recorded`` one is not among them.
    """
    lost = next((name for name in recorded if name not in nodes), None)
    if lost is not None:
        return Measured(FAR, f"it does not compute {lost!r}, of which a fingerprint was recorded")
    most, beyond = 0.0, ""
    for name, value in values:
        known = recorded[name].statistics
        apart = distances(statistics(value, known.shape[1]), known)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = float(np.nan_to_num(apart / _of_last_places(known), nan=0.0, posinf=FAR).max(initial=0.0))
        if share > 1 and not beyond:  # the first in the file's order
            off = min(float(apart.max()), FAR)
            beyond = f"what {nodes[name]} computes is {off:.1e} of scale from the fingerprint that was recorded of it"
        most = max(most, share)
    return Measured(most, beyond)


def in_chunks(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """The names in their order, in lists of at most ``most`` elements together, or of one name."""
    chunk: list[str] = []
    held = 0
    for name, size in sizes.items():
        if chunk and held + size > most:
            yield chunk
            chunk, held = [], 0
        chunk.append(name)
        held += size
    if chunk:
        yield chunk


def _of_last_places(recorded: NDArray[np.float32]) -> NDArray[np.float64]:
    """What rounding the statistics themselves may change, of the scale of each group."""
    scale, sizes = group_scales(recorded), np.abs(recorded.astype(np.float64))
    return LAST_PLACES * EPSILON * np.divide(sizes, scale, out=np.zeros(sizes.shape), where=scale > 0) + SUMMED
