"""A quantised file for runtimes that take no uint8, or no stored 8-bit weights: the same numbers in another spelling.

A portable file keeps values that are never negative in uint8 with zero point 0, and uses codes up to 127 within its calibrated
ranges: there the two types mean the same, and beyond them int8 clips. A file whose scale is meant for 255 codes loses all that
is above half of the range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit.onnx.read import is_standard, name_of
from edgekit.onnx.widen import subgraphs

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
MOST = 127
"""The largest code that uint8 and int8 share."""
_UINT8, _INT8 = onnx.TensorProto.UINT8, onnx.TensorProto.INT8
_ZERO_POINT = 2
_Stored: TypeAlias = Mapping[str, onnx.TensorProto]


class Unsigned(Exception):
    """A node's uint8 numbers have no equal in int8; the message names the node and says why."""


def unsigned_steps(model: onnx.ModelProto) -> tuple[str, ...]:
    """The QuantizeLinear nodes that give uint8, by name, or by what they put out if they have none.

    A node with neither a zero point nor an ``output_dtype`` gives uint8 too, as ONNX has it.
    """
    return tuple(
        name_of(node)
        for graph, stored in _graphs(model.graph, {})
        for node in graph.node
        if _is_step(node) and node.op_type == QUANTIZE and _gives_uint8(node, stored)
    )


def signed_codes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` whose steps with the uint8 zero point 0 have the int8 zero point 0, and the scales that they had.

    Stored uint8 codes become int8. The nodes keep their names and their order; those inside functions stay as they are. Raises
    Unsigned for another uint8 zero point, a stored code above 127, and codes that are an input of the model.
    """
    signed = onnx.ModelProto()
    signed.CopyFrom(model)
    inputs = {value.name for value in signed.graph.input if value.type.tensor_type.elem_type == _UINT8}
    for graph, stored in list(_graphs(signed.graph, {})):
        for node in filter(_is_step, graph.node):
            if node.op_type == DEQUANTIZE:
                if node.input[0] in inputs and node.input[0] not in stored:
                    raise Unsigned(f"{name_of(node)} reads the uint8 input {node.input[0]}")
                _store_signed(graph, node, 0, stored, MOST)
            _store_signed(graph, node, _ZERO_POINT, stored, 0)
            for attribute in node.attribute:
                if attribute.name == "output_dtype" and attribute.i == _UINT8:
                    attribute.i = _INT8
    _drop_unread(signed, _UINT8)
    return signed


def float_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` whose stored int8 codes are float32 numbers behind a QuantizeLinear, which gives the same codes.

    A number is code * scale in float32, and code = round(number / scale). Codes whose scale is not a stored float32 tensor of one
    number, or of one for each index of an axis, stay; so do nodes inside functions.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for graph, stored in list(_graphs(wide.graph, {})):
        for place, node in reversed(list(enumerate(graph.node))):
            numbers = _numbers(node, stored) if _is_step(node) and node.op_type == DEQUANTIZE else None
            if numbers is None:
                continue
            source, name = f"{node.output[0]}/float", f"{node.output[0]}/codes"
            graph.initializer.append(onnx.numpy_helper.from_array(numbers, source))
            quantize = onnx.helper.make_node(QUANTIZE, [source, *node.input[1:]], [name], f"{name_of(node)}/quantize")
            quantize.attribute.extend(attribute for attribute in node.attribute if attribute.name == "axis")
            node.input[0] = name
            graph.node.insert(place, quantize)
    _drop_unread(wide, _INT8)
    return wide


def _numbers(node: onnx.NodeProto, stored: _Stored) -> NDArray[np.float32] | None:
    """What a DequantizeLinear gives, if it reads stored int8 codes and stored float32 scales."""
    tensor, scale = (stored.get(name) for name in node.input[:2])
    if tensor is None or scale is None or tensor.data_type != _INT8 or scale.data_type != onnx.TensorProto.FLOAT:
        return None
    codes, scales = onnx.numpy_helper.to_array(tensor), onnx.numpy_helper.to_array(scale)
    if scales.size > 1:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        if scales.ndim != 1 or scales.size != codes.shape[axis]:
            return None
        scales = scales.reshape([-1 if place == axis % codes.ndim else 1 for place in range(codes.ndim)])
    return np.asarray(codes.astype(np.float32) * scales.reshape(scales.shape if scales.size > 1 else ()), np.float32)


def _graphs(graph: onnx.GraphProto, outer: _Stored) -> Iterator[tuple[onnx.GraphProto, _Stored]]:
    """A graph and those inside its nodes, each with the stored tensors that its nodes see."""
    constants = {
        node.output[0]: item.t
        for node in graph.node
        if node.op_type == "Constant"
        for item in node.attribute
        if item.name == "value"
    }
    stored = {**outer, **constants, **{tensor.name: tensor for tensor in graph.initializer}}
    yield graph, stored
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _graphs(inner, stored)


def _store_signed(graph: onnx.GraphProto, node: onnx.NodeProto, place: int, stored: _Stored, most: int) -> None:
    """Let ``node`` read an int8 copy of its uint8 input at ``place``, which may hold numbers up to ``most``."""
    tensor = stored.get(node.input[place]) if len(node.input) > place else None
    if tensor is None or tensor.data_type != _UINT8:
        return
    codes = onnx.numpy_helper.to_array(tensor)
    largest = int(codes.max(initial=0))
    if largest > most:
        what = "zero point" if place == _ZERO_POINT else "stored code"
        raise Unsigned(f"{name_of(node)} has the uint8 {what} {largest}")
    name = f"{node.input[place]}/int8"
    if all(held.name != name for held in graph.initializer):
        graph.initializer.append(onnx.numpy_helper.from_array(codes.astype(np.int8), name))
    node.input[place] = name


def _drop_unread(model: onnx.ModelProto, kind: int) -> None:
    """Take out the tensors of this type that no node reads any more, and the notes that say a value inside is of it."""
    graphs = [graph for graph, _ in _graphs(model.graph, {})]
    read = {name for graph in graphs for node in graph.node for name in node.input}
    read |= {value.name for graph in graphs for value in graph.output}
    for graph in graphs:
        for tensor in [held for held in graph.initializer if held.data_type == kind and held.name not in read]:
            graph.initializer.remove(tensor)
        for node in [node for node in graph.node if node.op_type == "Constant" and read.isdisjoint(node.output)]:
            graph.node.remove(node)
        for value in [value for value in graph.value_info if value.type.tensor_type.elem_type == kind]:
            graph.value_info.remove(value)


def _is_step(node: onnx.NodeProto) -> bool:
    return node.op_type in (QUANTIZE, DEQUANTIZE) and is_standard(node.domain)


def _gives_uint8(node: onnx.NodeProto, stored: _Stored) -> bool:
    if len(node.input) > _ZERO_POINT and node.input[_ZERO_POINT]:
        zero = stored.get(node.input[_ZERO_POINT])
        return zero is not None and zero.data_type == _UINT8
    asked = next((attribute.i for attribute in node.attribute if attribute.name == "output_dtype"), 0)
    return asked in (0, _UINT8)
