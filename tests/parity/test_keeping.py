"""The fewest nodes are kept with which a bound holds, and few files are judged to find them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.parity.keeping import fewest_kept


@given(st.integers(0, 70), st.integers(0, 80))
def test_the_shortest_beginning_is_found_with_few_files(count: int, needed: int) -> None:
    ranked = [f"node {place}" for place in range(count)]
    judged: list[Sequence[str]] = []

    def holds(kept: Sequence[str]) -> bool:
        judged.append(kept)
        assert list(kept) == ranked[: len(kept)]
        return len(kept) >= needed

    kept = fewest_kept(ranked, holds)
    assert kept == (tuple(ranked[:needed]) if needed <= count else None)
    assert len(judged) <= 2 + math.ceil(math.log2(max(count, 1)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0, 40))
def test_a_bound_of_summed_errors_holds_with_the_nodes_that_are_kept_and_not_with_one_fewer(
    errors: list[float], most: float
) -> None:
    ranked = sorted(map(str, range(len(errors))), key=lambda node: -errors[int(node)])

    def holds(kept: Sequence[str]) -> bool:
        return sum(error for node, error in enumerate(errors) if str(node) not in kept) <= most

    kept = fewest_kept(ranked, holds)
    assert kept is not None
    assert holds(kept)
    assert not kept or not holds(kept[:-1])


@pytest.mark.parametrize("holding", [True, False])
def test_without_nodes_there_is_nothing_to_keep(holding: bool) -> None:
    assert fewest_kept([], lambda kept: holding) == (() if holding else None)
