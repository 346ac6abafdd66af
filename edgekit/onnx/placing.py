"""Where 8-bit steps go in an ONNX graph: which layers read them, which values are rounded to them, and which share a scale.

ONNX Runtime, OpenVINO and TensorRT fuse a layer into an 8-bit kernel where its input, its weight and its output stand between
QuantizeLinear and DequantizeLinear. So the inputs of layers are rounded, what comes out of a layer (behind its Relu), both
terms and the sum of a residual Add, and what only moves these numbers. Logits, and whatever leads to no further layer, stay in
float.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from edgekit.onnx.names import fresh_name
from edgekit.onnx.read import is_standard, name_of
from edgekit.onnx.widen import read_inside
from edgekit.tensors import Array

_REORDERING = ("Identity", "Dropout", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
MOVING = (*_REORDERING, "MaxPool", "Slice", "Split", "DepthToSpace", "SpaceToDepth")
"""Operators whose outputs are some of their first input's numbers: both have one scale."""
_AVERAGING = ("AveragePool", "GlobalAveragePool", "ReduceMean")
NARROW = 16
"""Channels below which 8-bit kernels do not pay, unless they are 8 (NVIDIA's own rule).

The first layer is one of these, and by far the one whose rounding costs most: its input is the picture itself.
"""
MISREAD = "it reads a Concat of signed values, whose zero point OpenVINO loses before a convolution"
LAST = "no layer follows it: its result is an answer and stays in float, and so do its weights"
"""Why the layers behind which nothing is rounded stay in float, unless there are no others."""
_NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt", "Softplus")


def operator_of(node: onnx.NodeProto) -> str:
    """The node's operator, with its domain before it where that is not ONNX's own."""
    return str(node.op_type) if is_standard(node.domain) else f"{node.domain}.{node.op_type}"


class QuantLayer(NamedTuple):
    """A layer that computes in 8 bits: its ``data`` input, ``bias``, and ``weight`` with output channels along ``axis``."""

    name: str
    operator: str
    data: str
    weight: str
    axis: int
    bias: str


class Kept(NamedTuple):
    """A layer that stays in float, its operator, its output, and why."""

    name: str
    operator: str
    output: str
    reason: str


class Placement(NamedTuple):
    """Which ``layers`` compute in 8 bits, and which values are rounded: value -> the group that shares its scale.

    ``signed``: groups that hold negative numbers. ``clamped``: values whose negative numbers a Clip behind them makes zero, so
    that their group need not hold them.
    """

    layers: tuple[QuantLayer, ...]
    groups: Mapping[str, str]
    signed: frozenset[str]
    clamped: frozenset[str]
    kept: tuple[Kept, ...]

    def members(self) -> dict[str, list[str]]:
        """Group -> its values, in the order of the graph."""
        members: dict[str, list[str]] = defaultdict(list)
        for value, group in self.groups.items():
            members[group].append(value)
        return dict(members)


class Graph:
    """The main graph of a model without functions: who makes and who reads each value, and what is stored."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.nodes = list(graph.node)
        self.stored: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
        for node in self.nodes:
            if operator_of(node) == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.stored[node.output[0]] = node.attribute[0].t
        self.maker = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        self.outputs = {value.name for value in graph.output}
        self.inner = set(read_inside(graph))
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self._names = {*self.types, *self.stored, *self.maker, *self.inner}
        self.ranks = {
            value.name: len(value.type.tensor_type.shape.dim) for value in values if value.type.tensor_type.HasField("shape")
        }

    def array(self, name: str) -> Array | None:
        """A stored tensor; None for anything else."""
        return numpy_helper.to_array(self.stored[name]) if name in self.stored else None

    def fresh(self, name: str) -> str:
        """``name``, or with a number behind it where a value has it; the next caller gets another."""
        return fresh_name(name, self._names)

    def moving(self, name: str) -> bool:
        """Whether the value is a float32 that the inputs decide."""
        return bool(name) and name not in self.stored and self.types.get(name) == onnx.TensorProto.FLOAT

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads the value, where nothing else does."""
        readers = self.readers[name]
        alone = len(readers) == 1 and name not in self.outputs and name not in self.inner
        return readers[0] if alone else None


def name_apart(model: onnx.ModelProto) -> None:
    """Rename nodes of ``model`` whose name an earlier node has, which ONNX allows, so that ``name_of`` tells all nodes apart."""
    names: set[str] = set()
    for node in model.graph.node:
        name = fresh_name(name_of(node), names)
        if name != name_of(node):
            node.name = name


def placed(graph: Graph, keep: Mapping[str, str], narrow: Container[str] = ()) -> Placement:
    """Where 8-bit steps go in ``graph``, in which no two nodes have one name.

    ``keep``: node -> why it stays float. ``narrow``: layers that need not be wide enough for 8 bits to pay.
    """
    placement = _placed(graph, keep, narrow)
    misread = {layer.name: MISREAD for layer in placement.layers if _misread(layer, placement, graph)}
    return placed(graph, {**misread, **keep}, narrow) if misread else placement


def _placed(graph: Graph, keep: Mapping[str, str], narrow: Container[str]) -> Placement:
    layers, kept = [], []
    for node in graph.nodes:
        if operator_of(node) in LAYERS:
            reason = keep.get(name_of(node)) or _unfit(node, graph, name_of(node) in narrow)
            if reason:
                kept.append(Kept(name_of(node), node.op_type, node.output[0], reason))
            else:
                layers.append((node, _layer(node, graph)))
    marks = _Marks(graph, {node.output[0]: layer for node, layer in layers})
    rounded = marks.run()
    groups = {value: marks.group(value) for value in graph_order(graph) if value in rounded}
    positive = _not_negative(graph) | marks.clamped
    signed = frozenset(group for value, group in groups.items() if value not in positive)
    return Placement(tuple(layer for _, layer in layers), groups, signed, frozenset(marks.clamped & set(groups)), tuple(kept))


def last_layers(graph: Graph) -> list[str]:
    """The names of the layers that no layer follows, whose results stay in float."""
    leads = _leads_to_a_layer(graph)
    return [name_of(node) for node in graph.nodes if operator_of(node) in LAYERS and node.output[0] not in leads]


def kept_by_rule(graph: Graph) -> dict[str, str]:
    """The layers that stay in float unless there are no others, node -> why: the last ones."""
    last = dict.fromkeys(last_layers(graph), LAST)
    return last if placed(graph, last).layers else {}


def first_layers(graph: Graph) -> list[str]:
    """The names of the layers that read no other layer's result."""
    names: list[str] = []
    behind: set[str] = set()
    for node in graph.nodes:
        if operator_of(node) in LAYERS and behind.isdisjoint(node.input):
            names.append(name_of(node))
        if operator_of(node) in LAYERS or not behind.isdisjoint(node.input):
            behind.update(node.output)
    return names


def graph_order(graph: Graph) -> Iterator[str]:
    """Every value that no node stores, inputs first."""
    made = [name for node in graph.nodes for name in node.output if name]
    yield from (name for name in (*(name for name in graph.types if name not in graph.maker), *made) if name not in graph.stored)


def _unfit(node: onnx.NodeProto, graph: Graph, may_be_narrow: bool) -> str:
    """Why a layer cannot compute in 8 bits, or would not pay; empty if it can."""
    weight = graph.array(node.input[1]) if len(node.input) > 1 else None
    bias = node.input[2] if len(node.input) > 2 else ""
    if weight is None or weight.dtype != np.float32 or (bias and graph.array(bias) is None):
        return "its weight is not stored in the file as float32"
    if not graph.moving(node.input[0]):
        return "its input is not float32, or depends on no input of the model"
    if not np.isfinite(weight).all():
        return "its weight holds numbers that are not finite"
    return _UNFIT[node.op_type](node, weight, graph) or ("" if may_be_narrow else _too_narrow(node, weight))


def _too_narrow(node: onnx.NodeProto, weight: Array) -> str:
    if node.op_type != "Conv":
        narrow = min(weight.shape) < NARROW
        return f"it is {weight.shape[0]}x{weight.shape[1]}: below {NARROW} an 8-bit kernel does not pay" if narrow else ""
    group = _attributes(node).get("group", 1)
    square = len(set(weight.shape[2:])) == 1
    for kind, channels in (("input", weight.shape[1] * group), ("output", weight.shape[0])):
        if channels < NARROW and not (channels % 8 == 0 and square):
            return f"it has {channels} {kind} channels: below {NARROW} an 8-bit kernel does not pay"
    return ""


def _misread(layer: QuantLayer, placement: Placement, graph: Graph) -> bool:
    """Whether OpenVINO 2026.4.1 misreads a convolution: it loses the zero point that it gives signed values before a Concat.

    It does so too where nodes between the two reorder numbers or multiply them by stored ones. A depthwise convolution is right.
    """
    if layer.operator != "Conv" or placement.groups[layer.data] not in placement.signed or _is_depthwise(layer, graph):
        return False
    value = layer.data
    while (maker := graph.maker.get(value)) is not None and operator_of(maker) in (*_REORDERING, "Mul", "Div"):
        moved = maker.input if operator_of(maker) in ("Mul", "Div") else maker.input[:1]
        computed = [name for name in moved if name not in graph.stored]
        if len(computed) != 1:
            return False
        value = computed[0]
    return maker is not None and operator_of(maker) == "Concat"


def _is_depthwise(layer: QuantLayer, graph: Graph) -> bool:
    weight = graph.array(layer.weight)
    return weight is not None and weight.shape[0] > 1 == weight.shape[1]


def _unfit_gemm(node: onnx.NodeProto, weight: Array, graph: Graph) -> str:
    attributes = _attributes(node)
    if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1 or attributes.get("transA"):
        return "its alpha, beta or transA is of no 8-bit kernel"
    bias = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if bias is not None and bias.size != 1 and bias.size != bias.shape[-1]:
        return "its bias is another for each row"
    return _unfit_matmul(node, weight, graph)


def _unfit_matmul(node: onnx.NodeProto, weight: Array, graph: Graph) -> str:
    return "its weight has not two axes" if weight.ndim != 2 else ""


def _unfit_conv(node: onnx.NodeProto, weight: Array, graph: Graph) -> str:
    return ""


def _unfit_transposed(node: onnx.NodeProto, weight: Array, graph: Graph) -> str:
    return "no runtime has an 8-bit kernel for ConvTranspose"


_UNFIT: dict[str, Callable[[onnx.NodeProto, Array, Graph], str]] = {
    "Conv": _unfit_conv,
    "ConvTranspose": _unfit_transposed,
    "Gemm": _unfit_gemm,
    "MatMul": _unfit_matmul,
}
LAYERS = tuple(_UNFIT)
BIASED = ("Conv", "Gemm")
"""Layers that add a bias themselves; behind a MatMul an Add does, if there is one."""


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _layer(node: onnx.NodeProto, graph: Graph) -> QuantLayer:
    axis = 0 if node.op_type == "Conv" or _attributes(node).get("transB") else 1
    bias = node.input[2] if len(node.input) > 2 else ""
    return QuantLayer(name_of(node), node.op_type, node.input[0], node.input[1], axis, bias)


class _Marks:
    """The values that are rounded, and which of them share a scale (a forest of groups)."""

    def __init__(self, graph: Graph, layers: Mapping[str, QuantLayer]) -> None:
        self._graph, self._layers = graph, layers
        self._marked: set[str] = set()
        self._parent: dict[str, str] = {}
        self._leads = _leads_to_a_layer(graph)
        self.clamped: set[str] = set()

    def group(self, value: str) -> str:
        """The value that stands for the group."""
        while value in self._parent:
            value = self._parent[value]
        return value

    def run(self) -> set[str]:
        """Mark until nothing changes."""
        for output, layer in self._layers.items():
            self._mark(layer.data)
            self._mark_result(output)
        before = -1
        while before != len(self._marked):
            before = len(self._marked)
            for node in self._graph.nodes:
                self._spread(node)
        return self._marked

    def _mark(self, *values: str) -> None:
        self._marked.update(value for value in values if self._graph.moving(value))

    def _join(self, *values: str) -> None:
        first, *others = values
        for other in others:
            mine, theirs = self.group(first), self.group(other)
            if mine != theirs:
                self._parent[theirs] = mine
        self._mark(*values)

    def _mark_result(self, output: str) -> None:
        """Mark what comes out of a layer or a sum, behind its Relu, Clip or swish, where it leads to a further layer."""
        follower = self._graph.only_reader(output)
        operator = operator_of(follower) if follower is not None else ""
        if follower is not None and operator == "Relu":
            output = follower.output[0]
        elif follower is not None and operator == "Clip" and self._from_zero(follower):
            if follower.output[0] in self._leads:
                self.clamped.add(output)
                self._join(follower.output[0], output)
            return
        output = self._swish(output) or output
        if output in self._leads and output not in self._graph.outputs:
            self._mark(output)

    def _swish(self, value: str) -> str:
        """The product of ``value`` and its sigmoid where nothing else reads it: an activation, as Relu is, in two nodes.

        To round before it too costs a decibel, and gains no kernel: ONNX Runtime fuses no layer that both nodes read.
        """
        readers = {operator_of(node): node for node in self._graph.readers[value]}
        gate, product = readers.get("Sigmoid") or readers.get("HardSigmoid"), readers.get("Mul")
        alone = len(self._graph.readers[value]) == 2 and value not in self._graph.outputs and value not in self._graph.inner
        if gate is None or product is None or not alone or self._graph.only_reader(gate.output[0]) is not product:
            return ""
        return product.output[0] if {*product.input} == {value, gate.output[0]} else ""

    def _from_zero(self, clip: onnx.NodeProto) -> bool:
        low = self._graph.array(clip.input[1]) if len(clip.input) > 1 and clip.input[1] else None
        return low is not None and float(low) == 0

    def _spread(self, node: onnx.NodeProto) -> None:
        """Mark what a node moves or joins where its result is read in 8 bits, and the sum of two rounded values."""
        operator = operator_of(node)
        read = [name for name in node.output if name in self._marked]
        if operator in MOVING and read:
            self._join(node.input[0], *read)
        elif operator == "Concat" and read:
            self._join(*node.input, *read)
        elif operator == "Add" and self._marked.issuperset(node.input):
            self._mark_result(node.output[0])


def _leads_to_a_layer(graph: Graph) -> set[str]:
    """The values from which a layer, of 8 bits or not, is reached."""
    leads: set[str] = set()
    for node in reversed(graph.nodes):
        if operator_of(node) in LAYERS or leads.intersection(node.output):
            leads.update(node.input)
    return leads


def _not_negative(graph: Graph) -> set[str]:
    """The values that can hold no negative number, by the operators that make them."""
    positive: set[str] = {name for name, tensor in graph.stored.items() if _from_zero_on(numpy_helper.to_array(tensor))}
    for node in graph.nodes:
        operator, inputs = operator_of(node), [name for name in node.input if name]
        given = inputs[:1] if operator in (*MOVING, *_AVERAGING) else inputs
        clip = operator == "Clip" and len(node.input) > 1 and node.input[1] in positive
        through = operator in (*MOVING, *_AVERAGING, "Concat", "Add", "Mul") and positive.issuperset(given)
        if operator in _NOT_NEGATIVE or clip or through:
            positive.update(node.output)
    return positive


def _from_zero_on(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(array.size) and float(array.min()) >= 0
