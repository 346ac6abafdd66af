"""Ranges are those of all samples, however they are cut into batches, and clip what is rare where that pays."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.errors import ModelError
from edgekit.onnx.calibration import BATCH, BINS, Batches, limits_of, observe, values_of
from edgekit.onnx.placing import Graph, Placement, QuantLayer, placed
from edgekit.tensors import Array
from tests.onnx.crafted import model_of, node, tensor

LAYER = QuantLayer("conv", "Conv", "v", "w", 0, "")
ONE = Placement((LAYER,), {"v": "v"}, frozenset({"v"}), frozenset(), ())


def batches(array: Array, size: int) -> Batches:
    return lambda: iter([{"v": array[start : start + size]} for start in range(0, len(array), size)])


def sample(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", [1, 7, 32, 100])
def test_batches_give_what_all_samples_at_once_give(size: int) -> None:
    array = sample(100, 4, 3, 3)
    whole, parts = observe(ONE, batches(array, 100)), observe(ONE, batches(array, size))
    assert (whole.lowest, whole.highest) == (parts.lowest, parts.highest) == ({"v": array.min()}, {"v": array.max()})
    assert np.array_equal(whole.histograms["v"], parts.histograms["v"])
    assert whole.histograms["v"].sum() == array.size
    assert np.allclose(parts.means["v"], array.astype(np.float64).mean(axis=(0, 2, 3)), rtol=1e-12)


def test_the_samples_that_fill_a_last_batch_up_are_not_counted() -> None:
    model = model_of(
        [node("Relu", ["x"], "a"), node("Conv", ["a", "w"], "y", "conv")], [tensor("w", 16, 16, 1, 1)], shape=("batch", 16, 2, 2)
    )
    placement = placed(Graph(model), {})
    array = sample(BATCH + 3, 16, 2, 2)
    array[-1] *= 100  # the last sample is what would be counted often
    observed = observe(placement, values_of(model, set(placement.groups), {"x": array}))
    assert observed.histograms["a"].sum() == array.size
    assert np.allclose(observed.means["a"], np.maximum(array, 0).astype(np.float64).mean(axis=(0, 2, 3)), rtol=1e-6)


def test_rows_that_are_no_samples_have_their_mean() -> None:
    """A Gemm that reads 3 rows of each sample."""
    values = sample(30, 4)
    assert np.allclose(observe(ONE, batches(values, 9)).means["v"], values.astype(np.float64).mean(axis=0), rtol=1e-12)


def test_no_more_than_one_batch_is_held() -> None:
    alive: list[weakref.ref[Array]] = []

    def fresh() -> Iterator[Mapping[str, Array]]:
        for seed in range(20):
            array = np.random.default_rng(seed).standard_normal((8, 4, 8, 8)).astype(np.float32)
            alive.append(weakref.ref(array))
            assert sum(reference() is not None for reference in alive) <= 2  # the last one, and this
            values = {"v": array}
            del array
            yield values
            del values

    observe(ONE, fresh)
    assert len(alive) == 40


def test_minmax_is_the_largest_value_of_a_group_and_mse_of_heavy_tails_is_below_it() -> None:
    tails = np.random.default_rng(0).standard_t(3, (64, 4, 8, 8)).astype(np.float32)
    observed = observe(ONE, batches(tails, 32))
    assert limits_of(ONE, observed, "minmax") == {"v": float(np.abs(tails).max())}
    assert limits_of(ONE, observed, "mse")["v"] < 0.95 * np.abs(tails).max()
    even = np.random.default_rng(0).uniform(-1, 1, (64, 4, 8, 8)).astype(np.float32)
    assert limits_of(ONE, observe(ONE, batches(even, 32)), "mse")["v"] > 0.95


@pytest.mark.parametrize("freedom", [3, 5, 1000])
def test_the_mse_limit_has_the_least_error_of_rounding_and_clipping(freedom: int) -> None:
    values = np.random.default_rng(0).standard_t(freedom, (64, 4, 8, 8)).astype(np.float32)
    observed = observe(ONE, batches(values, 32))

    def error(limit: float) -> float:
        step = limit / 127
        return float(np.square(np.rint(values / step).clip(-127, 127) * step - values.astype(np.float64)).mean())

    best = limits_of(ONE, observed, "mse")["v"]
    largest = limits_of(ONE, observed, "minmax")["v"]
    assert error(best) <= 1.02 * min(error(share * largest) for share in np.linspace(0.2, 1, 50))
    assert error(best) <= error(largest)


def test_a_group_has_the_limit_of_its_largest_and_what_a_clip_clamps_does_not_count() -> None:
    group = Placement((LAYER,), {"a": "a", "b": "a", "c": "a"}, frozenset(), frozenset({"c"}), ())
    arrays = {"a": sample(8, 4), "b": 2 * sample(8, 4), "c": 100 * sample(8, 4)}
    observed = observe(group, lambda: iter([arrays]))
    assert limits_of(group, observed, "minmax") == {"a": float(np.abs(arrays["b"]).max())}
    assert limits_of(group, observed, "mse")["a"] <= float(np.abs(arrays["b"]).max())


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_a_value_that_is_always_zero_has_a_limit_above_zero(method: str) -> None:
    observed = observe(ONE, batches(np.zeros((8, 4), np.float32), 4))
    assert limits_of(ONE, observed, "mse" if method == "mse" else "minmax")["v"] > 0
    assert observed.histograms["v"].shape == (BINS,)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(wrong: float) -> None:
    array = sample(8, 4)
    array[3, 1] = wrong
    with pytest.raises(ModelError, match="value 'v' inside the network is not finite"):
        observe(ONE, batches(array, 4))
