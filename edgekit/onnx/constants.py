"""Values of an ONNX graph that no input changes: stored tensors, and what nodes compute from these alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir

from edgekit.onnx.arithmetic import in_steps
from edgekit.onnx.evaluator import Step
from edgekit.onnx.exact import ExactFile
from edgekit.onnx.read import is_standard
from edgekit.onnx.refusal import Unhandled
from edgekit.tensors import Array

_NAMES = "edgekit.names"
MOST_ELEMENTS = 1 << 28
"""More numbers than any weight has; a file may ask for any size in a few bytes."""


class Constants:
    """The constants of a graph, computed when they are asked for, each at most once."""

    def __init__(self, model: onnx_ir.Model) -> None:
        self._opsets = dict(model.opset_imports)
        self._model = model
        self._computed: dict[onnx_ir.Value, tuple[Array, np.dtype[np.generic]] | None] = {}

    def rank(self, value: onnx_ir.Value | None) -> int | None:
        """The number of axes of ``value``, as the file says or shape inference finds; None if neither knows."""
        if value is None:
            return None
        return len(value.shape) if value.shape is not None else self._ranks.get(str(value.name))

    @cached_property
    def _ranks(self) -> dict[str, int]:
        try:
            inferred = onnx.shape_inference.infer_shapes(onnx_ir.to_proto(self._model)).graph
        except Exception:  # a custom operator, whose shapes cannot be inferred
            return {}
        typed = [value for value in inferred.value_info if value.type.tensor_type.HasField("shape")]
        return {value.name: len(value.type.tensor_type.shape.dim) for value in typed}

    def number(self, value: onnx_ir.Value | None) -> Array | None:
        """The array of ``value``; None if an input of the model, a random number or a custom operator decides it.

        A stored tensor has its own dtype; what nodes compute is computed in float64.
        """
        known = self._known(value)
        return known[0] if known is not None else None

    def dtype(self, value: onnx_ir.Value | None) -> np.dtype[np.generic]:
        """The dtype of a constant in the file."""
        known = self._known(value)
        assert known is not None
        return known[1]

    def _known(self, value: onnx_ir.Value | None) -> tuple[Array, np.dtype[np.generic]] | None:
        if value is None:
            return None
        if value.is_initializer():
            stored = value.const_value
            return None if value.is_graph_input() or stored is None else (array := stored.numpy(), array.dtype)
        if value not in self._computed:
            self._computed[value] = self._compute(value)
        return self._computed[value]

    def _compute(self, value: onnx_ir.Value) -> tuple[Array, np.dtype[np.generic]] | None:
        nodes = self._ancestors(value)
        if nodes is None:
            return None
        inputs = {source for node in nodes for source in node.inputs if source is not None and source.is_initializer()}
        stored = {str(source.name): source.const_value for source in inputs if source.const_value is not None}
        graph = onnx.helper.make_graph(
            [onnx_ir.to_proto(node) for node in nodes],
            "constants",
            [],
            [onnx.ValueInfoProto(name=str(value.name))],
            [_named(onnx_ir.to_proto(tensor), name) for name, tensor in stored.items()],
        )
        return _value_of(graph, [onnx.helper.make_opsetid(domain, version) for domain, version in self._opsets.items()])

    def _ancestors(self, value: onnx_ir.Value) -> list[onnx_ir.Node] | None:
        """The nodes that compute ``value``, in order; None if not all of them can be computed ahead."""
        order: dict[onnx_ir.Node, None] = {}
        waiting = [(value, False)]
        while waiting:
            current, known = waiting.pop()
            node = current.producer()
            if known:
                assert node is not None
                order[node] = None
            elif current.is_initializer():
                if current.is_graph_input() or current.const_value is None:
                    return None
            elif node is None or node.op_type == "Dropout" or not is_standard(node.domain) or _has_body(node):
                return None  # a Dropout may train; other random operators have no value in float64
            elif in_steps(node.op_type):
                return None  # weights that are stored in 8 bits stay so
            elif node not in order:
                waiting.append((current, True))
                waiting += [(source, False) for source in node.inputs if source is not None and source.name]
        return list(order)


def store(graph: onnx_ir.Graph, name: str, numbers: Array) -> onnx_ir.Value:
    """A new stored tensor of these numbers, called ``name``, or with underscores behind it where that is in use."""
    used: set[str | None] = graph.meta.setdefault(_NAMES, set())  # once for a graph, because a file may have thousands of layers
    if not used:
        used |= {value.name for node in graph.all_nodes() for value in (*node.inputs, *node.outputs) if value is not None}
        used |= {value.name for value in graph.inputs}
    while name in used or name in graph.initializers:
        name += "_"
    used.add(name)
    tensor = onnx_ir.tensor(numbers, name=name)
    kind = onnx_ir.TensorType(tensor.dtype)
    value = onnx_ir.Value(name=name, shape=onnx_ir.Shape(numbers.shape), type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def _value_of(graph: onnx.GraphProto, opsets: Sequence[onnx.OperatorSetIdProto]) -> tuple[Array, np.dtype[np.generic]] | None:
    """The output of a graph without inputs, in float64 where it is a float, and its dtype in the file; None if too large."""
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        shapes = [value.type.tensor_type.shape for value in (*inferred.value_info, *inferred.output)]
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(inferred.output[0].type.tensor_type.elem_type))
        if any(math.prod(dim.dim_value for dim in shape.dim) > MOST_ELEMENTS for shape in shapes):
            return None
        array = _computed(ExactFile(model), graph.output[0].name)
    except Exception:  # an operator without a kernel in float64: then the value counts as unknown
        return None
    return array, kind


def _computed(file: ExactFile, name: str) -> Array:
    """The value ``name`` of a file without inputs; raises Unhandled before a node makes more than ``MOST_ELEMENTS`` numbers.

    Shape inference does not see every size: a shape may be computed in ways that it does not follow.
    """
    moments, known = file.moments({}), file.stored
    for step in file.steps:
        if _size_of(step, known) > MOST_ELEMENTS:
            raise Unhandled(f"{step.op_type} makes more numbers than any weight has")
        moment = next(moments)
        known = moment.values
        if name in moment.outputs:
            return np.asarray(moment.outputs[name])
    raise Unhandled(f"{name} is not computed")


def _size_of(step: Step, values: Mapping[str, Any]) -> int:
    """The number of elements that a node which enlarges gives; 0 for another, or where its inputs are not known."""
    inputs = [values.get(name) for name in step.input]
    match step.op_type, inputs:
        case "ConstantOfShape", [np.ndarray() as shape]:
            return int(math.prod(shape.tolist()))
        case "Expand", [np.ndarray() as array, np.ndarray() as shape]:
            return int(max(array.size, math.prod(shape.tolist())))
        case "Tile", [np.ndarray() as array, np.ndarray() as repeats]:
            return int(array.size * math.prod(repeats.tolist()))
    return 0


def _has_body(node: onnx_ir.Node) -> bool:
    kinds = (onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())


def _named(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    tensor.name = name
    return tensor
