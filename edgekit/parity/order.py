"""Whether an output's channels, or its samples, are those of the reference in another order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.tolerance import channel_axis, finite_scale

MOST_PLACES, MOST_NUMBERS = 2048, 1 << 20
"""Channels or samples that are compared, and numbers of them all; of a larger output, evenly spread ones."""
FEW = 8
"""Numbers of a channel or sample that tell it from others: of fewer, noise makes one look like another."""
CLEARLY = 2.0
"""Times nearer to another one's reference that a channel or sample is than to its own."""
NAMED = 3
"""Channels or samples that are named."""


def in_another_order(output: NDArray[Any], reference: NDArray[np.float64], least: float) -> str:
    """A clause that names channels or samples that changed places; empty where none did.

    ``output`` and ``reference``: samples x .... A place counts that is off by more than ``least``, of the reference's scale, and
    whose root mean square distance to another's reference is less than half of that to its own, where the other's place is
    taken so too. Errors of any size that are noise leave each place nearest to its own reference.
    """
    scale = finite_scale(reference)
    if reference.ndim < 2 or not scale:
        return ""
    axis, some = channel_axis(reference), slice(max(FEW, MOST_NUMBERS // max(1, reference[0].size)))
    for what, mine, theirs in (
        ("channel", np.moveaxis(output[some], axis, 0), np.moveaxis(reference[some], axis, 0)),
        ("sample", output, reference),
    ):
        pairs = _moved(_rows(mine), _rows(theirs), least * scale)
        if pairs:
            names = ", ".join(f"{place} is the reference's {other}" for place, other in pairs[:NAMED])
            more = f" and {len(pairs) - NAMED} more moved" if len(pairs) > NAMED else ""
            return f"{what} {names}{more}: another order, which no tolerance of numbers forgives"
    return ""


def _rows(values: NDArray[Any]) -> NDArray[np.float64]:
    """Float64 of places x numbers, as many as are compared; what is not finite is 0."""
    rows = values.reshape(len(values), -1)
    step = max(1, -(-rows.size // MOST_NUMBERS))
    return np.nan_to_num(rows[:, ::step].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _moved(mine: NDArray[np.float64], theirs: NDArray[np.float64], least: float) -> list[tuple[int, int]]:
    """The places that are clearly another's, with that one, as far as they form a circle or lead into one."""
    if not 2 <= len(mine) <= MOST_PLACES or mine.shape[1] < FEW:
        return []
    squares = np.square(mine).sum(1)[:, None] + np.square(theirs).sum(1) - 2 * mine @ theirs.T
    own, nearest = np.square(mine - theirs).sum(1), squares.argmin(1)
    moved = (np.abs(mine - theirs).max(1) > least) & (CLEARLY**2 * np.maximum(squares.min(1), 0.0) < own)
    moved &= nearest != np.arange(len(mine))
    while (moved & ~moved[nearest]).any():
        moved &= moved[nearest]
    return [(int(place), int(nearest[place])) for place in np.flatnonzero(moved)]
