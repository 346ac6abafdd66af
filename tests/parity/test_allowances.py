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
