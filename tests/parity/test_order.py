"""Channels and samples in another order are told whatever a caller's tolerance is, and errors of any size are not."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.parity.callers import CallersBar
from edgekit.parity.compare import compare_output
from edgekit.parity.order import in_another_order
from edgekit.tensors import Array
from edgekit.tolerance import ScaleBar, Tolerance

REFERENCE = np.random.default_rng(0).standard_normal((40, 10))
REFERENCE[:, 0] += 9  # the class of every sample: no order of the others changes a top-1
WIDE = CallersBar(Tolerance(atol=0, rtol=0.9), 1.0, 2e-5, ScaleBar(2e-5))
SWAPPED = [0, 1, 5, 3, 4, 2, 6, 7, 8, 9]


def noise(share: float, seed: int = 1) -> Array:
    return np.asarray(share * np.abs(REFERENCE).max() * np.random.default_rng(seed).uniform(-1, 1, REFERENCE.shape))


def test_swapped_classes_that_are_never_the_largest_fail_by_name_within_a_wide_tolerance() -> None:
    diff = compare_output("y", REFERENCE[:, SWAPPED], REFERENCE, WIDE)
    assert (diff.top1, diff.max_abs < diff.limit) == (1, True)
    assert not diff.within(WIDE)
    pairs = "channel 2 is the reference's 5, 5 is the reference's 2"
    assert diff.beyond == f"{pairs}: another order, which no tolerance of numbers forgives"


@pytest.mark.parametrize("share", [1e-4, 1e-2, 0.1, 0.5])
def test_noise_of_any_size_is_no_other_order(share: float) -> None:
    assert all(in_another_order(REFERENCE + noise(share, seed), REFERENCE, 2e-5) == "" for seed in range(20))


@pytest.mark.parametrize("share", [0, 1e-3, 2e-2])
def test_swapped_classes_show_below_noise(share: float) -> None:
    assert in_another_order((REFERENCE + noise(share))[:, SWAPPED], REFERENCE, 2e-5).startswith("channel 2 is")


def test_samples_of_a_batch_that_changed_places_are_named() -> None:
    order = [*range(1, 40), 0]
    said = in_another_order(REFERENCE[order], REFERENCE, 2e-5)
    assert said.startswith("sample 0 is the reference's 1, 1 is the reference's 2, 2 is the reference's 3 and 37 more moved")


def test_a_channel_that_died_beside_a_dead_one_is_no_other_order() -> None:
    """Its zeros are those of the other one's reference, but that place is not taken in turn."""
    reference = REFERENCE.copy()
    reference[:, 3] = 0
    reference[:, 4] *= 1e-3
    output = reference.copy()
    output[:, 4] = 0
    assert in_another_order(output, reference, 2e-5) == ""


def test_channels_that_are_alike_may_be_either() -> None:
    reference = REFERENCE.copy()
    reference[:, 5] = reference[:, 2] * (1 + 1e-6)
    assert in_another_order(reference[:, SWAPPED], reference, 2e-5) == ""


def test_a_small_output_and_one_of_pictures_are_compared_as_far_as_they_tell() -> None:
    assert in_another_order(REFERENCE[:4, SWAPPED], REFERENCE[:4], 2e-5) == ""  # four numbers of a class tell little
    maps = np.random.default_rng(2).standard_normal((8, 5, 40, 40)) * np.array([1, 4, 5, 20, 90]).reshape(-1, 1, 1)
    assert in_another_order(maps[:, [0, 2, 1, 3, 4]], maps, 2e-5).startswith("channel 1 is the reference's 2")
    assert in_another_order(np.full_like(maps, np.nan), maps, 2e-5) == ""  # which fails by itself
