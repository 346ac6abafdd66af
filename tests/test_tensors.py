"""Tensor specs, feeds and batches, and the error of scale."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from edgekit.errors import ModelError
from edgekit.graphs.exact import sampled_error, worst_output_error
from edgekit.onnx.free import change_of_scale
from edgekit.tensors import (
    Array,
    TensorSpec,
    batches_of,
    check_feed,
    differences,
    joined_outputs,
    normalised_error,
    real_samples,
    sample_feed,
    shape_text,
)

IMAGE = TensorSpec("image", "float32", ("batch", 1, 4, 5))
TOKENS = TensorSpec("tokens", "int64", ("batch", 3))


def zeros(shape: tuple[int, ...], dtype: str = "float32") -> Array:
    return np.zeros(shape, dtype)


def fits(spec: TensorSpec, array: Array) -> bool:
    try:
        spec.check(array)
    except ModelError:
        return False
    return True


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_an_array_of_any_batch_fits(batch: int) -> None:
    assert fits(IMAGE, zeros((batch, 1, 4, 5)))
    assert not fits(IMAGE, zeros((batch, 1, 4, 6)))


@pytest.mark.parametrize(
    ("array", "actual"),
    [
        (zeros((2, 1, 4, 6)), "float32 2x1x4x6"),
        (zeros((2, 1, 5, 4)), "float32 2x1x5x4"),
        (zeros((1, 4, 5)), "float32 1x4x5"),
        (zeros((2, 1, 4, 5, 1)), "float32 2x1x4x5x1"),
        (zeros(()), r"float32 \(\)"),
        (zeros((2, 1, 4, 5), "float64"), "float64 2x1x4x5"),
        (zeros((2, 1, 4, 5), "uint8"), "uint8 2x1x4x5"),
    ],
)
def test_the_refusal_of_an_array_names_its_shape_and_the_right_one(array: Array, actual: str) -> None:
    with pytest.raises(ModelError, match=f"input 'image' takes float32 batch x 1 x 4 x 5, but was given {actual}; reshape or"):
        IMAGE.check(array)


def test_a_feed_needs_exactly_the_inputs() -> None:
    image, tokens = zeros((2, 1, 4, 5)), zeros((2, 3), "int64")
    check_feed((IMAGE, TOKENS), {"tokens": tokens, "image": image})
    for feed in ({"image": image}, {"image": image, "tokens": tokens, "more": tokens}, {"image": image, "token": tokens}):
        with pytest.raises(ModelError, match=r"takes the inputs \['image', 'tokens'\], but was given \[.*\]; rename them"):
            check_feed((IMAGE, TOKENS), feed)
    with pytest.raises(ModelError, match="input 'tokens' takes int64"):
        check_feed((IMAGE, TOKENS), {"image": image, "tokens": zeros((2, 3))})


def test_sample_feeds_fit_and_repeat() -> None:
    specs = (IMAGE, TOKENS, TensorSpec("half", "float16", ("batch", 2)), TensorSpec("flag", "bool", ("batch",)))
    first, second = sample_feed(specs, 5), sample_feed(specs, 5)
    check_feed(specs, first)
    assert list(first) == ["image", "tokens", "half", "flag"]
    for name, array in first.items():
        assert len(array) == 5
        np.testing.assert_array_equal(array, second[name])
    assert not np.array_equal(first["image"], sample_feed(specs, 5, seed=1)["image"])


def test_sample_feeds_are_standard_normal_or_small_integers() -> None:
    feed = sample_feed((TensorSpec("x", "float32", ("batch", 1000)), TensorSpec("n", "int32", ("batch", 100))), 10)
    assert abs(float(feed["x"].mean())) < 0.05
    assert abs(float(feed["x"].std()) - 1) < 0.05
    assert set(np.unique(feed["n"])) == {0, 1}


def test_a_dtype_that_numpy_lacks_is_named() -> None:
    with pytest.raises(ModelError, match="input 'x' has the dtype float12, which numpy lacks; use float32"):
        sample_feed((TensorSpec("x", "float12", ("batch",)),), 1)


def test_free_axes_take_the_batch() -> None:
    assert IMAGE.concrete(7) == (7, 1, 4, 5)
    assert TensorSpec("x", "float32", ("batch", 2, "time")).concrete(3) == (3, 2, 3)


def test_shapes_are_readable() -> None:
    assert shape_text((2, 3, 8)) == "2x3x8"
    assert shape_text(("batch", 3)) == "batch x 3"
    assert shape_text(()) == "()"


def test_specs_survive_json_and_refuse_unknown_keys() -> None:
    assert msgspec.json.decode(msgspec.json.encode(IMAGE), type=TensorSpec) == IMAGE
    with pytest.raises(msgspec.ValidationError, match="surprise"):
        msgspec.json.decode(b'{"name": "x", "dtype": "float32", "shape": [], "surprise": 1}', type=TensorSpec)


FEEDS = st.integers(1, 9).flatmap(
    lambda samples: st.tuples(
        st.just({"a": np.arange(samples), "b": np.arange(2.0 * samples).reshape(samples, 2)}), st.integers(1, 12)
    )
)


@settings(deadline=None)
@given(FEEDS)
def test_batches_hold_every_sample_once_and_are_filled_up_with_the_last(case: tuple[dict[str, Array], int]) -> None:
    feed, size = case
    batches = list(batches_of(feed, size))
    assert all(len(array) == size for batch, _ in batches for array in batch.values())
    joined = joined_outputs([real_samples(batch, size, real) for batch, real in batches])
    assert all(np.array_equal(joined[name], array) for name, array in feed.items())
    batch, real = batches[-1]
    assert (batch["a"][real:] == feed["a"][-1]).all()
    assert sum(real for _, real in batches) == len(feed["a"])


def test_an_output_that_is_not_a_batch_long_is_not_cut_to_look_like_one() -> None:
    outputs = real_samples({"good": np.zeros((4, 2)), "long": np.zeros((5, 2)), "scalar": np.zeros(())}, 4, 3)
    assert {name: array.shape for name, array in outputs.items()} == {"good": (3, 2), "long": (5, 2), "scalar": ()}


NUMBERS = st.floats(-1e30, 1e30) | st.sampled_from([0.0, -0.0, 1e-31, 5e-324, 1e308, -1e308, np.nan, np.inf, -np.inf])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(*[hnp.arrays(np.float64, shape, elements=NUMBERS)] * 2))


def apart(output: Array, reference: Array) -> float:
    """The largest |y - r|, where equal infinities are not apart."""
    difference = np.abs(output.astype(np.float64) - reference.astype(np.float64))
    difference[(output == reference) & np.isinf(reference)] = 0
    return float(difference.max(initial=0))


def finite_peak(reference: Array) -> float:
    values = np.abs(reference.astype(np.float64))
    return float(values[np.isfinite(values)].max(initial=0))


def plain_formula(output: Array, reference: Array) -> float:
    """``normalised_error`` by its formula; the absolute difference if the reference is all zeros."""
    scale, worst = finite_peak(reference), apart(output, reference)
    return worst / scale if scale else worst


def freed_formula(output: Array, reference: Array) -> float:
    """``change_of_scale`` by its formula: the scale is that of all samples. Infinite if the reference is all zeros."""
    scale, error = finite_peak(reference), apart(output, reference[: len(output)])
    if not scale:
        return np.inf if error else 0.0
    return error / scale


def finite_formula(values: Tensor, reference: Tensor) -> float:
    """``worst_output_error`` by its formula: over finite values; infinite unless the non-finite values are equal."""
    finite = reference.isfinite()
    if not torch.equal(values.isfinite(), finite) or not torch.equal(
        values[~finite].nan_to_num(), reference[~finite].nan_to_num()
    ):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    return float((values - reference)[finite].abs().max() / reference[finite].abs().max().clamp_min(1e-30))


def sampled_formula(values: Tensor, reference: Tensor) -> float:
    """``sampled_error`` by its formula, per channel."""
    largest = reference.abs().amax(0)
    scale = largest.clamp_min(max(float(largest.median()), 1e-6 * float(largest.max()), 1e-30))
    return (
        finite_formula(values / scale, reference / scale)
        if bool(reference.isfinite().all())
        else finite_formula(values, reference)
    )


def same(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))


@settings(deadline=None)
@given(PAIRS, st.integers(0, 4))
def test_every_error_of_scale_equals_its_formula(pair: tuple[Array, Array], fewer: int) -> None:
    output, reference = pair
    with np.errstate(all="ignore"):
        assert same(normalised_error(output, reference), plain_formula(output, reference))
        half, integers = output.astype(np.float16), np.nan_to_num(reference).clip(-9, 9).astype(np.int64)
        assert same(normalised_error(half, integers), plain_formula(half, integers))
        first = output[:fewer]
        assert same(change_of_scale(first, reference), freed_formula(first, reference))
    tensor, expected = torch.from_numpy(output.copy()), torch.from_numpy(reference.copy())
    mixed = torch.where(expected.isfinite(), tensor, expected)
    for values in (tensor, mixed):
        assert same(worst_output_error({"y": values}, {"y": expected}), finite_formula(values, expected))
        if values.dim() == 2 and values.numel():
            assert same(sampled_error(values, expected), sampled_formula(values, expected))


def test_the_errors_of_scale_differ_where_their_conventions_differ() -> None:
    """The partner of the test above: its formulas differ for a reference of zeros, so agreement is no accident."""
    zero, small = np.zeros(2), np.array([0.0, 1e-3])
    assert normalised_error(small, zero) == 1e-3
    assert change_of_scale(small, zero) == math.inf
    assert worst_output_error({"y": torch.from_numpy(small)}, {"y": torch.from_numpy(zero)}) == pytest.approx(1e27)
    assert math.isnan(normalised_error(np.array([math.nan]), np.ones(1)))


def test_a_small_channel_is_scaled_by_a_millionth_of_the_largest_at_least() -> None:
    reference = torch.tensor([[1e-9, 1e-9, 1.0]], dtype=torch.float64)
    values = torch.tensor([[2e-9, 1e-9, 1.0]], dtype=torch.float64)
    assert sampled_error(values, reference) == pytest.approx(1e-3)


def test_equal_infinities_agree_and_leave_the_scale_alone() -> None:
    reference = np.array([[1.0, 4.0, -np.inf]])
    assert normalised_error(np.array([[1.0, 4.4, -np.inf]]), reference) == pytest.approx(0.1)
    assert normalised_error(np.array([[1.0, 4.0, np.inf]]), reference) == math.inf
    assert normalised_error(np.array([[1.0, 4.0, 0.0]]), reference) == math.inf
    assert normalised_error(np.array([[1.0, -np.inf, -np.inf]]), reference) == math.inf
    assert math.isnan(normalised_error(np.array([[1.0, 4.0, np.nan]]), reference))
    assert differences(np.array([-np.inf, 1.0]), np.array([-np.inf, 3.0])).tolist() == [0.0, 2.0]
