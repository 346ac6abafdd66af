"""The bar of a converted file: noise as a whole on the first part, steps from its own outputs on all, and each can fail."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekit.parity.compare import compare_output
from edgekit.parity.converted import FAR, STEPS, ConvertedBar, usual_steps
from edgekit.tensors import Array, snr_db
from edgekit.tolerance import TIE

RNG = np.random.default_rng(3)
REFERENCE = RNG.standard_normal((40, 10)) * 4
OWN = (REFERENCE + 0.1 * RNG.standard_normal(REFERENCE.shape)).astype(np.float32)
OWN[30:] = np.clip(OWN[30:], -2, 2)  # the second part saturates
SIZES = (30, 10)
BAR = ConvertedBar(0.2, 30, SIZES, OWN, 25.0, 3.0, TIE / 2, top1=0.9)


def test_a_file_that_saturates_where_nothing_calibrated_it_passes_as_it_was_recorded() -> None:
    diff = compare_output("y", OWN.copy(), REFERENCE, BAR)
    assert diff.within(BAR)
    assert diff.beyond == ""
    assert diff.own_steps == 0
    assert diff.snr_db is not None
    assert diff.snr_db == pytest.approx(snr_db(OWN[:30] - REFERENCE[:30], REFERENCE[:30]))
    assert diff.of_limit == pytest.approx(max(10 ** ((25 - diff.snr_db) / 20), diff.max_abs / diff.limit))


def test_without_steps_every_part_is_held_against_the_reference_by_its_own_scale() -> None:
    reference, near = REFERENCE.copy(), REFERENCE + 0.1
    reference[30:] /= 100
    near[30:] = reference[30:] + 0.1 / 100
    bar = ConvertedBar(0.02, 40, SIZES, near, 25.0, None, TIE / 2, top1=0.0)
    diff = compare_output("y", near, reference, bar)
    assert diff.within(bar)
    far = near.copy()
    far[35] += 0.1  # far beyond its part's scale, and nothing beside the first part's
    assert not compare_output("y", far, reference, bar._replace(own=far)).within(bar)
    assert compare_output("y", far, reference, bar._replace(own=far, against=30)).within(bar)


def test_noise_beyond_the_ratio_asked_fails_with_both_ratios() -> None:
    noisy = REFERENCE + np.random.default_rng(5).standard_normal(REFERENCE.shape) * 0.4
    bar = BAR._replace(rtol=0.5, own=noisy, top1=0.5)
    diff = compare_output("y", noisy, REFERENCE, bar)
    assert not diff.within(bar)
    assert diff.snr_db is not None
    assert diff.of_limit == pytest.approx(10 ** ((25 - diff.snr_db) / 20))
    assert diff.beyond == f"SNR {diff.snr_db:.1f} dB, 25.0 dB are asked"
    assert compare_output("y", noisy, REFERENCE, bar._replace(snr_db=diff.snr_db)).of_limit == pytest.approx(1)
    assert compare_output("y", noisy, REFERENCE, bar._replace(snr_db=None)).within(bar)


def test_a_figure_that_just_misses_its_bar_is_told_with_the_digits_that_tell_them_apart() -> None:
    snr = snr_db(OWN[:30] - REFERENCE[:30], REFERENCE[:30])
    diff = compare_output("y", OWN, REFERENCE, BAR._replace(snr_db=snr + 0.004))
    assert diff.beyond == f"SNR {snr:.3f} dB, {snr + 0.004:.3f} dB are asked"
    output = OWN.copy()
    output[0, 0] += 2 * np.abs(OWN[:30]).max() / STEPS
    diff = compare_output("y", output, REFERENCE, BAR._replace(steps=1.9995))
    assert diff.own_steps == pytest.approx(2, rel=1e-5)
    assert diff.beyond == "2 steps from its own recorded output, 1.9995 are allowed"


@pytest.mark.parametrize("sample", [0, 35])
def test_steps_from_its_own_output_fail_on_every_part_by_the_parts_scale(sample: int) -> None:
    place = np.unravel_index(np.abs(OWN[sample]).argmin(), OWN[sample].shape)
    scale = float(np.abs(OWN[:30] if sample < 30 else OWN[30:]).max())

    def off(steps: float) -> Array:
        output = OWN.astype(np.float64)
        output[sample][place] += steps * scale / STEPS
        return output

    near, far = (compare_output("y", off(steps), REFERENCE, BAR._replace(snr_db=None)) for steps in (2.9, 9.4))
    assert near.within(BAR)
    assert near.own_steps == pytest.approx(2.9)
    assert not far.within(BAR)
    assert far.of_limit == pytest.approx(9.4 / 3)
    assert far.beyond == "9.4 steps from its own recorded output, 3 are allowed"


def test_one_element_beyond_its_share_of_the_scale_fails_although_the_noise_is_small() -> None:
    bar = BAR._replace(rtol=0.01, snr_db=10.0)
    diff = compare_output("y", OWN.copy(), REFERENCE, bar)
    assert not diff.within(bar)
    assert diff.beyond == ""
    assert diff.of_limit == pytest.approx(diff.max_abs / (0.01 * np.abs(REFERENCE[:30]).max()))


def test_a_clear_class_that_flips_counts_although_a_wide_bar_allows_the_distance() -> None:
    reference = np.tile([1.0, 0.9, -1.0], (20, 1))
    output = reference.copy()
    output[:3, 1] = 1.05
    bar = ConvertedBar(0.2, 20, (20,), output, 10.0, 3.0, TIE / 2, top1=0.9)
    diff = compare_output("y", output, reference, bar)
    assert (diff.of_limit <= 1, diff.top1, diff.flips) == (True, 0.85, 3)
    assert not diff.within(bar)
    assert compare_output("y", output, reference, bar._replace(tie=0.1)).top1 == 1
    reference[:, 1] = 1 - TIE / 2
    assert compare_output("y", output, reference, bar).top1 == 1


def test_an_output_that_is_not_finite_fails_on_any_part_unless_it_was_recorded_so() -> None:
    for sample in (0, 35):
        output = OWN.copy()
        output[sample, 0] = np.inf
        diff = compare_output("y", output, REFERENCE, BAR)
        assert not diff.within(BAR)
        assert diff.of_limit == FAR
    assert diff.beyond == "it is not finite, or not zero, where its own recorded output is"
    assert compare_output("y", output, REFERENCE, BAR._replace(own=output)).within(BAR)


@pytest.mark.parametrize("allowed", [{"steps": 0.0}, {"typical_steps": 0.0}])
def test_where_no_step_is_allowed_the_recorded_output_passes_and_no_other(allowed: dict[str, float]) -> None:
    bar = BAR._replace(**allowed, snr_db=None)  # type: ignore[arg-type]
    assert compare_output("y", OWN.copy(), REFERENCE, bar).within(bar)
    moved = compare_output("y", OWN + 1e-3, REFERENCE, bar)
    assert (moved.within(bar), moved.of_limit) == (False, FAR)


def test_the_ratio_is_infinite_without_noise_and_minus_infinite_without_signal() -> None:
    assert snr_db(np.zeros(3), np.ones(3)) == math.inf
    assert snr_db(np.ones(3), np.zeros(3)) == -math.inf
    assert snr_db(np.full(4, 0.1), np.ones(4)) == pytest.approx(20)


@pytest.mark.parametrize(("share", "passing"), [(0.2, True), (0.3, False)])
def test_rounding_moves_a_few_samples_and_a_changed_weight_more_than_a_quarter(share: float, passing: bool) -> None:
    """Each moved sample is off by one step, which any single one may be."""
    moved = OWN.astype(np.float64)
    for part in (moved[:30], moved[30:]):
        count = round(share * len(part))
        part[:count, 0] += np.abs(part).max() / STEPS
    bar = BAR._replace(typical_steps=0.15, rtol=0.9, snr_db=None, top1=0.0)
    diff = compare_output("y", moved, REFERENCE, bar)
    assert diff.within(bar) == passing
    assert passing or diff.beyond.startswith("a quarter of the samples are ")
    assert passing or diff.beyond.endswith("steps from its own recorded output, 0.15 are allowed")


def test_the_usual_sample_is_one_that_three_of_four_are_nearer_than() -> None:
    moved = OWN.astype(np.float64)
    assert usual_steps(moved, OWN, SIZES) == 0
    moved[:30] += np.abs(OWN[:30]).max() / STEPS
    moved[30:] += np.abs(OWN[30:]).max() / STEPS
    assert usual_steps(moved, OWN, SIZES) == pytest.approx(1)
