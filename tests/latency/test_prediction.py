"""Where the next run's median falls."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekit.latency.prediction import prediction_interval, student_probability, student_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (7, 2.3646), (10, 2.2281), (29, 2.0452), (120, 1.9799)],
)
def test_the_quantiles_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(quantile, abs=5e-5)
    assert student_probability(quantile, degrees) == pytest.approx(0.975, abs=1e-5)
    assert student_probability(0.0, degrees) == 0.5


def test_the_interval_holds_the_next_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    runs = np.exp(rng.normal(1.0, 0.03, (4000, 6)))
    inside = [low <= run[5] <= high for run in runs for low, high in [prediction_interval(run[:5])]]
    assert 0.94 < np.mean(inside) < 0.96
    narrow = [prediction_interval(run[:5], 0.8) for run in runs]
    assert np.mean([low <= run[5] <= high for run, (low, high) in zip(runs, narrow, strict=True)]) < 0.83


def test_the_interval_is_wider_than_that_of_the_mean_and_has_the_unit_of_the_medians() -> None:
    medians = [1.0, 1.1, 1.05, 0.95]
    low, high = prediction_interval(medians)
    assert low < min(medians) < max(medians) < high
    assert prediction_interval([1000 * ms for ms in medians]) == pytest.approx((1000 * low, 1000 * high))
    assert low * high == pytest.approx(math.exp(2 * np.log(medians).mean()))
    assert prediction_interval([2.0, 2.0, 2.0]) == pytest.approx((2.0, 2.0))
