"""A copy of an ONNX file in which every float is float64; operators whose results float64 cannot repeat are refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx.inliner

from edgekit.onnx.read import is_standard
from edgekit.onnx.refusal import Inexact
from edgekit.tensors import Array

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_DOUBLE = onnx.TensorProto.DOUBLE
_TYPES = ("to", "dtype", "output_dtype", "output_datatype")  # attributes that name the type of a result
_FLOAT_BY_DEFAULT = ("HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix")
_REFUSED = {
    "QuantizeLinear": "rounds to steps",  # rounding decides the result, so float64 proves nothing
    "DynamicQuantizeLinear": "rounds to steps",
    "RandomNormal": "is random",
    "RandomNormalLike": "is random",
    "RandomUniform": "is random",
    "RandomUniformLike": "is random",
    "Bernoulli": "is random",
    "Multinomial": "is random",
}


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` in which the nodes of its own functions stand in place of their calls."""
    if model.functions:
        return onnx.inliner.inline_local_functions(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def widened(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A copy of ``model`` without functions and stored numbers, and these by name.

    Float16, bfloat16 and float32 become float64, numbers and types. Raises Inexact that names an operator whose result is random
    or rounded to steps.
    """
    wide = inlined(model)
    stored = {tensor.name: widen_array(onnx.numpy_helper.to_array(tensor)) for tensor in wide.graph.initializer}
    wide.graph.ClearField("initializer")  # before the rest, because a second copy of the weights takes time and memory
    _widen_graph(wide.graph)
    return wide, {name: np.require(array, requirements=["C", "W"]) for name, array in stored.items()}


def widen_array(array: Array) -> Array:
    """``array`` in float64 if it holds floats of numpy or bfloat16; otherwise as it is."""
    return array.astype(np.float64) if is_float(array) and array.dtype != np.float64 else array


def is_float(array: Array) -> bool:
    """Whether the array holds floats of numpy, or bfloat16."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches and bodies that a node holds, without those inside them."""
    for attribute in node.attribute:
        yield from _graphs(attribute)


def widen_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    """Make every number and type in the attributes of ``nodes`` float64, in place; raises Inexact as ``widened`` does."""
    for node in nodes:
        if node.op_type in _REFUSED and is_standard(node.domain):
            raise Inexact(f"{node.op_type} {_REFUSED[node.op_type]}")
        for attribute in node.attribute:
            _widen_attribute(attribute)
        if node.op_type in _FLOAT_BY_DEFAULT and not any(each.name == "output_datatype" for each in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("output_datatype", _DOUBLE))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.zeros(1))))


def _widen_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = _DOUBLE
    widen_nodes(graph.node)


def _widen_attribute(attribute: onnx.AttributeProto) -> None:
    for graph in _graphs(attribute):
        _widen_graph(graph)
    if attribute.type == onnx.AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    elif attribute.name in _TYPES and attribute.type == onnx.AttributeProto.INT and attribute.i in _FLOATS:
        attribute.i = _DOUBLE
    elif attribute.name in ("value_float", "value_floats"):
        numbers = np.array(attribute.f if attribute.name == "value_float" else list(attribute.floats), np.float64)
        attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(numbers)))


def _graphs(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    return (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
