"""Describe an ONNX file: layers with shapes, parameters, multiply-accumulates, operators. Needs no framework."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx

from edgekit.onnx.read import DESCRIBED, NORM, batch_norms, opset_of, read_onnx
from edgekit.reports.inspect import InspectReport, Layer
from edgekit.tensors import shape_text

Shape = tuple[int | str, ...]


def onnx_table(path: Path) -> InspectReport:
    """Read, check and describe an ONNX file; raises BundleError for any other file."""
    model = read_onnx(path, DESCRIBED)
    graph = model.graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = _shapes(graph)
    learned = _learned(graph)
    layers = tuple(_layer_row(node, shapes, weights, learned) for node in graph.node)
    return InspectReport(
        source=str(path),
        inputs={value.name: _described(value) for value in graph.input if value.name not in weights},
        outputs={value.name: _described(value) for value in graph.output},
        layers=layers,
        ops=dict(sorted(Counter(node.op_type for node in graph.node).items())),
        parameters=sum(learned.values()),
        macs=sum(layer.macs for layer in layers),
        batch_norms=batch_norms(model),
        facts={
            "opset": str(opset_of(model)),
            "IR": str(model.ir_version),
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
            "bytes": str(path.stat().st_size),
            **{item.key: item.value for item in model.metadata_props},
        },
    )


def _shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    return {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}


def _shape(value: onnx.ValueInfoProto) -> Shape:
    return tuple(
        axis.dim_param or (axis.dim_value if axis.HasField("dim_value") else "?") for axis in value.type.tensor_type.shape.dim
    )


def _described(value: onnx.ValueInfoProto) -> str:
    dtype = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
    return f"{dtype} {shape_text(_shape(value))}"


def _learned(graph: onnx.GraphProto) -> dict[str, int]:
    """Name -> count of trained numbers: no shapes, no indices, no running statistics of a batch norm."""
    floating = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    # equal tensors share one initializer, so a name may be one norm's scale and another's variance
    statistics = {name for node in graph.node for name in node.input[len(_held(node)) :]}
    statistics -= {name for node in graph.node for name in _held(node)}
    return {
        tensor.name: math.prod(tensor.dims)
        for tensor in graph.initializer
        if tensor.data_type in floating and tensor.name not in statistics
    }


def _held(node: onnx.NodeProto) -> list[str]:
    """A node's inputs, without the running mean and variance of a batch norm."""
    return list(node.input[:3] if node.op_type == NORM else node.input)


def _layer_row(
    node: onnx.NodeProto, shapes: Mapping[str, Shape], weights: Mapping[str, tuple[int, ...]], learned: Mapping[str, int]
) -> Layer:
    output = shapes.get(node.output[0], ("?",)) if node.output else ()
    parameters = sum(learned.get(name, 0) for name in _held(node))
    return Layer(
        node.name or (node.output[0] if node.output else ""), node.op_type, output, parameters, _node_macs(node, shapes, weights)
    )


def _node_macs(node: onnx.NodeProto, shapes: Mapping[str, Shape], weights: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates per sample: output elements of one sample times the length of each dot product."""
    output = shapes.get(node.output[0], ()) if node.output else ()
    per_sample = math.prod(size for size in output[1:] if isinstance(size, int))
    weight = weights.get(node.input[1], ()) if len(node.input) > 1 else ()
    if node.op_type == "Conv" and weight:
        return per_sample * math.prod(weight[1:])
    if node.op_type == "ConvTranspose" and weight:
        source = shapes.get(node.input[0], ())
        return math.prod(size for size in source[1:] if isinstance(size, int)) * math.prod(weight[1:])
    if node.op_type == "Gemm" and weight:
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return per_sample * weight[1 if transposed else 0]
    if node.op_type == "MatMul":
        inner = shapes.get(node.input[0], weights.get(node.input[0], ()))
        return per_sample * inner[-1] if inner and isinstance(inner[-1], int) else 0
    return 0
