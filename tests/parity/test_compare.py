"""The comparison of an output with its reference follows the formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.parity.compare import compare_output
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
