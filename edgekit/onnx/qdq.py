"""Write QuantizeLinear and DequantizeLinear into an ONNX graph, in the one spelling that all runtimes read alike.

Values that are never negative are uint8 with zero point 0, all others int8 with zero point 0, and both have the scale limit/127.
TensorRT takes no other zero point and reads uint8 as int8; ONNX Runtime and OpenVINO multiply uint8 with int8, and with codes up
to 127 the sum of two products stays within the 16 bits that CPUs without VNNI have for it. Weights are stored in int8, with a
scale for each output channel; biases stay in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgekit.onnx.placing import Graph, Placement, QuantLayer
from edgekit.onnx.read import name_of
from edgekit.tensors import Array

CODES = 127
"""The largest code, which stands for a value's limit."""
CODES_OF_SIGNED = 63
"""The largest code of a weight that multiplies signed values: CPUs without VNNI move these to 0..255 and add two products."""
MOST_BIAS = 2.0**30
"""Steps of a bias: ONNX Runtime holds it as int32, in units of the input's scale times the weight's."""


class WeightCodes(NamedTuple):
    """A weight in 8 bits: ``codes`` int8 of its shape, and ``scales`` float32 of its output channels along ``axis``."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    axis: int

    @property
    def values(self) -> NDArray[np.float64]:
        """The numbers that the codes stand for."""
        return np.asarray(self.codes * _along(self.scales.astype(np.float64), self.axis, self.codes.ndim), np.float64)


def weight_codes(weight: Array, axis: int, least: NDArray[np.float64], most: int = CODES) -> WeightCodes:
    """Round a weight to ``most`` steps on each side of zero, for each channel along ``axis``; ``least`` are the least scales.

    scale[c] = max(max|w[c]| / most, least[c]); a channel of zeros, or of less than float32 has in full, has the scale 1.
    """
    others = tuple(other for other in range(weight.ndim) if other != axis)
    scales = np.maximum(np.abs(weight.astype(np.float64)).max(axis=others) / most, least)
    scales = np.where(scales >= np.finfo(np.float32).tiny, scales, 1.0).astype(np.float32)
    codes = np.rint(weight / _along(scales, axis, weight.ndim)).clip(-most, most)
    return WeightCodes(codes.astype(np.int8), scales, axis)


def _along(numbers: Array, axis: int, ndim: int) -> Array:
    return numbers.reshape([-1 if place == axis else 1 for place in range(ndim)])


def quantised_model(
    model: onnx.ModelProto,
    placement: Placement,
    limits: Mapping[str, float],
    biases: Mapping[str, Array],
) -> onnx.ModelProto:
    """A copy of ``model`` with steps where ``placement`` says.

    ``limits``: group -> the |value| that the code 127 stands for, above 0. ``biases``: layer -> its bias, where it is another
    than the file's.
    """
    writer = _Writer(model, placement, limits)
    for layer in placement.layers:
        writer.weight(layer, biases.get(layer.name))
    writer.values()
    return writer.finished()


def codes_of_layers(graph: Graph, placement: Placement, limits: Mapping[str, float]) -> dict[str, WeightCodes]:
    """The weight of each layer in 8 bits, by the layer's name."""
    return {layer.name: _codes(graph, placement, limits, layer) for layer in placement.layers}


def _codes(graph: Graph, placement: Placement, limits: Mapping[str, float], layer: QuantLayer) -> WeightCodes:
    weight, bias = graph.array(layer.weight), graph.array(layer.bias) if layer.bias else None
    assert weight is not None
    group = placement.groups[layer.data]
    channels = weight.shape[layer.axis]
    steps = np.zeros(channels) if bias is None else np.abs(np.broadcast_to(bias.reshape(-1), (channels,)).astype(np.float64))
    least = steps / (MOST_BIAS * limits[group] / CODES)
    return weight_codes(weight, layer.axis, least, CODES_OF_SIGNED if group in placement.signed else CODES)


class _Writer:
    """Adds tensors and nodes to a copy of a model, under names that it does not have yet."""

    def __init__(self, model: onnx.ModelProto, placement: Placement, limits: Mapping[str, float]) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._graph = Graph(self._model)
        self._placement, self._limits = placement, limits
        self._nodes = {name_of(node): node for node in self._model.graph.node}
        self._before: dict[str, list[onnx.NodeProto]] = {}
        self._added: list[onnx.TensorProto] = []
        self._steps: dict[str, tuple[str, str]] = {}

    def weight(self, layer: QuantLayer, bias: Array | None) -> None:
        """Store the layer's weight in 8 bits, and its bias where it is given."""
        codes = _codes(self._graph, self._placement, self._limits, layer)
        node = self._nodes[layer.name]
        base = f"{layer.weight}/{layer.name}" if len(self._graph.readers[layer.weight]) > 1 else layer.weight
        names = [self._stored(f"{base}/codes", codes.codes), self._stored(f"{base}/scales", codes.scales)]
        names.append(self._stored(f"{base}/zeros", np.zeros(len(codes.scales), np.int8)))
        steps = helper.make_node(
            "DequantizeLinear", names, [self._graph.fresh(f"{base}/steps")], f"{base}/DequantizeLinear", axis=layer.axis
        )
        self._before[layer.name] = [steps]
        node.input[1] = steps.output[0]
        if bias is not None:
            stored = self._stored(f"{base}/bias", bias.astype(np.float32))
            node.input[2:] = [stored]

    def values(self) -> None:
        """Round every value of the placement, and let all nodes read it so."""
        rounded = {value: self._rounded(value) for value in self._placement.groups}
        nodes = []
        for value in self._graph.types:
            nodes += rounded.get(value, []) if value not in self._graph.maker else []
        for node in self._model.graph.node:
            for place, name in enumerate(node.input):
                if name in rounded:
                    node.input[place] = rounded[name][-1].output[0]
            nodes += [*self._before.get(name_of(node), []), node]
            for name in node.output:
                nodes += rounded.get(name, [])
        del self._model.graph.node[:]
        self._model.graph.node.extend(nodes)

    def _rounded(self, value: str) -> list[onnx.NodeProto]:
        group = self._placement.groups[value]
        if group not in self._steps:
            zero = np.zeros((), np.int8 if group in self._placement.signed else np.uint8)
            scale = np.asarray(self._limits[group] / CODES, np.float32)
            self._steps[group] = self._stored(f"{group}/scale", scale), self._stored(f"{group}/zero", zero)
        codes, steps = self._graph.fresh(f"{value}/codes"), self._graph.fresh(f"{value}/steps")
        return [
            helper.make_node("QuantizeLinear", [value, *self._steps[group]], [codes], f"{value}/QuantizeLinear"),
            helper.make_node("DequantizeLinear", [codes, *self._steps[group]], [steps], f"{value}/DequantizeLinear"),
        ]

    def finished(self) -> onnx.ModelProto:
        """The model, without the tensors that nothing reads any more."""
        graph = self._model.graph
        graph.initializer.extend(self._added)
        inside = self._graph.inner | {value.name for value in graph.output}
        read = {name for node in graph.node for name in node.input} | inside
        stored = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(stored)
        nodes = [node for node in graph.node if node.op_type != "Constant" or read.intersection(node.output)]
        del graph.node[:]
        graph.node.extend(nodes)
        return self._model

    def _stored(self, name: str, array: Array) -> str:
        unused = self._graph.fresh(name)
        self._added.append(numpy_helper.from_array(np.asarray(array, order="C"), unused))
        return unused
