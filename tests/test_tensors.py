"""Specs, and feeds that fit them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgekit.errors import ModelError
from edgekit.tensors import Array, TensorSpec, check_feed, sample_feed, shape_text

IMAGE = TensorSpec("image", "float32", ("batch", 1, 4, 5))
TOKENS = TensorSpec("tokens", "int64", ("batch", 3))


def zeros(shape: tuple[int, ...], dtype: str = "float32") -> Array:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_an_array_of_any_batch_fits(batch: int) -> None:
    IMAGE.check(zeros((batch, 1, 4, 5)))


@pytest.mark.parametrize(
    ("array", "given"),
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
def test_an_array_that_does_not_fit_is_told_what_would(array: Array, given: str) -> None:
    with pytest.raises(ModelError, match=f"input 'image' takes float32 batch x 1 x 4 x 5, but was given {given}; reshape or"):
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
