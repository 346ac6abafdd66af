"""A Cast to a float that holds less rounds in the float64 reference too, and in stored numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle.folder import open_bundle
from edgekit.onnx.exact import run_file_exact
from edgekit.onnx.run import open_unoptimised
from edgekit.onnx.steps import narrowing_node
from tests.onnx.crafted import conv, export, model_of, node, norm, statistics, tensor

HALF, BRAIN = TensorProto.FLOAT16, TensorProto.BFLOAT16
X = np.random.default_rng(0).standard_normal((3, 4, 8, 8)).astype(np.float32)


def there_and_back(value: str, output: str, to: int, back: int = TensorProto.FLOAT) -> list[onnx.NodeProto]:
    return [
        node("Cast", [value], f"{value}_narrow", f"{value}_narrow", to=to),
        node("Cast", [f"{value}_narrow"], output, output, to=back),
    ]


def computed(nodes: list[onnx.NodeProto], stored: list[onnx.TensorProto], x: Any = X, **form: Any) -> Any:
    return run_file_exact(model_of(nodes, stored, **form), {"x": x})["y"]


@pytest.mark.parametrize(("to", "dtype"), [(HALF, np.float16), (BRAIN, ml_dtypes.bfloat16)])
def test_a_cast_there_and_back_rounds_in_the_reference(to: int, dtype: Any) -> None:
    exact = computed(there_and_back("x", "y", to), [])
    assert exact.dtype == np.float64
    assert np.array_equal(exact, X.astype(dtype).astype(np.float64))
    assert np.abs(exact - X).max() > 1e-4


def test_float64_narrows_to_float32_and_float32_does_not_narrow_to_float64() -> None:
    wide = X.astype(np.float64) / 3
    there = computed(there_and_back("x", "y", TensorProto.FLOAT, TensorProto.DOUBLE), [], wide, kind=TensorProto.DOUBLE)
    assert np.array_equal(there, wide.astype(np.float32).astype(np.float64))
    halved = [node("Sin", ["x"], "s"), *there_and_back("s", "y", TensorProto.DOUBLE)]
    assert np.array_equal(computed(halved, []), np.sin(X.astype(np.float64)))


def test_what_is_of_16_bits_already_is_not_rounded_again() -> None:
    """In a file of float16 no operator rounds in the reference, and no Cast out of it."""
    x = X.astype(np.float16)
    nodes = [node("Sin", ["x"], "s"), node("Cast", ["s"], "c", to=HALF), node("Cast", ["c"], "w", "w", to=TensorProto.FLOAT)]
    nodes += [node("CastLike", ["w", "x"], "y", "n")]
    assert np.array_equal(computed(nodes, [], x, kind=HALF), np.sin(x.astype(np.float64)))


def test_in_a_file_of_16_bits_stored_numbers_are_narrowed_all_the_same() -> None:
    x, scale = X.astype(np.float16), np.float32(1 / 3)
    nodes = [node("CastLike", ["scale", "x"], "s", "s"), node("Mul", ["x", "s"], "y")]
    exact = computed(nodes, [numpy_helper.from_array(scale, "scale")], x, kind=HALF)
    assert np.array_equal(exact, x.astype(np.float64) * float(np.float16(scale)))


def test_a_narrowed_weight_is_narrow_in_the_reference_and_in_the_fold(tmp_path: Path) -> None:
    weight = tensor("w", 6, 4, 3, 3)
    nodes = [*there_and_back("w", "wide", HALF), conv(output="c", weight="wide"), norm("c", "y")]
    model = model_of(nodes, [weight, *statistics("bn", 6)])
    report = export(tmp_path, model)
    assert report.notes[0] == "the reference is the original ONNX file in float64"
    assert [fold.into for fold in report.fold.folded] == [("conv",)]
    assert report.original_error is not None
    assert report.original_error < 1e-6  # it was 2e-4 of weights that were not narrowed
    golden = open_bundle(tmp_path / "bundle").golden()
    theirs = open_unoptimised(model, Path("net.onnx"))(golden.inputs)["y"]
    assert np.abs(golden.float64["y"] - theirs).max() < 1e-6 * np.abs(theirs).max()


def test_a_cast_in_a_branch_narrows_what_it_is_given() -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            there_and_back("x", "b", HALF) if name == "then" else [node("Neg", ["x"], "b")],
            name,
            [],
            [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
        )
        for name in ("then", "else")
    }
    stored = [numpy_helper.from_array(np.array(True), "yes")]
    exact = computed([helper.make_node("If", ["yes"], ["y"], **branches)], stored)
    assert np.array_equal(exact, X.astype(np.float16).astype(np.float64))


def test_numbers_too_large_for_16_bits_overflow_as_in_the_file() -> None:
    assert np.isposinf(computed(there_and_back("x", "y", HALF), [], np.full((1, 4, 8, 8), 7e4, np.float32))).all()


@pytest.mark.parametrize(("factor", "overflows"), [(3e3, True), (3.0, False)])
def test_an_overflow_of_float16_is_said_in_a_note(tmp_path: Path, factor: float, overflows: bool) -> None:
    """The largest golden inputs are beyond 100; what is cut at 5e4 hides the infinite values from the output."""
    numbers = {"factor": factor, "low": -5e4, "high": 5e4}
    stored = [numpy_helper.from_array(np.float16(number), name) for name, number in numbers.items()]
    nodes = [node("Mul", ["x", "factor"], "m", "grow"), node("Clip", ["m", "low", "high"], "y")]
    notes = export(tmp_path, model_of(nodes, stored, kind=HALF)).notes
    assert any("node 'grow' overflows float16 on golden inputs" in text for text in notes) == overflows


def test_the_first_cast_that_narrows_values_is_named() -> None:
    stored = [tensor("w", 6, 4, 3, 3)]
    weights = [*there_and_back("w", "wide", HALF), conv(weight="wide", output="c")]
    assert narrowing_node(model_of([*weights, node("Neg", ["c"], "y")], stored)) == ""
    assert narrowing_node(model_of([*weights, *there_and_back("c", "y", BRAIN)], stored)) == "Cast c_narrow"
