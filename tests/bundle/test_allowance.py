"""What a bundle may choose of its own bar, for files that are held by their signal-to-noise ratio."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgekit.bundle.allowance import asks_too_much, bounded_allowance, held_by_snr
from edgekit.bundle.manifest import Allowance, Conversion, Variant
from edgekit.tolerance import Tolerance, widest_rtol

SOUND = Allowance(Tolerance(atol=0, rtol=0.2, top1=0.9), snr_db=25.0, steps=3.0)

HALF = Allowance(Tolerance(atol=0, rtol=0.02, top1=0.9), snr_db=35.0, steps=3.0)


def variant(precision: str = "int8", allowance: Allowance = SOUND, **fields: Any) -> Variant:
    return Variant(precision, f"{precision}.onnx", precision, allowance, conversion=Conversion("own.npz", 3), **fields)


def with_tolerance(**fields: float) -> Allowance:
    return msgspec.structs.replace(SOUND, tolerance=msgspec.structs.replace(SOUND.tolerance, **fields))


@pytest.mark.parametrize(
    ("precision", "allowance", "said"),
    [
        ("int8", SOUND, ""),
        ("int8", msgspec.structs.replace(SOUND, snr_db=10.0, steps=32.0), ""),
        ("int8", msgspec.structs.replace(SOUND, snr_db=9.9), "an SNR of 9.9 dB instead of at least 10 dB"),
        ("float16", HALF, ""),
        ("float16", msgspec.structs.replace(HALF, snr_db=25.0), "an SNR of 25 dB instead of at least 35 dB"),
        ("float16", msgspec.structs.replace(SOUND, snr_db=35.0), "rtol 0.2 instead of at most 0.02"),
        ("int8", msgspec.structs.replace(SOUND, rounding=8.0), ""),
        ("int8", msgspec.structs.replace(SOUND, rounding=8.5), "8.5 steps of rounding instead of at most 8"),
        ("int8", msgspec.structs.replace(SOUND, steps=32.5), "32.5 steps instead of at most 32"),
        ("float16", msgspec.structs.replace(HALF, snr_db=40.0, steps=None), ""),
        ("int8", msgspec.structs.replace(SOUND, steps=None), "no bar in steps"),
        ("int8", with_tolerance(rtol=0.6), "rtol 0.6 instead of at most 0.5"),
        ("int8", with_tolerance(top1=0.4), "top-1 0.4 instead of at least 0.5"),
        ("float32", SOUND, "rtol 0.2 instead of at most 2e-05 and top-1 0.9 instead of 1"),
        ("int8", msgspec.structs.replace(SOUND, snr_db=None), "rtol 0.2 instead of at most 0.05"),
        ("float32", Allowance(Tolerance(), steps=1e300), "1e+300 steps instead of at most 32"),
        ("bfloat16", Allowance(Tolerance(), rounding=9.0), "9 steps of rounding instead of at most 8"),
    ],
)
def test_what_is_wider_than_a_bundle_may_choose_is_named(precision: str, allowance: Allowance, said: str) -> None:
    assert asks_too_much(variant(precision, allowance)) == said


def test_a_file_that_recorded_no_outputs_of_its_own_is_not_held_by_its_ratio() -> None:
    without = msgspec.structs.replace(variant(), conversion=None)
    assert held_by_snr(without) is None
    assert "rtol 0.2 instead of at most 0.05" in asks_too_much(without)


def test_a_bar_is_never_wider_than_a_bundle_may_choose() -> None:
    asked = Allowance(Tolerance(atol=1, rtol=0.9, top1=0.0), snr_db=1.0, steps=99.0)
    assert bounded_allowance(variant(allowance=asked)) == Allowance(Tolerance(0, 0.5, 0.5), None, 10.0, 32.0)
    assert bounded_allowance(variant("float16", asked)).snr_db == 35.0
    exact = bounded_allowance(variant("float32", asked))
    assert exact == Allowance(Tolerance(0, widest_rtol("float32"), 1.0), None, None, 32.0)
    assert bounded_allowance(variant()) == SOUND
