"""The Pareto front, by its definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgekit.latency.front import front

COSTS = st.dictionaries(st.integers(), st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=8)


def better(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    return first != second and all(one <= other for one, other in zip(first, second, strict=True))


@given(COSTS)
def test_nothing_on_the_front_is_dominated_and_all_else_is_by_something_on_it(costs: dict[int, tuple[int, int, int]]) -> None:
    best = front(costs)
    assert best
    for name, own in costs.items():
        dominated = any(better(costs[other], own) for other in best)
        assert dominated == (name not in best)


def test_equals_are_on_it_together() -> None:
    assert front({"a": (1, 2), "b": (1, 2), "c": (2, 2)}) == {"a", "b"}
