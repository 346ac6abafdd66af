"""The pattern of an error names its likely cause, and no other pattern does."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.parity.cause import likely_cause
from edgekit.tolerance import NoiseBar

Numbers = NDArray[np.float64]
SAMPLES, CHANNELS = 64, 16
RNG = np.random.default_rng(0)
REFERENCE: Numbers = RNG.standard_normal((SAMPLES, CHANNELS)) * 3
NOISE = 1e-6
BAR = NoiseBar(np.full((1, CHANNELS), NOISE), (SAMPLES,), 1, 4, 2e-5)
NORMAL: Numbers = np.random.default_rng(1).standard_normal(REFERENCE.shape)


def cause(output: Numbers, reference: Numbers = REFERENCE, *, on_gpu: bool = False) -> str:
    return likely_cause(output.astype(np.float32), reference, BAR, on_gpu=on_gpu)


def only(channel: int, error: float) -> Numbers:
    return np.where(np.arange(CHANNELS) == channel, error, 0.0) * NORMAL


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (np.where(REFERENCE > 5, np.inf, REFERENCE), "overflows inside"),
        (np.clip(REFERENCE, -3, None), "stop at -3 where the reference goes on to -"),
        (np.clip(REFERENCE, None, 4), "stop at 4 where the reference goes on to"),
        ((REFERENCE / 0.07).round() * 0.07, "whole multiples of 0.07"),
        (REFERENCE.astype(np.float16).astype(float), "float16 numbers"),
        (REFERENCE[:, [1, 0, *range(2, CHANNELS)]], "another order: 0 is 1, 1 is 0"),
        (REFERENCE * 1.01, "times 1.01"),
        (REFERENCE + 0.25, "plus 0.25"),
        (REFERENCE + only(3, 0.1), "only channel 3 departs"),
        (REFERENCE + 1e3 * NOISE * NORMAL, "such as a weight or an eps"),
    ],
)
def test_a_pattern_names_its_cause(output: Numbers, words: str) -> None:
    assert words in cause(output)


def test_values_beyond_the_largest_float16_are_told_from_overflow_inside() -> None:
    large = REFERENCE * 20_000
    assert "beyond 65,504" in cause(np.where(np.abs(large) > 65_504, np.inf, large), large)


def test_bfloat16_numbers_are_told_from_float16_numbers() -> None:
    rounded = (REFERENCE.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    assert "all outputs are bfloat16 numbers" in cause(rounded.astype(float))


def test_a_gpu_may_compute_in_fewer_bits() -> None:
    assert "TF32 or float16" in cause(REFERENCE + 1e3 * NOISE * NORMAL, on_gpu=True)
    assert "arithmetic in bfloat16" in cause(REFERENCE + 1e4 * NOISE * NORMAL, on_gpu=True)


@pytest.mark.parametrize(
    "output",
    [
        np.random.default_rng(2).standard_normal(REFERENCE.shape) * 3,
        REFERENCE + NORMAL * np.where(np.arange(SAMPLES) < 40, 0.01, 0.0)[:, None],
        np.where(np.arange(SAMPLES)[:, None] == 5, 0.0, REFERENCE),
        REFERENCE * np.linspace(0.8, 1.2, CHANNELS),
    ],
    ids=["another model", "some samples", "one sample", "a factor of each channel"],
)
def test_what_follows_no_pattern_has_no_cause(output: Numbers) -> None:
    assert cause(output) == ""


def test_references_that_have_the_pattern_themselves_name_nothing() -> None:
    steps = (REFERENCE / 0.5).round() * 0.5
    assert "whole multiples" not in cause(steps + 0.5 * (NORMAL > 1), steps)
    half = REFERENCE.astype(np.float16).astype(float)
    assert "float16 numbers" not in cause(np.where(NORMAL > 1, half * 2, half), half)
    assert "stop at" not in cause(np.minimum(REFERENCE, 0) + only(2, 0.5), np.minimum(REFERENCE, 0))


def test_few_elements_and_other_dtypes_name_nothing() -> None:
    assert likely_cause(np.ones((2, 3), np.float32), np.zeros((2, 3)), BAR, on_gpu=False) == ""
    whole = np.arange(SAMPLES * CHANNELS).reshape(SAMPLES, CHANNELS)
    assert likely_cause(whole + 1, whole.astype(float), BAR, on_gpu=False) == ""


def test_a_dead_output_and_a_16_bit_output_are_not_called_arithmetic_of_16_bits() -> None:
    for dead in (np.zeros_like(REFERENCE), np.ones_like(REFERENCE), np.eye(SAMPLES, CHANNELS)):
        assert "float16 numbers" not in cause(dead)
    assert likely_cause(REFERENCE.astype(np.float16), REFERENCE, BAR, on_gpu=False) == ""


def test_a_factor_of_a_few_large_samples_alone_is_no_factor_of_all() -> None:
    reference = REFERENCE.copy()
    reference[-8:] *= 1000
    bar = NoiseBar(np.full((2, CHANNELS), NOISE), (SAMPLES - 8, 8), 1, 4, 2e-5)
    output = reference.copy()
    output[-8:] *= 1.01
    output[0, 0] += 1
    assert "times" not in likely_cause(output.astype(np.float32), reference, bar, on_gpu=False)
    assert "times 1.01" in likely_cause((reference * 1.01).astype(np.float32), reference, bar, on_gpu=False)


def test_masked_channels_take_no_blame() -> None:
    reference = REFERENCE.copy()
    reference[:, 5] = -np.inf
    assert "only channel 3 departs" in cause(reference + only(3, 0.1), reference)


def test_channels_may_lie_on_the_last_axis() -> None:
    reference = np.repeat(REFERENCE[:, None], 5, axis=1)
    bar = NoiseBar(np.full((1, CHANNELS), NOISE), (SAMPLES,), 2, 4, 2e-5)
    output = reference + np.where(np.arange(CHANNELS) == 7, 0.1, 0.0) * NORMAL[:, None]
    assert "only channel 7 departs" in likely_cause(output.astype(np.float32), reference, bar, on_gpu=False)
