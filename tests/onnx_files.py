"""ONNX files in memory, in the form of a TensorRT build: hand-made files, in several precisions. Nothing here needs PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekit.backends.tensorrt.network import OnnxFile
from edgekit.tensors import Array, Feed, TensorSpec


def onnx_file(
    content: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], precision: str = "float32"
) -> OnnxFile:
    return OnnxFile(Path("model.onnx"), content, tuple(inputs), tuple(outputs), precision)


def reference_outputs(model: onnx.ModelProto, feed: Feed) -> list[Array]:
    """What ONNX's own evaluator computes, in the order of the file's outputs."""
    outputs = ReferenceEvaluator(model).run(None, dict(feed))
    assert isinstance(outputs, list)
    return outputs


def image_spec(channels: int = 1, size: int = 28) -> tuple[TensorSpec, ...]:
    """One float32 picture input with a free batch axis."""
    return (TensorSpec("input", "float32", ("batch", channels, size, size)),)


def half(model: OnnxFile) -> OnnxFile:
    """The same network with every float tensor in float16."""
    proto = onnx.load_model_from_string(model.content)
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    inputs, outputs = (
        tuple(msgspec.structs.replace(spec, dtype="float16") for spec in side) for side in (model.inputs, model.outputs)
    )
    return onnx_file(proto.SerializeToString(), inputs, outputs, precision="float16")


def quantised(zero_point: int = 0, uint8: bool = False) -> OnnxFile:
    """A convolution whose input and weights pass symmetric quantisers."""
    dtype = np.uint8 if uint8 else np.int8
    weights = np.random.default_rng(0).integers(-100, 100, (4, 1, 3, 3)).astype(np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], name="dequantise"),
        helper.make_node("DequantizeLinear", ["weights", "scale", "none"], ["w"], name="dequantise_weights"),
        helper.make_node("Conv", ["x", "w"], ["output"], name="conv"),
    ]
    stored = {"scale": np.float32(0.1), "zero": dtype(zero_point), "none": np.int8(0), "weights": weights}
    return crafted(nodes, stored, (4, 26, 26), precision="int8")


def crafted(
    nodes: list[onnx.NodeProto], stored: dict[str, Any], shape: tuple[int, ...], *, precision: str = "float32"
) -> OnnxFile:
    inputs, outputs = image_spec(), (TensorSpec("output", "float32", ("batch", *shape)),)
    graph = helper.make_graph(
        nodes,
        "crafted",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(inputs[0].shape))],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(outputs[0].shape))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("my", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnx_file(model.SerializeToString(), inputs, outputs, precision)
