"""Scales of steps move in a copy of the file, wherever they are stored, and nothing else does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgekit.onnx.scales import rescaled, scales_in_half, scales_unknown
from tests.onnx.crafted import model_of, node


def held(scale: onnx.TensorProto, *, constant: bool) -> onnx.ModelProto:
    """A pair of steps whose ``scale`` is stored, or that a Constant gives, beside numbers that are no scale."""
    steps = [
        node("QuantizeLinear", ["x", "scale", "zero"], "codes", "quantise"),
        node("DequantizeLinear", ["codes", "scale", "zero"], "r", "dequantise"),
        node("Mul", ["r", "other"], "y"),
    ]
    stored = [numpy_helper.from_array(np.uint8(0), "zero"), numpy_helper.from_array(np.float32(0.1), "other")]
    given = [node("Constant", [], "scale", "given", value=scale)] if constant else []
    return model_of([*given, *steps], stored if constant else [*stored, scale])


def scale_of(content: bytes) -> Any:
    graph = onnx.load_from_string(content).graph
    tensors = [*graph.initializer, *(each.attribute[0].t for each in graph.node if each.op_type == "Constant")]
    return numpy_helper.to_array(next(each for each in tensors if each.name in ("scale", "given")))


RAW = numpy_helper.from_array(np.array([0.1, 0.2], np.float32), "scale")
PACKED = onnx.helper.make_tensor("scale", onnx.TensorProto.FLOAT, [2], [0.1, 0.2])


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("scale", [RAW, PACKED], ids=["raw", "packed"])
def test_scales_move_wherever_they_are_stored(scale: onnx.TensorProto, constant: bool) -> None:
    model = held(scale, constant=constant)
    content = model.SerializeToString()
    moved = rescaled(content, lambda scales: {name: 2 * numbers for name, numbers in scales.items()})
    assert scale_of(moved).tolist() == np.array([0.2, 0.4], np.float32).tolist()
    back = rescaled(moved, lambda scales: {name: numbers / 2 for name, numbers in scales.items()})
    assert back == content == rescaled(content, dict)  # nothing else has moved
    assert scales_unknown(content) == ()


def read_from(*makers: onnx.NodeProto, stored: tuple[onnx.TensorProto, ...] = ()) -> bytes:
    """A pair of steps whose scale nodes make."""
    steps = [node("QuantizeLinear", ["x", "scale"], "codes"), node("DequantizeLinear", ["codes", "scale"], "y")]
    return bytes(model_of([*makers, *steps], stored).SerializeToString())


STORED = {kind: onnx.helper.make_tensor("held", number, [1], [0.25]) for kind, number in
          (("float32", TensorProto.FLOAT), ("float64", TensorProto.DOUBLE), ("float16", TensorProto.FLOAT16))}  # fmt: skip
FOUND = {
    "value_float": read_from(node("Constant", [], "scale", value_float=0.25)),
    "value_floats": read_from(node("Constant", [], "scale", value_floats=[0.25])),
    "Identity": read_from(node("Identity", ["held"], "scale"), stored=(STORED["float32"],)),
    "Cast": read_from(node("Cast", ["held"], "scale", to=TensorProto.FLOAT), stored=(STORED["float64"],)),
    "Squeeze of a Constant": read_from(
        node("Constant", [], "given", value_floats=[0.25]), node("Squeeze", ["given"], "scale", "squeeze")
    ),
}


@pytest.mark.parametrize("kind", FOUND)
def test_scales_are_found_where_their_numbers_lie(kind: str) -> None:
    taken = list[dict[str, Any]]()

    def change(scales: Any) -> Any:
        taken.append({name: numbers.tolist() for name, numbers in scales.items()})
        return {name: 2 * numbers for name, numbers in scales.items()}

    moved = rescaled(FOUND[kind], change)
    rescaled(moved, change)
    assert [list(scales.values()) for scales in taken] == [[[0.25]], [[0.5]]]
    assert scales_unknown(FOUND[kind]) == ()
    onnx.checker.check_model(onnx.load_from_string(moved))


def test_a_scale_of_float16_stays_and_one_that_is_computed_is_unknown() -> None:
    half = read_from(node("Cast", ["held"], "scale", to=TensorProto.FLOAT), stored=(STORED["float16"],))
    assert rescaled(half, lambda scales: {name: 2 * numbers for name, numbers in scales.items()}) == half
    assert scales_unknown(half) == ()
    assert scales_unknown(read_from(node("Abs", ["held"], "scale"), stored=(STORED["float32"],))) == ("scale",)


def test_what_is_no_onnx_file_is_refused() -> None:
    with pytest.raises(ValueError, match="a field has the number 0"):
        rescaled(b"\0nothing", dict)


@pytest.mark.parametrize(("dtype", "told"), [(np.float16, True), (np.float32, False)])
@pytest.mark.parametrize("constant", [False, True])
def test_scales_of_16_bits_are_told_wherever_they_are_stored(dtype: type[Any], told: bool, constant: bool) -> None:
    scale = numpy_helper.from_array(np.asarray(0.1, dtype), "scale")
    assert scales_in_half(held(scale, constant=constant).SerializeToString()) == told
