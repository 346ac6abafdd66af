"""Where an int8 file rounds, in the PyTorch graph that the file is written from.

``onnx/placing.py`` decides for the ONNX file of the folded network. Here every value that it rounds, and every layer whose weight
it stores in 8 bits, is found again in the graph: by its name and by its numbers on a probe, since the exporter renames values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, fx, nn

from edgekit.errors import ModelError
from edgekit.fold import fold
from edgekit.graphs.trace import TRACED_BATCH, output_specs, tensors_of_feed
from edgekit.graphs.write import export_onnx
from edgekit.onnx.averages import average_over_four_axes
from edgekit.onnx.placing import MOVING, Graph, Placement, QuantLayer, kept_by_rule, name_apart, operator_of, placed
from edgekit.onnx.read import name_of
from edgekit.onnx.run import open_every_value
from edgekit.recipe import ExportRecipe
from edgekit.reports.export import FoldReport
from edgekit.tensors import Array, Feed, TensorSpec, normalised_error, sample_feed

aten = torch.ops.aten
SAME = 1e-4
"""The error of scale below which two values on the probe are one: rounding in float32 is far less, and two values far more."""
_REMEDY = "leave [train.int8] out and calibrate with edgekit quantize, and report the model"


class Folded(NamedTuple):
    """A folded network whose parameters are its own, with what it takes and gives, and how it was folded."""

    graph: fx.GraphModule
    report: FoldReport
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def onnx(self, settings: ExportRecipe) -> onnx.ModelProto:
        """The float32 file as ``edgekit quantize`` takes it from a bundle."""
        content = export_onnx(self.graph, self.report, self.inputs, self.outputs, opset=settings.opset)
        return placeable(onnx.load_from_string(content))


def placeable(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, of our own export, in the form in which steps are placed."""
    name_apart(model)
    average_over_four_axes(model)
    return model


def placement_of(model: onnx.ModelProto) -> Placement:
    """Where the int8 copy of a placeable file rounds."""
    graph = Graph(model)
    return placed(graph, kept_by_rule(graph))


def folded(model: nn.Module, inputs: Sequence[TensorSpec], settings: ExportRecipe) -> Folded:
    """Fold a copy of ``model`` as ``edgekit export`` does; raises ModelError if it cannot be traced."""
    graph, report = fold(model, inputs, fold_bn=settings.fold_bn)
    plain = _plain(graph)
    return Folded(plain, report, tuple(inputs), output_specs(plain, inputs))


def _plain(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph as a module of its own: that of torch.export refuses train() and eval(), and warns when it is copied.

    Raises ModelError unless it gives one tensor, as training asks.
    """
    copy, nodes = fx.Graph(), dict[fx.Node, fx.Node]()
    returned: list[fx.Node] = []
    fx.node.map_arg(copy.graph_copy(graph.graph, nodes), returned.append)
    if len(returned) != 1:
        raise ModelError(f"the network gives {len(returned)} outputs, and training for int8 takes one", "return the logits alone")
    copy.output(returned[0])
    _split_linears(copy)
    stored = {str(node.target): attrgetter(str(node.target))(graph) for node in nodes if node.op == "get_attr"}
    return fx.GraphModule(stored, copy).requires_grad_(True)  # folding leaves new weights without gradients


def _split_linears(graph: fx.Graph) -> None:
    """Write linear layers over more than two axes as a product and a sum, as ONNX has them: a file rounds between the two."""
    for node in [node for node in graph.nodes if node.target is aten.linear.default and node.args[0].meta["val"].dim() != 2]:
        source, weight, *bias = node.args
        with graph.inserting_before(node):
            product = graph.call_function(aten.matmul.default, (source, graph.call_function(aten.t.default, (weight,))))
            result = graph.call_function(aten.add.Tensor, (product, bias[0])) if bias and bias[0] is not None else product
        product.meta, result.meta = dict(node.meta), dict(node.meta)
        node.replace_all_uses_with(result)
        graph.erase_node(node)


class Weighted(NamedTuple):
    """The node ``reader`` that computes with ``weight``, whose output channels lie along ``axis``, and adds ``bias``."""

    reader: fx.Node
    weight: fx.Node
    axis: int
    bias: fx.Node | None


class Places(NamedTuple):
    """A folded network, its float32 file, where the file's int8 copy rounds, and the same places in the network's graph.

    ``values``: ONNX value -> node. ``layers``: ONNX layer -> its weight. A value that only moves numbers of its own group is left
    out: what is rounded already stays as it is.
    """

    graph: fx.GraphModule
    model: onnx.ModelProto
    placement: Placement
    values: Mapping[str, fx.Node]
    layers: Mapping[str, Weighted]


def find_places(network: Folded, settings: ExportRecipe) -> Places:
    """Find the places; raises ModelError for a network without layers for 8 bits, and for a value that its graph has not."""
    model = network.onnx(settings)
    graph, placement = Graph(model), placement_of(model)
    if not placement.layers:
        raise ModelError(
            "the network has no layer that 8 bits would suit, so that nothing can be trained for int8", "leave [train.int8] out"
        )
    probe = sample_feed(network.inputs, TRACED_BATCH + 1)
    results = {name_of(node): node.output[0] for node in graph.nodes if node.output}
    wanted = [value for value in placement.groups if not _only_moves(value, placement, graph)]
    wanted += [results[layer.name] for layer in placement.layers]
    nodes = _Nodes(network.graph, probe)
    found = nodes.find(model, dict.fromkeys(wanted), probe)
    layers = {layer.name: nodes.weighted(layer, found[results[layer.name]], graph) for layer in placement.layers}
    return Places(network.graph, model, placement, {value: found[value] for value in placement.groups if value in found}, layers)


def _only_moves(value: str, placement: Placement, graph: Graph) -> bool:
    maker = graph.maker.get(value)
    return maker is not None and operator_of(maker) in MOVING and placement.groups.get(maker.input[0]) == placement.groups[value]


class _Nodes(fx.Interpreter):
    """Runs a graph on a probe and keeps the float32 value of every node."""

    def __init__(self, graph: fx.GraphModule, probe: Feed) -> None:
        super().__init__(graph)
        self._values: dict[fx.Node, Array] = {}
        with torch.no_grad():
            self.run(*tensors_of_feed(probe), enable_io_processing=False)

    def run_node(self, node: fx.Node) -> Any:
        """The node's value, of which a copy is kept."""
        value = super().run_node(node)
        if node.op != "output" and isinstance(value, Tensor) and value.dtype == torch.float32:
            self._values[node] = np.asarray(value.clone().numpy())
        return value

    def find(self, model: onnx.ModelProto, names: Mapping[str, None], probe: Feed) -> dict[str, fx.Node]:
        """The node of each of the values ``names`` of an ONNX file; raises ModelError for one that no node computes."""
        run = open_every_value(model, Path("model.onnx"), only={*names})
        values = {**run(probe), **probe}
        return {name: self._node(name, values[name]) for name in names}

    def weighted(self, layer: QuantLayer, node: fx.Node, graph: Graph) -> Weighted:
        """The weight of ``layer`` that ``node`` reads; raises ModelError if it reads another."""
        numbers = graph.array(layer.weight)
        assert numbers is not None
        read = [each for each in node.all_input_nodes if each in self._values]
        weight = next((each for each in read if np.array_equal(self._values[each], numbers)), None)
        if weight is None:
            raise ModelError(f"{node.name} of the PyTorch graph has not the weight of {layer.name} of the ONNX file", _REMEDY)
        biases = [each for each in read if each is not weight and each.op == "get_attr"]
        return Weighted(node, weight, layer.axis, biases[0] if layer.bias and biases else None)

    def _node(self, name: str, value: Array) -> fx.Node:
        """The first node with these numbers, or the one of this name among them."""
        same = [node for node, array in self._values.items() if node.op != "get_attr" and _same(array, value)]
        if not same:
            raise ModelError(f"value {name!r} of the ONNX file is computed by no node of the PyTorch graph alone", _REMEDY)
        return next((node for node in same if node.name == name), same[0])


def _same(array: Array, value: Array) -> bool:
    return array.shape == value.shape and normalised_error(array, value) <= SAME
