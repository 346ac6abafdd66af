"""The noise floor is the largest error that any right way of running gives, for each part and channel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgekit.parity.noise import Outcome, carried, jittered, noise_of, some_of_each_part
from edgekit.tensors import Array

REFERENCE = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
EVERY = np.arange(3)


def test_a_floor_is_the_largest_error_of_any_run_for_each_part_and_channel() -> None:
    first, second = REFERENCE.copy(), REFERENCE.copy()
    first[0, 0] += 0.25
    second[1, 0] -= 0.5
    second[2, 1] += 0.125
    noise = noise_of({"y": REFERENCE}, [2, 1], [Outcome(EVERY, {"y": first}), Outcome(EVERY, {"y": second})])
    assert noise.floors["y"].tolist() == [[0.5, 0.0], [0.0, 0.125]]
    assert (noise.axes, noise.runs) == ({"y": 1}, 2)


def test_a_run_of_some_samples_counts_for_the_parts_that_they_are_of() -> None:
    outcome = Outcome(np.array([2]), {"y": REFERENCE[[2]] + 1})
    assert noise_of({"y": REFERENCE}, [2, 1], [outcome]).floors["y"].tolist() == [[0, 0], [1, 1]]


def test_a_value_that_is_not_finite_is_no_noise() -> None:
    broken = np.full_like(REFERENCE, np.nan)
    assert not noise_of({"y": REFERENCE}, [3], [Outcome(EVERY, {"y": broken})]).floors["y"].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_jitter_moves_every_float_by_one_unit_in_the_last_place(dtype: type) -> None:
    x: np.ndarray = np.linspace(-3, 3, 101, dtype=dtype)
    moved = jittered({"x": x, "index": np.arange(3)}, seed=1)
    up, down = np.nextafter(x, dtype(np.inf)), np.nextafter(x, dtype(-np.inf))
    assert moved["x"].dtype == dtype
    assert ((moved["x"] == up) | (moved["x"] == down)).all()
    assert (moved["x"] == up).any()
    assert (moved["x"] == down).any()
    assert moved["index"].tolist() == [0, 1, 2]
    other = jittered({"x": x}, seed=1, units=-1)["x"]
    assert (other == np.where(moved["x"] == up, down, up)).all()


@pytest.mark.parametrize(
    ("dtype", "units", "most"),
    [(np.float32, 64, 2**-16), (np.float64, 64, 2**-16), (np.float16, 64, 2**-9), (np.float16, 2**14, 2**-8)],
)
def test_units_of_float32_move_every_dtype_by_as_much_or_by_one_unit_of_its_own(dtype: type, units: int, most: float) -> None:
    x: np.ndarray = np.array([-3.0, 0.7, 1.0, np.inf], dtype)
    moved = [jittered({"x": x}, 1, way, np.float32)["x"] for way in (units, -units)]
    for one in moved:
        share = np.abs(one[:3].astype(np.float64) - x[:3]) / np.abs(x[:3])
        assert ((most / 8 < share) & (share <= most)).all()
        assert np.isinf(one[3])
    assert ((moved[0] > x) == (moved[1] < x)).all()


@pytest.mark.parametrize(("sizes", "most", "expected"), [([4, 2], 6, range(6)), ([64, 16, 1], 8, None), ([1, 1], 1, [0, 1])])
def test_some_samples_of_each_part_are_taken(sizes: list[int], most: int, expected: object) -> None:
    chosen = some_of_each_part(sizes, most)
    starts = np.cumsum([0, *sizes])
    for start, stop in itertools.pairwise(starts):
        assert ((chosen >= start) & (chosen < stop)).any()
    assert len(chosen) <= max(most, len(sizes))
    if expected is not None:
        assert chosen.tolist() == list(expected)  # type: ignore[call-overload]


def test_as_many_values_are_carried_to_the_next_number_of_16_bits_as_their_own_units_carry_there() -> None:
    feed: dict[str, Array] = {"x": np.linspace(1, 2, 1 << 16, dtype=np.float32), "index": np.arange(1 << 16)}
    before = feed["x"].astype(np.float16)
    moved = carried(feed, 0, 64)
    assert moved["index"] is feed["index"]
    off = moved["x"].astype(np.float16) != before
    assert off.mean() == pytest.approx(64 / (1 << 13), rel=0.1)
    assert set(np.abs(np.diff([moved["x"].view(np.int32), feed["x"].view(np.int32)], axis=0)).ravel()) == {0, 1 << 13}
    other = carried(feed, 0, -64)["x"]
    assert ((other > feed["x"]) == (moved["x"] < feed["x"])).all()  # the other way
