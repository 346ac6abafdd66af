"""What a manifest may ask for a converted file follows from its recorded outputs, with room for what other runtimes do."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import Allowance, Calibration, Conversion, GoldenPart, Variant
from edgekit.parity.allowances import asks_beyond, half_allowance, int8_allowance, widest_allowance, within_support
from edgekit.parity.inputs import Recorded
from edgekit.tensors import Array

SAMPLES = 40


def outputs(noise: float, seed: int = 1) -> dict[str, Array]:
    """Scores of ten classes with normal noise of a deviation of so much of the scale."""
    exact = np.random.default_rng(0).standard_normal((SAMPLES, 10))
    return {"y": exact + noise * np.abs(exact).max() * np.random.default_rng(seed).standard_normal(exact.shape)}


RECORDED = Recorded(
    GoldenArrays({"x": np.zeros((SAMPLES, 1))}, outputs(0.0), outputs(0.0), None), (GoldenPart("normal", SAMPLES),)
)


def variant(precision: str, allowance: Allowance, method: str = "minmax") -> Variant:
    calibration = Calibration("pictures", 40, "0" * 64, method) if precision == "int8" else None  # type: ignore[arg-type]
    conversion = Conversion("own.npz", 3, calibration=calibration)
    return Variant(precision, f"{precision}.onnx", precision, allowance, conversion=conversion)


def int8(own: float, other: float) -> Allowance:
    """What is written for a file whose recorded reading and whose worse one have so much noise."""
    return int8_allowance([outputs(own), outputs(other)], RECORDED.arrays.float64, rounding=0.1)


def half(own: float, other: float) -> Allowance:
    return half_allowance([outputs(own), outputs(other)], RECORDED)


@pytest.mark.parametrize(
    ("asked", "own"),
    [
        (variant("int8", int8(0.01, 0.01)), 0.01),
        (variant("int8", int8(0.01, 0.015)), 0.01),
        (variant("int8", int8(1e-4, 1e-4)), 1e-4),
        (variant("int8", int8(0.005, 0.015), "trained"), 0.005),
        (variant("float16", half(2e-4, 2e-4)), 2e-4),
        (variant("float16", half(1e-4, 3e-4)), 1e-4),
    ],
)
def test_what_is_proposed_for_a_file_is_supported_by_its_recorded_reading_alone(asked: Variant, own: float) -> None:
    assert asks_beyond(asked, RECORDED, outputs(own)) == ""


@pytest.mark.parametrize(
    ("asked", "own", "said"),
    [
        (variant("int8", int8(0.03, 0.03)), 0.01, "rtol instead of at most "),
        (variant("int8", int8(0.03, 0.03)), 0.01, "steps instead of at most "),
        (variant("int8", int8(0.03, 0.03)), 0.01, "dB instead of at least "),
        (variant("int8", int8(0.005, 0.015)), 0.005, "dB instead of at least "),  # only training clips so much
        (variant("float16", half(1e-5, 1e-3)), 1e-5, "rtol instead of at most "),
        (variant("float16", half(1e-5, 1e-3)), 1e-5, "dB instead of at least "),
    ],
)
def test_what_a_worse_file_would_be_given_is_not_supported(asked: Variant, own: float, said: str) -> None:
    assert said in asks_beyond(asked, RECORDED, outputs(own))


def test_outputs_that_are_no_numbers_support_nothing() -> None:
    assert "rtol" in asks_beyond(variant("float16", half(2e-4, 2e-4)), RECORDED, {"y": np.full((SAMPLES, 10), np.nan)})


def test_a_precision_without_bars_of_its_own_is_held_elsewhere() -> None:
    exact = msgspec.structs.replace(variant("float16", half(2e-4, 2e-4)), precision="float32")
    assert widest_allowance(exact, RECORDED, outputs(0.0)) is None


@pytest.mark.parametrize(
    ("asked", "own"), [(variant("int8", int8(0.002, 0.05)), 0.002), (variant("float16", half(1e-5, 1e-3)), 1e-5)]
)
def test_a_proposal_is_cut_down_to_what_the_recorded_reading_supports(asked: Variant, own: float) -> None:
    assert asks_beyond(asked, RECORDED, outputs(own))
    cut = within_support(asked, RECORDED, outputs(own))
    assert asks_beyond(cut, RECORDED, outputs(own)) == ""
    assert cut.allowance.tolerance.rtol < asked.allowance.tolerance.rtol
    assert within_support(cut, RECORDED, outputs(own)) == cut


def flipped(count: int) -> dict[str, Array]:
    """The exact scores, but for the largest and the smallest of the first samples, which change places."""
    scores = RECORDED.arrays.float64["y"].copy()
    for row in scores[:count]:
        high, low = row.argmax(), row.argmin()
        row[high], row[low] = row[low], row[high]
    return {"y": scores}


def test_what_is_proposed_for_int8_is_three_times_its_worst_error_and_twice_its_flips_and_two() -> None:
    exact = RECORDED.arrays.float64
    error = np.abs(outputs(0.01)["y"] - exact["y"]).max() / np.abs(exact["y"]).max()
    asked = int8_allowance([outputs(0.001), outputs(0.01)], exact, rounding=0.1)
    assert (asked.tolerance.rtol, asked.steps) == pytest.approx((3 * error, 3 * 127 * error))
    assert asked.rounding == pytest.approx(0.4)
    assert int8_allowance([flipped(3), flipped(5), flipped(1)], exact, 0.1).tolerance.top1 == pytest.approx(1 - 12 / SAMPLES)


def test_what_is_proposed_for_int8_is_never_less_than_three_steps_nor_more_than_a_bundle_may_choose() -> None:
    exact = RECORDED.arrays.float64
    least, most = int8_allowance([outputs(1e-9)], exact, 0.0), int8_allowance([flipped(SAMPLES)], exact, 99.0)
    assert (least.tolerance.rtol, least.tolerance.top1, least.steps, least.rounding) == (3 / 127, 1 - 2 / SAMPLES, 3, 0)
    assert (most.tolerance.rtol, most.tolerance.top1, most.steps, most.rounding, most.snr_db) == (0.5, 0.5, 32, 8, 0)


def test_what_is_proposed_for_float16_is_of_its_worst_reading() -> None:
    worst, both = half_allowance([outputs(3e-4)], RECORDED), half(1e-4, 3e-4)
    assert both == half(3e-4, 1e-4) == worst
    assert worst.tolerance.rtol == pytest.approx(8 * RECORDED.error(outputs(3e-4)))
    noise = 10 * np.log10(np.square(outputs(0)["y"]).sum() / np.square(outputs(3e-4)["y"] - outputs(0)["y"]).sum())
    assert worst.snr_db == pytest.approx(noise - 6)


def test_the_widest_has_ends_that_no_recorded_outputs_move() -> None:
    widest = widest_allowance(variant("int8", int8(0.01, 0.01)), RECORDED, flipped(SAMPLES))
    assert widest is not None
    assert (widest.tolerance.top1, widest.tolerance.rtol, widest.steps, widest.snr_db) == (0.5, 0.5, 32, 10)
    assert widest.rounding == pytest.approx(127 * RECORDED.error(flipped(SAMPLES)))
    exact = widest_allowance(variant("int8", int8(0.01, 0.01)), RECORDED, outputs(0.0))
    assert exact is not None
    assert exact.rounding == 0.5


def test_a_float16_file_has_no_room_for_ranges_that_were_trained() -> None:
    plain, trained = variant("float16", half(1e-4, 1e-4)), variant("int8", half(1e-4, 1e-4), "trained")
    said = msgspec.structs.replace(plain, conversion=trained.conversion)
    assert widest_allowance(said, RECORDED, outputs(1e-4)) == widest_allowance(plain, RECORDED, outputs(1e-4))


def test_every_bar_is_cut_down_by_itself() -> None:
    fair = int8(0.01, 0.01)
    most = widest_allowance(variant("int8", fair), RECORDED, outputs(0.01))
    assert most is not None
    tolerance = msgspec.structs.replace(fair.tolerance, rtol=0.5, top1=0.5)
    asked = Allowance(tolerance, snr_db=10.0, steps=32.0, rounding=8.0)
    cut = within_support(variant("int8", asked), RECORDED, outputs(0.01)).allowance
    assert (cut.tolerance.rtol, cut.tolerance.top1) == (most.tolerance.rtol, most.tolerance.top1)
    assert (cut.snr_db, cut.steps, cut.rounding) == (most.snr_db, most.steps, most.rounding)
    assert within_support(variant("int8", fair), RECORDED, outputs(0.01)).allowance == fair
