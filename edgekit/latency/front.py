"""The Pareto front: what nothing else is at least as good as in everything, and better in something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

Name = TypeVar("Name")


def front(costs: Mapping[Name, Sequence[float]]) -> frozenset[Name]:
    """Those of ``costs`` that no other dominates; each has the same costs in the same order, and less is better."""
    return frozenset(
        name for name, own in costs.items() if not any(_dominates(other, own) for rival, other in costs.items() if rival != name)
    )


def _dominates(other: Sequence[float], own: Sequence[float]) -> bool:
    pairs = tuple(zip(other, own, strict=True))
    return all(theirs <= mine for theirs, mine in pairs) and any(theirs < mine for theirs, mine in pairs)
