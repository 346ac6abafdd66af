"""Values inside a file are held to the fingerprints of the export: stored numbers to the last place, others to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.bundle.evidence import Fingerprint
from edgekit.parity.converted import FAR
from edgekit.parity.fingerprints import distances, statistics
from edgekit.parity.inside import Inside, limits_of, seen_inside

CODES = np.random.default_rng(0).integers(-127, 128, (64, 32, 3, 3)).astype(np.float32)
VALUES = np.random.default_rng(1).standard_normal((8, 6, 10, 10), np.float32)
RECORDED = {"w": Fingerprint(statistics(CODES, 32)), "c": Fingerprint(statistics(VALUES, 6))}
NODES = {"w": "DequantizeLinear w.dq", "c": "Conv conv"}


def nudged(values: np.ndarray[Any, Any], by: float) -> np.ndarray[Any, Any]:
    """The values, of which one is moved."""
    moved: np.ndarray[Any, Any] = values.copy()
    moved[3, 2, 1, 0] += by
    return moved


def share(values: dict[str, Any], seen: float = 0.0) -> float:
    limits = limits_of(RECORDED, {"w"}, {"c": np.full((3, 1), seen)})
    return Inside(RECORDED, limits, NODES).measured(values).share


def test_stored_numbers_are_held_to_the_last_place_in_which_fingerprints_are_recorded() -> None:
    assert share({"w": CODES}) == 0
    up = {"w": Fingerprint(np.nextafter(RECORDED["w"].statistics, np.float32(np.inf)))}  # another CPU sums in another order
    assert 0 < Inside(up, limits_of(up, {"w"}, {}), NODES).measured({"w": CODES}).share <= 1
    assert share({"w": nudged(CODES, 1)}) > 1  # one code of 18,432, by one


@pytest.mark.parametrize(("seen", "by", "held"), [(0.0, 1e-4, True), (0.0, 1e-2, False), (1e-5, 1e-2, True), (1e-5, 1.0, False)])
def test_other_values_are_held_to_four_times_what_rounding_does_to_them(seen: float, by: float, held: bool) -> None:
    assert (share({"c": nudged(VALUES, by)}, seen) <= 1) == held


def test_what_rounding_does_is_the_most_of_all_readings() -> None:
    readings = [{"c": nudged(VALUES, 0.1)}, {"c": nudged(VALUES, 1.0)}, {"c": VALUES}]
    seen = seen_inside({"c": VALUES}, readings, RECORDED)["c"]
    told = distances(statistics(readings[1]["c"], 6), statistics(VALUES, 6)).max(axis=1)
    assert seen[:, 0].tolist() == pytest.approx(told.tolist())
    assert seen.shape == (3, 1)


def test_the_first_value_that_is_off_is_named_and_the_worst_counts() -> None:
    limits = limits_of(RECORDED, {"w"}, {"c": np.zeros((3, 1))})
    measured = Inside(RECORDED, limits, NODES).measured({"c": VALUES * 2, "w": nudged(CODES, 1)})
    assert measured.beyond.startswith("what DequantizeLinear w.dq computes is ")
    assert measured.share == share({"c": VALUES * 2})


def test_a_recorded_value_that_the_file_does_not_compute_is_off_without_bound() -> None:
    """Nor does another name for it hide what it is."""
    measured = Inside(RECORDED, {}, {"c": "Conv conv"}).measured({})
    assert measured == (FAR, "it does not compute 'w', of which a fingerprint was recorded", None)


def test_a_value_without_a_limit_is_held_to_nothing_and_nan_is_no_difference_to_nan() -> None:
    assert Inside(RECORDED, limits_of(RECORDED, {"w"}, {}), NODES).measured({"w": CODES}).share == 0
    empty = np.full((3, 2), np.nan, np.float32)
    assert distances(empty, empty).max() == 0
    assert distances(np.zeros((3, 2), np.float32), empty).min() == np.inf
    unlimited = {"c": np.full((3, 1), np.inf)}
    assert Inside(RECORDED, unlimited, NODES).measured({"c": np.full_like(VALUES, np.nan)}).share == 0
