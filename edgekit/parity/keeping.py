"""Which nodes to keep in full precision: the fewest, those that cause most error first, for which a bound holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def fewest_kept(ranked: Sequence[str], holds: Callable[[Sequence[str]], bool]) -> tuple[str, ...] | None:
    """The shortest beginning of ``ranked`` with which ``holds`` is true; None if it is not even with all of them.

    ``ranked`` are nodes, those that cause most error first. ``holds`` judges a file in which the given nodes keep full precision;
    it is taken to be true of every longer beginning once it is true of one, so that about log2(n) + 1 files are judged.
    """
    if holds(()):
        return ()
    if not ranked or not holds(ranked):
        return None
    low, high = 0, len(ranked)  # holds with ``high`` nodes, and not with ``low``
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(ranked[:middle]) else (middle, high)
    return tuple(ranked[:high])
