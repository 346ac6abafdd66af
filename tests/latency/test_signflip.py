"""The sign-flip test: its size, its bounds, and Holm's steps, each against its definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.latency.signflip import ALPHA, by_chance, fewest_pairs, holm, lower_bound, p_value, upper_bound
from edgekit.latency.statistics import Vector

steps = st.integers(-200, 200).map(lambda step: step / 1024)  # sums of these are exact
pairs = st.lists(steps, min_size=1, max_size=9).map(np.asarray)
eight = st.lists(steps, min_size=8, max_size=8).map(np.asarray)


def p_by_definition(logs: Vector, shift: float) -> float:
    """All patterns of signs, one by one."""
    centred = logs - shift
    sums = [float(np.dot(signs, centred)) for signs in itertools.product((1, -1), repeat=len(logs))]
    return sum(total >= float(centred.sum()) - 1e-9 for total in sums) / len(sums)


@given(pairs, steps)
@settings(deadline=None)
def test_the_p_value_is_the_share_of_sign_patterns_with_a_sum_as_large(logs: Vector, shift: float) -> None:
    assert p_value(logs, shift) == p_by_definition(logs, shift)


@given(eight, st.sampled_from([0.01, 0.05, 0.3]))
@settings(deadline=None)
def test_the_size_of_the_test_is_at_most_its_level_whatever_the_magnitudes(logs: Vector, alpha: float) -> None:
    """Given the magnitudes, alike things show each pattern of signs as often: of all patterns at most alpha are rejected."""
    magnitudes = np.abs(logs)
    patterns = [magnitudes * np.asarray(signs) for signs in itertools.product((1, -1), repeat=len(logs))]
    rejected = sum(p_value(pattern) <= alpha for pattern in patterns) / len(patterns)
    assert rejected <= alpha
    if len(set(magnitudes)) == 8 and magnitudes.min() > 0 and alpha == 0.01:
        assert rejected > 0  # it can reject


@given(eight, steps)
@settings(deadline=None)
def test_the_bounds_are_the_test_turned_round(logs: Vector, shift: float) -> None:
    low, high = lower_bound(logs), upper_bound(logs)
    assert (p_value(logs, shift) <= ALPHA) == (shift < low - 1e-12)
    assert (p_value(-logs, -shift) <= ALPHA) == (shift > high + 1e-12)
    assert low <= np.median(logs) <= high
    assert low <= logs.mean() <= high


@given(eight, steps)
@settings(deadline=None)
def test_the_bounds_move_with_what_is_measured(logs: Vector, shift: float) -> None:
    assert lower_bound(logs + shift) == pytest.approx(lower_bound(logs) + shift, abs=1e-9)
    assert upper_bound(-logs) == pytest.approx(-lower_bound(logs), abs=1e-9)
    assert p_value(logs, shift) == p_value(logs - shift)


def test_pairs_that_all_agree_are_decided_from_seven_on() -> None:
    agreeing = np.full(fewest_pairs(), 0.2)
    assert p_value(agreeing) == 1 / 128 < ALPHA
    assert p_value(agreeing[1:]) > ALPHA
    assert lower_bound(agreeing) == pytest.approx(0.2)
    assert (lower_bound(agreeing[1:]), upper_bound(agreeing[1:])) == (-math.inf, math.inf)


def test_the_bounds_of_eight_pairs_are_the_means_of_the_two_at_either_end() -> None:
    logs = np.array([0.01, 0.02, 0.03, 0.05, 0.08, 0.13, 0.21, 0.34])
    assert (lower_bound(logs), upper_bound(logs)) == pytest.approx((0.015, 0.275))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = 0.04 + 0.02 * rng.standard_t(3, (2000, 8))  # heavy tails, which a t test would not like
    above = np.mean([lower_bound(logs) > 0.04 for logs in samples])
    assert above <= ALPHA + 0.005
    assert np.mean([lower_bound(logs) > 0.0 for logs in samples]) > 10 * ALPHA  # a bound that is not true is left behind


@given(eight)
@settings(deadline=None)
def test_the_floor_is_what_chance_exceeds_once_in_a_hundred(logs: Vector) -> None:
    floor = by_chance(logs)
    means = [float(np.mean(signs * np.abs(logs))) for signs in itertools.product((1, -1), repeat=8)]
    assert np.mean(np.asarray(means) > floor + 1e-12) <= ALPHA
    assert np.mean(np.asarray(means) >= floor - 1e-12) > ALPHA
    assert by_chance(-logs) == floor
    assert by_chance(2 * logs) == pytest.approx(2 * floor)


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=6).map(np.asarray))
def test_holm_rejects_what_its_steps_reject(values: Vector) -> None:
    adjusted, rejected = holm(values), set[int]()
    for step, index in enumerate(np.argsort(values, kind="stable")):
        if values[index] * (len(values) - step) >= ALPHA:
            break
        rejected.add(int(index))
    assert {index for index, value in enumerate(adjusted) if value < ALPHA} == rejected
    assert (adjusted >= values).all()


def test_holm_of_two_is_stricter_than_each_alone() -> None:
    assert holm(np.array([0.004, 0.03])) == pytest.approx([0.008, 0.03])
    assert holm(np.array([0.03, 0.006])) == pytest.approx([0.03, 0.012])
    assert holm(np.array([0.006])) == pytest.approx([0.006])
