"""The comparison of an output with its reference follows the formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.parity.compare import MOST_COUNTED, compare_output
from edgekit.reports.verify import ERROR_BOUNDS
from edgekit.tensors import normalised_error
from edgekit.tolerance import Tolerance

Array = np.ndarray[Any, Any]

FINITE = st.floats(-1e6, 1e6, width=32)
PAIRS = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.float32, shape, elements=FINITE), hnp.arrays(np.float64, shape, elements=FINITE))
)
TOLERANCES = st.builds(Tolerance, st.floats(0, 10), st.floats(0, 1, exclude_max=True), st.floats(0, 1))


@settings(deadline=None)
@given(PAIRS, TOLERANCES)
def test_the_verdict_is_the_formula(pair: tuple[Array, Array], tolerance: Tolerance) -> None:
    output, reference = pair
    diff = compare_output("y", output, reference, tolerance)
    scale = np.abs(reference).max()
    worst = np.abs(output.astype(np.float64) - reference).max()
    assert diff.limit == tolerance.atol + tolerance.rtol * scale
    assert diff.max_abs == worst
    assert diff.normalised == (worst / scale if scale else worst) == normalised_error(output, reference)
    behind = reference.max(1) - reference[np.arange(len(reference)), output.argmax(1)]
    agreed = reference.shape[1] == 1 or (behind <= 1e-6 * scale).mean() >= tolerance.top1
    assert diff.within(tolerance) == (worst <= diff.limit and agreed)


@settings(deadline=None)
@given(PAIRS, st.integers(-8, 8))
def test_the_normalised_error_does_not_depend_on_the_scale(pair: tuple[Array, Array], exponent: int) -> None:
    output, reference = (array.astype(np.float64) for array in pair)
    factor = 2.0**exponent
    if np.abs(reference).max() == 0:
        return
    plain = compare_output("y", output, reference, Tolerance(atol=0))
    scaled = compare_output("y", output * factor, reference * factor, Tolerance(atol=0))
    assert scaled.normalised == pytest.approx(plain.normalised, rel=1e-12)
    assert scaled.within(Tolerance(atol=0)) == plain.within(Tolerance(atol=0))


@settings(deadline=None)
@given(PAIRS)
def test_an_output_always_passes_against_itself(pair: tuple[Array, Array]) -> None:
    reference = pair[1]
    assert compare_output("y", reference.copy(), reference, Tolerance(atol=0, rtol=0)).within(Tolerance(atol=0, rtol=0))


def test_every_place_is_counted_by_its_error_of_scale() -> None:
    reference = np.full((4, 5), 2.0)
    output = reference.copy()
    output[0, :3] += 2.4e-3  # 1.2e-3 of the scale
    output[1, 0] -= 2.4e-8
    output[2, 0] += 20
    counts = compare_output("y", output, reference, Tolerance()).histogram
    assert len(counts) == len(ERROR_BOUNDS) + 1
    assert sum(counts) == reference.size
    assert counts[0] == 15  # no error at all
    places = [place for place, count in enumerate(counts) if count]
    assert [counts[place] for place in places] == [15, 1, 3, 1]
    for place, error in zip(places[1:], (1.2e-8, 1.2e-3, 10.0), strict=True):
        assert ERROR_BOUNDS[place - 1] <= error
        assert place == len(ERROR_BOUNDS) or error < ERROR_BOUNDS[place]


def test_a_large_output_is_counted_at_evenly_spread_places() -> None:
    reference = np.ones(3 * MOST_COUNTED + 1)
    output = reference.copy()
    output[: len(output) // 2] += 1e-5
    counts = compare_output("y", output, reference, Tolerance()).histogram
    assert MOST_COUNTED / 2 <= sum(counts) <= MOST_COUNTED
    assert counts[0] / sum(counts) == pytest.approx(0.5, abs=1e-3)


def test_an_output_that_is_not_finite_has_no_histogram() -> None:
    assert compare_output("y", np.array([[np.nan, 1.0]]), np.ones((1, 2)), Tolerance()).histogram == ()
