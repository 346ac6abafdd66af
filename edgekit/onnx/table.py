"""Describe an ONNX file: layers with shapes, parameters, multiply-accumulates, operators. Needs no framework."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx

from edgekit.onnx.read import DESCRIBED, NORM, batch_norms, name_of, opset_of, read_onnx
from edgekit.onnx.widen import inlined
from edgekit.reports.inspect import InspectReport, Layer
from edgekit.tensors import shape_text

Shape = tuple[int | str, ...]


def onnx_table(path: Path) -> InspectReport:
    """Read, check and describe an ONNX file, its functions written out; raises BundleError for any other file.

    A layer whose size is free has no count of multiply-accumulates; the fact "not counted" names such layers.
    """
    model = read_onnx(path, DESCRIBED)
    graph = (onnx.shape_inference.infer_shapes(inlined(model)) if model.functions else model).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    shapes = _shapes(graph) | {name: tuple(tensor.dims) for name, tensor in stored.items()}
    constant, learned = _constants(graph), _learned(graph, shapes)
    layers, unknown = [], []
    for node in graph.node:
        macs = 0 if constant.issuperset(node.output) else _node_macs(node, shapes)
        output = shapes.get(node.output[0], ("?",)) if node.output else ()
        name = node.name or (node.output[0] if node.output else "")
        parameters = 0 if constant.issuperset(node.output) else sum(learned.get(value, 0) for value in _held(node))
        layers.append(Layer(name, node.op_type, output, parameters, macs or 0))
        unknown += [name] if macs is None else []
    return InspectReport(
        source=str(path),
        inputs={value.name: _described(value) for value in graph.input if value.name not in stored},
        outputs={value.name: _described(value) for value in graph.output},
        layers=tuple(layers),
        ops=dict(sorted(Counter(node.op_type for node in graph.node).items())),
        parameters=sum(learned.values()),
        macs=sum(layer.macs for layer in layers),
        batch_norms=batch_norms(model),
        facts={
            "opset": str(opset_of(model)),
            "IR": str(model.ir_version),
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
            "bytes": str(path.stat().st_size),
            **({"not counted": f"multiply-accumulates of {', '.join(unknown)}, whose size is free"} if unknown else {}),
            **{item.key: item.value for item in model.metadata_props},
        },
    )


def node_macs(path: Path) -> dict[str, int | None]:
    """Multiply-accumulates per sample of each node of the main graph, None where a size is free; names as of ``read_nodes``.

    Raises BundleError for a file that is none.
    """
    graph = read_onnx(path, DESCRIBED).graph
    shapes = _shapes(graph) | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    constant = _constants(graph)
    return {name_of(node): 0 if constant.issuperset(node.output) else _node_macs(node, shapes) for node in graph.node}


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


def _constants(graph: onnx.GraphProto) -> set[str]:
    """The names of values that no input of the model changes: stored tensors, and what nodes compute of these."""
    stored = {tensor.name for tensor in graph.initializer}
    constant = stored | {tensor.values.name for tensor in graph.sparse_initializer} | {""}
    for node in graph.node:
        if constant.issuperset(node.input) and not node.op_type.startswith("Random"):
            constant.update(node.output)
    return constant


def _learned(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Name -> count of trained numbers: no shapes, no indices, no single numbers that nodes give, no statistics of a batch norm.

    What nodes compute of stored numbers counts as its result, where a layer reads it.
    """
    constant, types = _constants(graph), _types(graph)
    computed = {name for node in graph.node if constant.issuperset(node.input) for name in node.output}
    readers = [node for node in graph.node if not constant.issuperset(node.output)]
    # equal tensors share one initializer, so a name may be one norm's scale and another's variance
    held = dict.fromkeys(name for node in readers for name in _held(node) if name in constant)
    counts = {name: math.prod(size for size in shapes.get(name, (0,)) if isinstance(size, int)) for name in held}
    return {
        name: count
        for name, count in counts.items()
        if types.get(name) in _FLOATS and not (name in computed and (count <= 1 or not _all_known(shapes[name])))
    }


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_FIRST_ONLY = ("Resize", "Upsample", "Clip", "Pad")  # their other inputs are sizes and bounds


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _held(node: onnx.NodeProto) -> list[str]:
    """A node's inputs, without the running mean and variance of a batch norm, and without sizes and bounds."""
    return list(node.input[: 3 if node.op_type == NORM else 1 if node.op_type in _FIRST_ONLY else None])


def _all_known(shape: Shape) -> bool:
    return all(isinstance(size, int) for size in shape)


def _node_macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Multiply-accumulates per sample: output elements of one sample times the length of each dot product.

    None where a size behind the batch is free.
    """
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.input) < 2 or not node.output:
        return 0
    source, weight, output = (shapes.get(name, ("?",)) for name in (node.input[0], node.input[1], node.output[0]))
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    match node.op_type:
        case "Conv":
            sizes = (*output[1:], *weight[1:])
        case "ConvTranspose":
            sizes = (*source[1:], *weight[1:])
        case "Gemm":
            sizes = (*output[1:], *weight[1 if attributes.get("transB") else 0 :][:1])
        case _:
            sizes = (*output[1:], *source[-1:])
    known = output != ("?",) and weight != ("?",) and source != ("?",)
    return math.prod(size for size in sizes if isinstance(size, int)) if known and _all_known(sizes) else None
