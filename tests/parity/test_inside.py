"""Stored numbers of a file are held to the fingerprints of the export, to the last place in which these are recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.bundle.evidence import Fingerprint
from edgekit.parity.converted import FAR
from edgekit.parity.fingerprints import distances, statistics
from edgekit.parity.inside import in_chunks, measured_inside
from edgekit.tolerance import Measured

CODES = np.random.default_rng(0).integers(-127, 128, (64, 32, 3, 3)).astype(np.float32)
LARGE = np.random.default_rng(1).integers(0, 128, (512, 2048)).astype(np.float32)
"""A million numbers in 64 groups, whose mean is not 0."""
RECORDED = {"w": Fingerprint(statistics(CODES, 32)), "l": Fingerprint(statistics(LARGE, 64))}
NODES = {"w": "DequantizeLinear w.dq", "l": "DequantizeLinear l.dq"}


def measured(**values: Any) -> Measured:
    return measured_inside(RECORDED, NODES, values.items())


def nudged(values: np.ndarray[Any, Any], by: float) -> np.ndarray[Any, Any]:
    """The values, of which one is moved."""
    moved: np.ndarray[Any, Any] = values.copy()
    moved[(3, 2, 1, 0)[: moved.ndim]] += by
    return moved


@pytest.mark.parametrize(("name", "values"), [("w", CODES), ("l", LARGE)])
def test_a_single_code_is_held_to_the_last_place_in_which_fingerprints_are_recorded(name: str, values: Any) -> None:
    assert measured(**{name: values}) == Measured()
    known = RECORDED[name].statistics
    up = {name: Fingerprint(np.nextafter(known, np.float32(np.inf)))}  # another CPU sums in another order
    assert 0 < measured_inside(up, NODES, [(name, values)]).share <= 1
    off = measured(**{name: nudged(values, 1)})
    assert off.share > 1
    assert off.beyond.startswith(f"what DequantizeLinear {name}.dq computes is ")


def test_the_first_value_that_is_off_is_named_and_the_worst_counts() -> None:
    both = measured(w=nudged(CODES, 1), l=LARGE * 2)
    assert both.beyond.startswith("what DequantizeLinear w.dq computes is ")
    assert both.share == measured(l=LARGE * 2).share > measured(w=nudged(CODES, 1)).share


def test_a_recorded_value_that_the_file_does_not_compute_is_off_without_bound() -> None:
    """Nor does another name for it hide what it is."""
    lost = measured_inside(RECORDED, {"l": "Conv conv"}, [])
    assert lost == (FAR, "it does not compute 'w', of which a fingerprint was recorded", None)


@pytest.mark.parametrize("other", [CODES[:, :16], CODES[:0], np.zeros((3, 0), np.float32), CODES * np.float32(np.nan)])
def test_a_value_of_another_shape_or_none_is_off_without_bound(other: Any) -> None:
    off = measured(w=other)
    assert off.share == FAR
    assert off.beyond


def test_stored_numbers_are_taken_in_chunks_that_are_bounded_and_in_their_order() -> None:
    sizes = {"a": 3, "b": 4, "c": 9, "d": 1, "e": 6, "f": 0}
    assert list(in_chunks(sizes, 7)) == [["a", "b"], ["c"], ["d", "e", "f"]]
    assert list(in_chunks({}, 7)) == []


def test_nan_is_no_difference_to_nan_alone() -> None:
    empty = np.full((3, 2), np.nan, np.float32)
    assert distances(empty, empty).max() == 0
    assert distances(np.zeros((3, 2), np.float32), empty).min() == np.inf
