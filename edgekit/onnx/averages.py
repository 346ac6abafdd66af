"""Means and sums over three-axis tensors, written over four axes: OpenVINO misreads its 8-bit kernel of three.

OpenVINO 2026.4.1 fuses ReduceMean, ReduceSum and GlobalAveragePool of three axes in 8 bits with the scale that follows, and reads
that scale beyond its end: where a batch has more samples than the tensor has channels, the result is from unrelated memory. The
same reductions of four axes are right. Unsqueeze and Squeeze move no number.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekit.onnx.placing import Graph
from edgekit.onnx.read import is_standard, name_of

_REDUCING = ("ReduceMean", "ReduceSum")
_RANK = 3


def average_over_four_axes(model: onnx.ModelProto) -> None:
    """Put Unsqueeze and Squeeze around every such node of ``model``; it has opset 13 or newer, and no two nodes of one name.

    No value changes its name or its numbers. A reduction whose axes are computed in the graph stays as it is.
    """
    graph = Graph(model)
    nodes = []
    for node in graph.nodes:
        if is_standard(node.domain) and node.input and graph.ranks.get(node.input[0]) == _RANK and _from_the_front(node, graph):
            nodes += _around(node, graph)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    known = {tensor.name for tensor in model.graph.initializer}
    model.graph.initializer.extend(
        tensor for name, tensor in graph.stored.items() if name not in known and name not in graph.maker
    )


def _from_the_front(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether the node is a mean or a sum over stored axes, which from here on are counted from the first axis."""
    if node.op_type == "GlobalAveragePool":
        return True
    attribute = next((attribute for attribute in node.attribute if attribute.name == "axes"), None)
    stored = graph.array(node.input[1]) if len(node.input) > 1 else None
    if node.op_type not in _REDUCING or (attribute is None and stored is None):
        return False
    if attribute is not None:
        attribute.ints[:] = [axis % _RANK for axis in attribute.ints]
    elif stored is not None:
        node.input[1] = _stored(f"{name_of(node)}/axes", stored.reshape(-1) % _RANK, graph)
    return True


def _around(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto]:
    """The node over four axes, of which the last has one place, with the Unsqueeze before it and the Squeeze behind it."""
    name, source, result = name_of(node), node.input[0], node.output[0]
    last = _stored(f"{name}/last", np.array([-1]), graph)
    node.input[0], node.output[0] = (graph.fresh(f"{name}/{what}") for what in ("four axes", "mean"))
    if not node.name:
        node.name = name
    return [
        helper.make_node("Unsqueeze", [source, last], [node.input[0]], f"{name}/Unsqueeze"),
        node,
        helper.make_node("Squeeze", [node.output[0], last], [result], f"{name}/Squeeze"),
    ]


def _stored(name: str, numbers: np.ndarray, graph: Graph) -> str:
    unused = graph.fresh(name)
    graph.stored[unused] = numpy_helper.from_array(numbers.astype(np.int64), unused)
    return unused
