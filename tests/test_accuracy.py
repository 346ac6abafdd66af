"""Accuracy over all pictures, per class, and balanced."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.accuracy import accuracy_of, majority_share, share_interval

LABELS = np.array([0] * 6 + [1] * 2 + [3] * 2)


def test_every_class_counts_the_same_in_balanced_accuracy() -> None:
    predictions = np.array([0] * 6 + [1, 0] + [0, 0])
    reached = accuracy_of(predictions, LABELS, 4)
    assert reached.overall == pytest.approx(0.7)
    assert reached.per_class == (1.0, 0.5, None, 0.0)
    assert reached.balanced == pytest.approx(0.5)


def test_naming_always_the_majority_is_no_better_than_chance_when_balanced() -> None:
    labels = np.array([0] * 95 + [1] * 5)
    reached = accuracy_of(np.zeros(100, np.int64), labels, 2)
    assert reached.overall == pytest.approx(0.95)
    assert majority_share(labels) == pytest.approx(0.95)
    assert reached.balanced == pytest.approx(0.5)


def test_a_class_that_is_only_predicted_has_no_accuracy() -> None:
    assert accuracy_of(np.array([2, 0]), np.array([0, 0]), 3).per_class == (0.5, None, None)


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0)],  # Newcombe 1998, method 3
)
def test_the_interval_of_a_share_is_wilsons(share: float, n: int, low: float, high: float) -> None:
    assert share_interval(share, n) == pytest.approx((low, high), abs=5e-5)
