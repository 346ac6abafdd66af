"""The culprit is the first node whose error jumps above that of what it reads."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.onnx.bodies import Node
from edgekit.parity.bisect import first_alone, first_by_halving, first_departure, from_values
from edgekit.parity.fingerprints import distance, statistics

CHAIN = [Node(("", f"Op{index}"), (f"v{index}",), (f"v{index + 1}",), f"node{index}") for index in range(8)]


@pytest.mark.parametrize("culprit", range(8))
def test_the_node_where_the_error_begins_is_the_culprit(culprit: int) -> None:
    errors = {f"v{index + 1}": 1e-7 if index < culprit else 1e-3 for index in range(8)}
    departed = first_departure(CHAIN, errors)
    assert departed is not None
    assert (departed.node.name, departed.error) == (f"node{culprit}", 1e-3)


def test_errors_that_rounding_explains_have_no_culprit() -> None:
    assert first_departure(CHAIN, {f"v{index}": 2e-6 for index in range(9)}) is None


def test_an_error_that_grows_slowly_is_laid_on_the_node_that_amplifies_most() -> None:
    """No node jumps by eight times; the fourth amplifies by six, all others by two."""
    grown = [2e-6 * 2.0**index * (3 if index > 3 else 1) for index in range(8)]
    departed = first_departure(CHAIN, {f"v{index + 1}": error for index, error in enumerate(grown)})
    assert departed is not None
    assert departed.node.name == "node4"


def test_a_quantised_value_may_be_off_by_one_step_and_no_more() -> None:
    plain: dict[str, np.ndarray] = {"q": np.array([0, 10, 100], np.uint8)}
    assert from_values({"q": np.array([1, 9, 101], np.uint8)}, plain) == {"q": 0.0}
    assert from_values({"q": np.array([0, 10, 104], np.uint8)}, plain) == {"q": 0.03}


def test_values_that_are_not_shown_take_what_their_node_reads() -> None:
    departed = first_departure(CHAIN, {"v1": 1e-7, "v5": 1e-2, "v8": 1e-2})
    assert departed is not None
    assert departed.value == "v5"


def moving(place: int) -> list[Node]:
    """The chain with a Reshape at ``place``, which only moves numbers."""
    return [node._replace(operator=("", "Reshape")) if index == place else node for index, node in enumerate(CHAIN)]


@pytest.mark.parametrize("factor", [3.3, 20])
def test_a_node_that_only_moves_numbers_stands_for_the_one_where_the_error_begins(factor: float) -> None:
    errors = {"v1": 0.0, "v2": 2.9e-6, "v3": 2.9e-6, "v4": 2.9e-6 * factor, **{f"v{index}": 1e-5 for index in range(5, 9)}}
    departed = first_departure(moving(3), errors)
    assert departed is not None
    assert (departed.node.name, departed.value, departed.before) == ("node1", "v2", 0.0)


def test_a_node_that_moves_numbers_elsewhere_than_it_should_is_named_itself() -> None:
    errors = {**{f"v{index}": 1e-7 for index in range(1, 4)}, **{f"v{index}": 1e-1 for index in range(4, 9)}}
    departed = first_departure(moving(3), errors)
    assert departed is not None
    assert departed.node.name == "node3"


def test_the_first_node_that_is_wrong_by_itself_is_named_however_errors_travel() -> None:
    departed = first_alone(CHAIN, {"v1": 1e-7, "v4": 1e-4, "v7": 1e-1}, {})
    assert departed is not None
    assert (departed.node.name, departed.error, departed.before) == ("node3", 1e-4, 0.0)


def test_a_node_that_amplifies_a_unit_in_the_last_place_has_a_floor_of_its_own() -> None:
    assert first_alone(CHAIN, {"v4": 1e-4}, {"v4": 1e-5}) is None
    assert first_alone(CHAIN, {"v4": 1e-4}, {"v4": 5e-6}) is not None
    assert first_alone(CHAIN, {"v4": 3e-6}, {}) is None


def test_halving_looks_at_the_nearest_value_that_is_shown() -> None:
    """The fault is in v2; v4 to v6 cannot be shown."""

    def error_of(name: str) -> float | None:
        return None if name in ("v4", "v5", "v6") else 1e-3 if int(name[1:]) >= 2 else 0.0

    departed = first_departure(CHAIN, first_by_halving(CHAIN, error_of))
    assert departed is not None
    assert departed.value == "v2"


@pytest.mark.parametrize("culprit", range(1, 9))
def test_halving_finds_it_with_few_looks(culprit: int) -> None:
    looks = []

    def error_of(name: str) -> float:
        looks.append(name)
        return 1e-3 if int(name[1:]) >= culprit else 0.0

    departed = first_departure(CHAIN, first_by_halving(CHAIN, error_of))
    assert departed is not None
    assert departed.value == f"v{culprit}"
    assert len(looks) <= 4


def test_values_of_another_shape_are_infinitely_wrong() -> None:
    plain: dict[str, np.ndarray] = {"v": np.ones((2, 3), np.float32), "index": np.arange(3)}
    assert from_values({"v": np.ones((2, 3), np.float32)}, plain) == {"v": 0.0}
    assert from_values({"v": np.ones((2, 2), np.float32)}, plain) == {"v": np.inf}


def test_a_fingerprint_is_mean_deviation_and_largest_of_each_channel() -> None:
    value = np.array([[[1.0, 3.0], [0.0, 0.0]], [[-5.0, 1.0], [2.0, 2.0]]])
    np.testing.assert_allclose(statistics(value, 8), [[0, 1], [3, 1], [5, 2]])
    np.testing.assert_allclose(statistics(value, 1), [[0.5], [np.std(value)], [5]], rtol=1e-6)
    assert distance(statistics(value, 8), statistics(value, 8)) == 0
    moved = value.copy()
    moved[:, 1] += 0.5
    assert distance(statistics(moved, 8), statistics(value, 8)) == pytest.approx(0.25)
    assert distance(statistics(value, 8), statistics(value, 1)) == np.inf
