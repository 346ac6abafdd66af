"""One product of square matrices as an ONNX file: what a machine reaches in a precision."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekit.tensors import Array, TensorSpec

PRECISIONS = ("float32", "float16", "int8")
OPSET, IR_VERSION = 20, 9
STEP = 4 / 127
"""Of the int8 codes: samples are of a standard normal distribution."""


def square_product(size: int, precision: str) -> tuple[bytes, TensorSpec, TensorSpec]:
    """An ONNX file of y = x w, all size x size, in one of ``PRECISIONS``, and its input and output.

    w is stored. int8 is written as edgekit writes it: Q/DQ around the product, zero points 0, x and y float32. Raises KeyError
    for another precision.
    """
    weight = np.random.default_rng(0).standard_normal((size, size)) / np.sqrt(size)
    nodes, stored, dtype = {"float32": _float32, "float16": _float16, "int8": _int8}[precision](weight)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [helper.make_tensor_value_info(name, kind, [size, size]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model.SerializeToString(), TensorSpec("x", dtype, (size, size)), TensorSpec("y", dtype, (size, size))


def _float32(weight: Array) -> tuple[list[onnx.NodeProto], dict[str, Array], str]:
    return [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"w": weight.astype(np.float32)}, "float32"


def _float16(weight: Array) -> tuple[list[onnx.NodeProto], dict[str, Array], str]:
    return [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"w": weight.astype(np.float16)}, "float16"


def _int8(weight: Array) -> tuple[list[onnx.NodeProto], dict[str, Array], str]:
    scales = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    zero, step = np.zeros((), np.int8), np.asarray(STEP, np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["x_codes"]),
        helper.make_node("DequantizeLinear", ["x_codes", "step", "zero"], ["x_steps"]),
        helper.make_node("DequantizeLinear", ["codes", "scales", "zeros"], ["w"], axis=1),
        helper.make_node("MatMul", ["x_steps", "w"], ["product"], "product"),
        helper.make_node("QuantizeLinear", ["product", "step", "zero"], ["y_codes"]),
        helper.make_node("DequantizeLinear", ["y_codes", "step", "zero"], ["y"]),
    ]
    stored = {
        "codes": np.rint(weight / scales).astype(np.int8),
        "scales": scales,
        "zeros": np.zeros(len(scales), np.int8),
        "step": step,
        "zero": zero,
    }
    return nodes, stored, "float32"
