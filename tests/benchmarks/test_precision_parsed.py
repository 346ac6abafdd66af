"""What TensorRT-RTX says of the files in ``benchmarks/precision.py``, and how it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import precision_parsed
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tensorrt_rtx")


def test_tensorrt_rtx_builds_a_file_and_refuses_an_int32_bias() -> None:
    pytest.importorskip("tensorrt_rtx")
    assert precision_parsed.parsed(small(np.int8))["builds"]
    assert "Int32" in precision_parsed.parsed(small(np.int32))["refused"]


def small(stored: type[np.signedinteger[Any]]) -> bytes:
    """A sum with a constant that is stored in this type, with a scale."""
    tensors = {"c": np.ones(4, stored), "scale": np.array(0.5, np.float32), "zero": np.array(0, stored)}
    nodes = [helper.make_node("DequantizeLinear", [*tensors], ["d"]), helper.make_node("Add", ["x", "d"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    graph = helper.make_graph(nodes, "small", [x], [y], [numpy_helper.from_array(array, name) for name, array in tensors.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
