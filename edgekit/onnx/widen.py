"""A copy of an ONNX file in which every float is float64; operators whose results float64 cannot repeat are refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import onnx
import onnx.inliner

from edgekit.onnx.read import is_standard
from edgekit.onnx.refusal import Inexact
from edgekit.tensors import Array

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_DOUBLE = onnx.TensorProto.DOUBLE
_DIGITS: dict[int, int] = {
    _DOUBLE: 53,
    onnx.TensorProto.FLOAT: 24,
    onnx.TensorProto.FLOAT16: 11,
    onnx.TensorProto.BFLOAT16: 8,
}  # bits
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")  # attributes that name the type of a result
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

    Float16, bfloat16 and float32 become float64, numbers and types, but for the type to which a Cast narrows: that rounds in any
    dtype. Raises Inexact that names an operator whose result is random or rounded to steps.
    """
    wide = inlined(model)
    read = {tensor.name: (tensor.data_type, onnx.numpy_helper.to_array(tensor)) for tensor in wide.graph.initializer}
    wide.graph.ClearField("initializer")  # before the rest, because a second copy of the weights takes time and memory
    _widen_graph(wide.graph, types_of(wide, {name: kind for name, (kind, _) in read.items()}))
    return wide, {name: np.require(widen_array(array), requirements=["C", "W"]) for name, (_, array) in read.items()}


class Types(NamedTuple):
    """Element types by value, the float type ``own`` to a file, in which most of its layers compute, and the constant values."""

    of: Mapping[str, int] = MappingProxyType({})
    own: int = onnx.TensorProto.FLOAT
    constant: frozenset[str] = frozenset()

    def narrowed(self, node: onnx.NodeProto) -> bool:
        """Whether the node is a Cast that rounds in any arithmetic: of a constant, or to fewer digits than the file's own.

        Rounding to the file's own type is what float64 leaves out, as it does after every other operator.
        """
        given, target = self.of.get(node.input[0], 0) if node.input else 0, _target(node)
        if target not in _DIGITS or not given or _DIGITS.get(given, 64) <= _DIGITS[target]:
            return False
        return node.input[0] in self.constant or _DIGITS[target] < _DIGITS[self.own]


def types_of(model: onnx.ModelProto, stored: Mapping[str, int]) -> Types:
    """The types in ``model``, whose stored tensors have the types ``stored``.

    None are known where no Cast gives a narrow float, or where ONNX cannot infer types.
    """
    if not any(node.op_type == "CastLike" or _target(node) in _FLOATS for node in _every_node(model.graph)):
        return Types()
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    known = {value.name for value in typed.graph.input}
    typed.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in stored.items() if name not in known
    )
    try:
        graph = onnx.shape_inference.infer_shapes(typed).graph
    except Exception:  # a custom operator
        graph = typed.graph
    types = {value.name: value.type.tensor_type.elem_type for value in _every_value(graph)}
    layers = Counter(types.get(node.output[0], 0) for node in model.graph.node if node.op_type in _LAYERS)
    given = [types[value.name] for value in model.graph.input if value.name not in stored]
    kinds = [*(kind for kind, _ in layers.most_common()), *given]
    constant = {*stored, ""} - {value.name for value in model.graph.input if value.name not in stored}
    for node in model.graph.node:
        if constant.issuperset(node.input):
            constant.update(node.output)
    return Types(types, next((kind for kind in kinds if kind in _DIGITS), onnx.TensorProto.FLOAT), frozenset(constant))


NO_TYPES = Types()


def _every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _every_node(inner)


def _every_value(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from (*graph.input, *graph.value_info, *graph.output)
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _every_value(inner)


def _target(node: onnx.NodeProto) -> int:
    """The type to which a Cast converts; 0 for another operator."""
    return next((item.i for item in node.attribute if item.name == "to"), 0) if node.op_type == "Cast" else 0


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


def read_inside(graph: onnx.GraphProto) -> Iterator[str]:
    """The names that graphs inside the nodes of ``graph`` read, their own among them."""
    for node in graph.node:
        for inner in subgraphs(node):
            yield from (name for each in inner.node for name in each.input)
            yield from (value.name for value in inner.output)
            yield from read_inside(inner)


def widen_nodes(nodes: Iterable[onnx.NodeProto], types: Types = NO_TYPES) -> None:
    """Make every number and type in the attributes of ``nodes`` float64, in place; raises Inexact as ``widened`` does.

    A Cast that narrows, as ``types`` say, keeps the type to which it rounds.
    """
    for node in nodes:
        if node.op_type == "CastLike" and types.of.get(node.input[1], 0) in _FLOATS:
            node.op_type = "Cast"
            node.attribute.append(onnx.helper.make_attribute("to", types.of[node.input.pop(1)]))
        if types.narrowed(node):
            continue
        if node.op_type in _REFUSED and is_standard(node.domain):
            raise Inexact(f"{node.op_type} {_REFUSED[node.op_type]}")
        for attribute in node.attribute:
            _widen_attribute(attribute, types)
        if node.op_type in _FLOAT_BY_DEFAULT and not any(each.name == "output_datatype" for each in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("output_datatype", _DOUBLE))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.zeros(1))))


def _widen_graph(graph: onnx.GraphProto, types: Types) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = _DOUBLE
    widen_nodes(graph.node, types)


def _widen_attribute(attribute: onnx.AttributeProto, types: Types) -> None:
    for graph in _graphs(attribute):
        _widen_graph(graph, types)
    if attribute.type == onnx.AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    elif attribute.name in TYPE_ATTRIBUTES and attribute.type == onnx.AttributeProto.INT and attribute.i in _FLOATS:
        attribute.i = _DOUBLE
    elif attribute.name in ("value_float", "value_floats"):
        numbers = np.array(attribute.f if attribute.name == "value_float" else list(attribute.floats), np.float64)
        attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(numbers)))


def _graphs(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    return (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def only_real_inputs(model: onnx.ModelProto) -> None:
    """Leave only those inputs that no initializer fills: old files list all initializers among the inputs."""
    stored = {tensor.name for tensor in model.graph.initializer}
    real = [value for value in model.graph.input if value.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(real)
    model.ir_version = max(model.ir_version, 4)  # the first in which an initializer need not be an input
