"""Each limit has a case on either side, so that a change of the limit fails here."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from edgekit.onnx import constants
from edgekit.onnx.fold import _rounds
from edgekit.onnx.read import LARGEST_BYTES
from edgekit.onnx.rounding import rounding_limit, rounding_unit
from tests.onnx.crafted import codes, conv, export, folds, model_of, node, norm, statistics

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_unit_in_the_last_place_is_that_of_the_dtype(dtype: str) -> None:
    assert rounding_unit(dtype) == float(ml_dtypes.finfo(DTYPES[dtype]).eps)  # type: ignore[no-untyped-call]


def test_the_limit_of_16_bits_is_some_ten_units_and_that_of_32_some_hundred() -> None:
    shares = {dtype: rounding_limit(dtype) / rounding_unit(dtype) for dtype in ("float16", "bfloat16", "float32")}
    assert 8 < shares["float16"] < 16
    assert 8 < shares["bfloat16"] < 16
    assert 128 < shares["float32"] < 256


@pytest.mark.parametrize(("units", "fits"), [(0.75, True), (1.5, False)])
def test_folded_numbers_fit_if_they_are_off_by_a_unit_of_their_scale_at_most(units: float, fits: bool) -> None:
    """The numbers of float16 below 2^-14 lie 2^-24 apart: the error of one between two of them is 2^-25."""
    halfway = (np.floor(512 / units) + 0.5) * 2.0**-24
    assert _rounds(np.array([halfway, 0.0]), np.dtype(np.float16)) == fits
    assert _rounds(np.array([6e4, 1 / 3]), np.dtype(np.float16))
    assert not _rounds(np.array([7e4, 1 / 3]), np.dtype(np.float16))


@pytest.mark.parametrize(("most", "folded"), [(216, True), (215, False)])
@pytest.mark.parametrize("hidden", [True, False], ids=["hidden", "seen"])
def test_weights_that_nodes_make_fold_up_to_a_size_whether_or_not_inference_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, folded: bool, hidden: bool
) -> None:
    monkeypatch.setattr(constants, "MOST_ELEMENTS", most)
    shape = np.array([6, 4, 3, 3])
    stored = [numpy_helper.from_array(shape.astype(np.float32) + 0.25 if hidden else shape, "sizes"), *statistics("bn", 6)]
    cut = [node("Floor", ["sizes"], "whole"), node("Cast", ["whole"], "shape", to=TensorProto.INT64)]
    fill = node(
        "ConstantOfShape", ["shape" if hidden else "sizes"], "w", value=numpy_helper.from_array(np.array([0.1], np.float32))
    )
    report = export(tmp_path, model_of([*(cut if hidden else []), fill, conv(), norm("c", "y")], stored))
    assert (folds(report) == {"bn": ("conv",)}) == folded
    assert folded or codes(report) == {"bn": "computed"}


def test_no_weight_is_too_large_that_a_file_holds() -> None:
    assert 2**27 < constants.MOST_ELEMENTS < LARGEST_BYTES / 4
