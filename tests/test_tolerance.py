"""Bars: the noise bar is its formula, and each part of it can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.parity.compare import compare_output
from edgekit.tolerance import EPSILON, NoiseBar, ScaleBar, Tolerance, apart, channel_axis, widest_rtol

REFERENCE = np.array([[1.0, -100.0], [2.0, 50.0], [-4.0, 1000.0], [3.0, 900.0]])
FLOORS = np.array([[1e-6, 1e-5], [1e-6, 1e-4]])
BAR = NoiseBar(FLOORS, (2, 2), 1, 4, 2e-5)


def test_the_limits_are_the_formula_for_each_part_and_channel() -> None:
    first = [4 * max(1e-6, EPSILON * 2), 4 * max(1e-5, EPSILON * 100)]
    second = [4 * max(1e-6, EPSILON * 4), 4 * max(1e-4, EPSILON * 1000)]
    np.testing.assert_allclose(BAR.limits(REFERENCE), [first, first, second, second], rtol=1e-12)


def test_no_channel_is_allowed_more_than_a_share_of_its_parts_scale() -> None:
    wide = NoiseBar(np.full((2, 2), np.inf), (2, 2), 1, 4, 2e-5)
    np.testing.assert_allclose(wide.limits(REFERENCE), np.repeat([[100], [1000]], 2, axis=0) * 2e-5 * np.ones((1, 2)))


@pytest.mark.parametrize(("sample", "channel"), [(0, 0), (1, 1), (2, 0), (3, 1)])
def test_an_error_passes_up_to_its_own_channels_limit_and_fails_beyond(sample: int, channel: int) -> None:
    limit = BAR.limits(REFERENCE)[sample, channel]
    for factor, passes in ((0.99, True), (1.01, False)):
        output = REFERENCE.copy()
        output[sample, channel] += factor * limit
        diff = compare_output("y", output, REFERENCE, BAR)
        assert diff.within(BAR) is passes
        assert diff.of_limit == pytest.approx(factor, rel=1e-6)
        assert diff.worst == (sample, channel)


def test_an_output_far_below_the_scale_is_held_to_its_own_channel() -> None:
    """The partner: today's absolute tolerance lets zeros pass where the outputs are 1e-7."""
    reference = np.array([[1e-7, 1.0], [-2e-7, 1.0]])
    zeroed = reference * [0, 1]
    assert compare_output("y", zeroed, reference, Tolerance()).within(Tolerance())
    bar = NoiseBar(np.zeros((1, 2)), (2,), 1, 16, 2e-5)
    assert not compare_output("y", zeroed, reference, bar).within(bar)


def test_scores_beside_boxes_are_held_to_their_own_scale_along_whichever_axis_they_are() -> None:
    boxes_and_scores = np.concatenate([np.full((2, 4, 50), 640.0), np.linspace(0, 1, 300).reshape(2, 3, 50)], axis=1)
    for reference, axis in ((boxes_and_scores, 1), (boxes_and_scores.transpose(0, 2, 1), 2)):
        assert channel_axis(reference) == axis
        bar = NoiseBar(np.zeros((1, reference.shape[axis])), (2,), axis, 16, 2e-5)
        off = reference + 0.0075 * (reference <= 1)
        assert not compare_output("y", off, reference, bar).within(bar)
        assert compare_output("y", off, reference, Tolerance()).within(Tolerance())


@settings(deadline=None)
@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(-1e3, 1e3, width=32)), st.integers(-20, 20))
def test_the_noise_bar_scales_with_outputs_and_floors(reference: np.ndarray, exponent: int) -> None:
    factor = 2.0**exponent
    floors = np.array([[1e-3, 1e-4, 1e-5]])
    plain = NoiseBar(floors, (4,), 1, 4, 2e-5).limits(reference)
    scaled = NoiseBar(floors * factor, (4,), 1, 4, 2e-5).limits(reference * factor)
    np.testing.assert_allclose(scaled, plain * factor, rtol=1e-12)


def test_equal_infinities_agree_and_others_do_not() -> None:
    reference = np.array([[np.inf, 1.0], [-np.inf, 2.0]])
    for bar in (Tolerance(), ScaleBar(1e-3)):
        assert compare_output("y", reference.copy(), reference, bar).within(bar)
        assert not compare_output("y", -reference, reference, bar).within(bar)
        assert not compare_output("y", np.where(np.isinf(reference), 3.0, reference), reference, bar).within(bar)


def test_classes_nearer_than_the_bar_tie_and_others_do_not() -> None:
    reference = np.array([[1.0, 1.0 + 1e-5, 0.0]] * 8)
    output = np.array([[1.0 + 1e-5, 1.0, 0.0]] * 8)
    near = ScaleBar(1e-4)
    diff = compare_output("y", output, reference, near)
    assert (diff.top1, diff.flips) == (1.0, 8)
    assert diff.margin == pytest.approx(1e-5, rel=1e-3)
    assert compare_output("y", output, reference, Tolerance()).top1 == 0


@pytest.mark.parametrize(("precision", "rtol"), [("float32", 2e-5), ("float64", 2e-5), ("float16", 2e-2), ("anything", 2e-5)])
def test_how_wide_a_bar_a_bundle_may_ask_for_depends_on_the_precision(precision: str, rtol: float) -> None:
    assert widest_rtol(precision) == rtol


def test_the_metrics_are_their_formulas() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 1.0]])
    output = reference + np.array([[0.0, 0.3], [-0.1, 0.0]])
    diff = compare_output("y", output, reference, Tolerance(atol=1, rtol=0))
    assert diff.max_abs == pytest.approx(0.3)
    assert diff.mean_abs == pytest.approx(0.1)
    assert diff.snr_db == pytest.approx(10 * np.log10(26 / 0.1))
    assert diff.normalised == pytest.approx(0.075)
    assert compare_output("y", reference.copy(), reference, Tolerance()).snr_db is None


def test_top5_is_the_share_of_samples_whose_class_is_among_the_first_five() -> None:
    reference = np.eye(8)[:4]
    output = np.tile(np.arange(8.0), (4, 1))  # its five largest are the classes 3 to 7
    assert compare_output("y", output, reference, Tolerance()).top5 == 0.25


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ((0.12, 0.09, 2), ("0.12", "0.09")),
        ((0.0901, 0.09, 2), ("0.0901", "0.09")),
        ((31.38, 31.41, 1, "f"), ("31.38", "31.41")),
        ((0.97, 0.971, 2, "%"), ("97.00%", "97.10%")),
        ((0.97099, 0.971, 2, "%"), ("97.099%", "97.100%")),
        ((1.0, 1.0, 2), ("1", "1")),
    ],
)
def test_a_figure_and_its_bar_are_told_with_the_digits_that_tell_them_apart(given: Any, texts: tuple[str, str]) -> None:
    assert apart(*given) == texts
