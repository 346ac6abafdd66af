"""Golden inputs reach what ordinary ones do not, are the same every time, and those that rounding ruins are left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import GoldenPart
from edgekit.errors import ModelError
from edgekit.parity.inputs import Recorded, check_telling, extreme_pictures, only_steady, rows_of, without_data
from edgekit.preprocess import Preprocess
from edgekit.tensors import Array, TensorSpec

IMAGE = (TensorSpec("x", "float32", ("batch", 3, 12, 10)),)


@pytest.mark.parametrize(("side", "samples"), [(224, 67), (448, 18)])
def test_large_inputs_are_fewer_and_of_every_kind(side: int, samples: int) -> None:
    drawn = without_data((TensorSpec("x", "float32", ("batch", 3, side, side)),))
    assert len(drawn.inputs["x"]) == sum(part.samples for part in drawn.parts) == samples
    assert len({part.kind for part in drawn.parts}) == 6


@pytest.mark.parametrize("shape", [(3, 12, 10), (1, 1, 1), (7,), (5, 4), (), (2, 3, 4, 5)])
def test_without_data_there_are_64_samples_or_more_of_every_kind_and_the_same_every_time(shape: tuple[int, ...]) -> None:
    specs = (TensorSpec("x", "float32", ("batch", *shape)), TensorSpec("index", "int64", ("batch", 4)))
    first, second = without_data(specs), without_data(specs)
    assert sum(part.samples for part in first.parts) == len(first.inputs["x"]) == len(first.inputs["index"]) >= 64
    assert first.inputs["x"].shape[1:] == shape
    assert first.inputs["x"].dtype == np.float32
    np.testing.assert_array_equal(first.inputs["x"], second.inputs["x"])
    assert [part.kind for part in first.parts] == ["normal", "wide", "extreme", "constant", "blocky", "edges"]


def test_wide_inputs_go_far_beyond_normal_ones_and_constant_ones_are_constant() -> None:
    drawn = without_data(IMAGE)
    ends = np.cumsum([part.samples for part in drawn.parts])
    pieces = dict(zip((part.kind for part in drawn.parts), np.split(drawn.inputs["x"], ends[:-1]), strict=True))
    assert np.abs(pieces["normal"]).max() < 6 < np.abs(pieces["wide"]).max() < 64 < np.abs(pieces["extreme"]).max()
    assert all(len(np.unique(sample)) == 1 for sample in pieces["constant"])
    assert all(len(np.unique(sample)) == 2 for sample in pieces["edges"] if sample.std())


def test_made_up_pictures_are_pixels_where_the_preprocessing_is_known() -> None:
    preprocess = Preprocess("rgb", 12, 10, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    drawn = without_data(IMAGE, preprocess)
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    pixels = 255 * (drawn.inputs["x"].astype(np.float64) * std + mean)
    assert np.abs(pixels - pixels.round()).max() < 1e-4
    assert (pixels.round().min(), pixels.round().max()) == (0, 255)
    assert len(pixels) >= 64


@pytest.mark.parametrize("size", [(1, 28, 28), (3, 5, 7), (1, 1, 1)])
def test_extreme_pictures_hold_black_white_and_edges(size: tuple[int, int, int]) -> None:
    pictures = extreme_pictures(*size)
    assert pictures.dtype == np.uint8
    assert pictures.shape[1:] == size
    assert any((picture == 0).all() for picture in pictures)
    assert any((picture == 255).all() for picture in pictures)


def recorded(original: Array, parts: tuple[int, ...] = (2, 2)) -> Recorded:
    reference = np.array([[1.0], [2.0], [10.0], [-20.0]])
    arrays = GoldenArrays({"x": np.arange(4.0)}, {"y": reference}, {"y": original.reshape(4, 1)}, np.arange(4))
    return Recorded(arrays, tuple(GoldenPart(f"part {size}", size) for size in parts))


def test_samples_that_the_originals_rounding_ruins_are_left_out_but_for_the_first_part() -> None:
    kept = only_steady(recorded(np.array([1.0, 2.0, 10.0 + 1e-3, -20.0])))
    assert [part.samples for part in kept.parts] == [2, 1]
    assert kept.arrays.float64["y"].ravel().tolist() == [1, 2, -20]
    assert kept.arrays.labels is not None
    assert kept.arrays.labels.tolist() == [0, 1, 3]


def test_a_part_of_which_nothing_is_left_is_gone_and_infinite_outputs_with_it() -> None:
    kept = only_steady(recorded(np.array([1.0, 2.0, np.inf, np.nan])))
    assert [part.samples for part in kept.parts] == [2]
    whole = only_steady(recorded(np.array([1.1, 2.0, 10.1, -20.0])))
    assert [part.samples for part in whole.parts] == [2, 2]  # the first part is as unsteady


@pytest.mark.parametrize(
    ("samples", "outputs", "reason"),
    [(7, np.arange(7.0), "fewer than 8"), (8, np.ones(8), "the same outputs"), (8, np.zeros(8), "the same outputs")],
)
def test_samples_that_could_show_no_fault_are_refused(samples: int, outputs: Array, reason: str) -> None:
    arrays = GoldenArrays({"x": np.arange(float(samples))}, {"y": outputs}, {"y": outputs}, None)
    with pytest.raises(ModelError, match=reason):
        check_telling(arrays)
    check_telling(GoldenArrays({"x": np.arange(8.0)}, {"y": np.arange(8.0), "constant": np.ones(8)}, {}, None))


@pytest.mark.parametrize(("rows", "dtype"), [(100, "int64"), (2, "int32"), (1, "int64"), (200, "uint8")])
def test_indices_name_every_row_that_the_model_has(rows: int, dtype: str) -> None:
    specs = (TensorSpec("tokens", dtype, ("batch", 12)), TensorSpec("mask", "int64", ("batch", 12)))

    def runs(feed: Any) -> bool:
        return bool(feed["tokens"].max() < rows)

    known = rows_of(specs, runs)
    assert known == {"tokens": rows}  # the mask takes any number
    tokens = without_data(specs, rows=known).inputs["tokens"]
    assert tokens.dtype == dtype
    assert set(np.unique(tokens)) == set(range(rows))


def test_a_model_that_refuses_even_zero_has_no_rows() -> None:
    assert rows_of((TensorSpec("tokens", "int64", ("batch", 12)),), lambda feed: False) == {}
