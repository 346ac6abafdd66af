"""Accuracy of runtimes on a labelled set: the paired test has its textbook values, and answers follow their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.accuracy import exact_p, paired, paired_interval
from edgekit.backends.fake import FakeSession
from edgekit.parity.accuracy import NO_CLASS, answers, confusion, order_of, outputs_of
from edgekit.tensors import Feed, TensorSpec


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (10, 2, 0.03857421875), (8, 8, 1.0), (3, 7, 0.34375)],
)
def test_p_is_that_of_mcnemars_exact_test(b: int, c: int, p: float) -> None:
    assert exact_p(b, c) == pytest.approx(p, rel=1e-12)
    assert exact_p(c, b) == exact_p(b, c)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_p_is_the_sum_of_binomial_probabilities(b: int, c: int) -> None:
    total = b + c
    tail = sum(math.comb(total, k) for k in range(min(b, c) + 1)) / 2**total
    assert exact_p(b, c) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_p_of_many_pictures_is_finite() -> None:
    assert 0 < exact_p(4800, 5200) < 1e-4


def test_the_difference_is_the_seconds_accuracy_less_the_firsts_with_its_interval() -> None:
    first = np.array([True] * 90 + [False] * 10)
    second = np.array([False] * 8 + [True] * 84 + [False] * 8)
    test = paired(first, second)
    assert (test.n, test.only_first, test.only_second) == (100, 8, 2)
    assert test.difference == pytest.approx(second.mean() - first.mean()) == pytest.approx(-0.06)
    assert (test.low, test.high) == paired_interval(82, 2, 8, 8)
    assert test.low < test.difference < test.high
    assert not test.decided


def test_a_difference_that_is_large_enough_is_decided_and_equal_answers_have_none() -> None:
    right = np.ones(1000, bool)
    worse = right.copy()
    worse[:20] = False
    assert paired(right, worse).decided
    same = paired(worse, worse.copy())
    assert (same.difference, same.p, same.decided) == (0, 1, False)
    assert same.low < 0 < same.high  # what no picture shows may still be


@pytest.mark.parametrize(
    ("cells", "interval"),
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((20, 12, 2, 16), (0.0562, 0.3292)),
        ((18, 12, 2, 18), (0.0562, 0.3290)),
        ((36, 14, 0, 0), (0.1528, 0.4167)),
        ((35, 14, 0, 1), (0.1461, 0.4175)),
        ((18, 14, 0, 18), (0.1441, 0.3963)),
        ((2, 97, 1, 0), (0.8721, 0.9854)),
        ((0, 30, 0, 0), (0.8395, 1.0)),
        ((54, 0, 0, 0), (-0.0664, 0.0664)),
        ((30, 0, 0, 24), (-0.0358, 0.0358)),
    ],
)
def test_the_interval_of_a_paired_difference_is_newcombes(
    cells: tuple[int, int, int, int], interval: tuple[float, float]
) -> None:
    """Newcombe 1998, table III, method 10: both, the first alone, the second alone, neither."""
    assert paired_interval(*cells) == pytest.approx(interval, abs=5.1e-5)


CELLS = st.tuples(*[st.integers(0, 300)] * 4).filter(any)


@settings(deadline=None)
@given(CELLS)
def test_an_interval_has_a_width_holds_what_was_seen_and_turns_with_the_sides(cells: tuple[int, int, int, int]) -> None:
    both, first, second, neither = cells
    low, high = paired_interval(*cells)
    difference = (first - second) / sum(cells)
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1
    assert high - low > 1 / sum(cells)
    swapped = paired_interval(both, second, first, neither)
    assert swapped == pytest.approx((-high, -low), abs=1e-12)
    assert paired_interval(neither, first, second, both) == pytest.approx((low, high), abs=1e-12)  # of what is wrong


@settings(deadline=None)
@given(CELLS, st.integers(2, 50))
def test_more_pictures_alike_narrow_an_interval(cells: tuple[int, int, int, int], times: int) -> None:
    low, high = paired_interval(*cells)
    low_of_more, high_of_more = paired_interval(*(times * count for count in cells))
    assert high_of_more - low_of_more < high - low


def test_an_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    """Also where flips are so rare that many samples have none: there the usual interval, of no width, holds it in few."""
    dice, n = np.random.default_rng(0), 1000
    for both, first, second in ((0.90, 0.001, 0.002), (0.90, 0.0, 0.002), (0.6, 0.05, 0.1)):
        drawn = dice.multinomial(n, (both, first, second, 1 - both - first - second), 2000)
        intervals = np.array([paired_interval(*map(int, cells)) for cells in drawn])
        held = np.mean((intervals[:, 0] <= first - second) & (first - second <= intervals[:, 1]))
        assert held > 0.93, (both, first, second)


def test_answers_are_the_largest_output_its_softmax_and_whether_the_label_is_among_five() -> None:
    logits = np.array([[0.0, 1, 2, 3, 4, 5], [9, 0, 0, 0, 0, 0]], np.float32)
    meaning = answers(logits, np.array([0, 0]), probabilities=False)
    assert meaning.predicted.tolist() == [5, 0]
    assert meaning.in_top.tolist() == [False, True]  # five outputs are larger than the first picture's
    powers = np.exp(logits[0].astype(np.float64))
    assert meaning.confidence[0] == pytest.approx(powers[5] / powers.sum())
    own = answers(np.array([[0.25, 0.75]]), np.array([1]), probabilities=True)
    assert own.confidence[0] == 0.75


def test_outputs_that_are_not_finite_are_right_about_nothing() -> None:
    meaning = answers(np.array([[np.nan, 1.0], [np.inf, 0.0]]), np.array([1, 1]), probabilities=False)
    assert meaning.predicted.tolist() == [NO_CLASS, NO_CLASS]
    assert meaning.confidence.tolist() == [0, 0]
    assert not meaning.in_top.any()


def test_confusion_counts_what_each_class_is_taken_for() -> None:
    assert confusion(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2]), 3) == ((1, 1, 0), (0, 1, 0), (0, 0, 1))
    assert confusion(np.array([NO_CLASS, 1]), np.array([1, 1]), 2) == ((0, 0), (0, 1))


@pytest.mark.parametrize(("batch", "sizes"), [("batch", [5]), (2, [2, 2, 2])])
def test_a_session_is_given_batches_that_it_takes(batch: str | int, sizes: list[int]) -> None:
    seen = []

    def function(feed: Feed) -> dict[str, np.ndarray]:
        seen.append(len(feed["x"]))
        return {"y": feed["x"] * 2}

    session = FakeSession(function, (TensorSpec("x", "float32", (batch, 3)),), (TensorSpec("y", "float32", (batch, 3)),))
    inputs = np.arange(15, dtype=np.float32).reshape(5, 3)
    np.testing.assert_array_equal(outputs_of(session, "x", inputs, "y"), inputs * 2)
    assert seen == sizes


def test_classes_are_found_by_name_then_without_case_and_an_unknown_one_is_named() -> None:
    assert order_of(["b", "a"], ["a", "b", "c"]) == [1, 0]
    assert order_of(["Cat"], ["dog", "cat"]) == [1]
    assert order_of(["A", "a"], ["a", "A"]) == [1, 0]
    assert order_of(["a", "bird"], ["a", "b"]) == "bird"
    assert order_of(["a_b", "c"], ["a b", "a/b", "c"]) == "a_b"


def test_labels_that_no_folder_can_be_called_are_found_by_their_spelling_or_number() -> None:
    labels = ["T-shirt/top", "Ankle boot"]
    assert order_of(["T-shirt_top", "Ankle boot"], labels) == [0, 1]
    assert order_of(["ankle_boot", "t-shirt top"], labels) == [1, 0]
    assert order_of(["1", "0"], labels) == [1, 0]


def test_an_infinite_number_that_masks_a_class_is_no_loss() -> None:
    masked = answers(np.array([[-np.inf, 1.0, 0.0]]), np.array([1]), probabilities=False)
    assert masked.predicted.tolist() == [1]
    assert masked.confidence[0] == pytest.approx(np.e / (1 + np.e))
    assert masked.in_top.tolist() == [True]
