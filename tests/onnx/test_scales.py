"""Scales of steps move in a copy of the file, wherever they are stored, and nothing else does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.onnx.scales import rescaled
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


def test_what_is_no_onnx_file_is_refused() -> None:
    with pytest.raises(ValueError, match="a field has the number 0"):
        rescaled(b"\0nothing", dict)
