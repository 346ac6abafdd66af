"""Cross-layer equalisation: neighbouring convolutions share out their weights' ranges, so that no channel is lost in its tensor.

For f with f(s x) = s f(x), s > 0, two layers W2 f(W1 x + b1) compute the same with W1 / s, b1 / s and W2 s, for each channel
between them. s = sqrt(r1 / r2), with the largest |weights| r1 and r2 of the channel on both sides, gives both the same range
(Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.1). With weights in 8 bits
by channel it is the values between the layers, of one scale for all channels, that gain.

Every s is rounded to a power of two, so that no number is rounded: the network computes the same to the last bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgekit.onnx.placing import Graph, operator_of
from edgekit.onnx.read import name_of

_HOMOGENEOUS = ("Relu", "LeakyRelu", "Identity")
"""f(s x) = s f(x) for every s > 0; Clip, Sigmoid and HardSwish are not."""
_SWEEPS = 30
_MOST = 20
"""Powers of two that a channel is scaled by at most."""


class _Pair(NamedTuple):
    """Two convolutions with nothing but homogeneous activations between them."""

    first: onnx.NodeProto
    second: onnx.NodeProto


def equalise(model: onnx.ModelProto) -> tuple[str, ...]:
    """Equalise the convolutions of ``model``, float32 and of nodes with names of their own; gives the first of every pair.

    Pairs are Conv -> (Relu, LeakyRelu, Identity) -> Conv, with one group or depthwise, where nothing else reads what is between
    them, their weights or their biases.
    """
    graph = Graph(model)
    pairs = [pair for node in graph.nodes if (pair := _pair(node, graph)) is not None]
    weights = {node.input[1]: _wide(graph, node.input[1]) for pair in pairs for node in pair}
    powers = _powers(pairs, weights, graph)
    for pair, power in zip(pairs, powers, strict=True):
        for name in pair.first.input[1:]:
            _scale(graph, name, -power, 0)
        _scale(graph, pair.second.input[1], power, _input_axis(pair.second, graph))
    return tuple(name_of(pair.first) for pair, power in zip(pairs, powers, strict=True) if power.any())


def _pair(node: onnx.NodeProto, graph: Graph) -> _Pair | None:
    if not _free(node, graph):
        return None
    follower = graph.only_reader(node.output[0])
    while follower is not None and operator_of(follower) in _HOMOGENEOUS:
        follower = graph.only_reader(follower.output[0])
    if follower is None or not _free(follower, graph) or follower.input[1] == node.input[1]:
        return None
    whole = _groups(follower) == 1 or _input_axis(follower, graph) == 0
    return _Pair(node, follower) if whole else None


def _free(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether the node is a convolution of stored finite numbers that it alone reads, each once."""
    if operator_of(node) != "Conv" or len(set(node.input)) != len(node.input):
        return False
    arrays = [graph.array(name) if graph.only_reader(name) is node else None for name in node.input[1:]]
    return all(array is not None and array.dtype == np.float32 and bool(np.isfinite(array).all()) for array in arrays)


def _groups(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _input_axis(node: onnx.NodeProto, graph: Graph) -> int:
    """The axis of the weight along which its input channels lie: those of a depthwise convolution are its output channels."""
    weight = graph.array(node.input[1])
    assert weight is not None
    return 0 if weight.shape[0] == _groups(node) > 1 else 1


def _wide(graph: Graph, name: str) -> NDArray[np.float64]:
    array = graph.array(name)
    assert array is not None
    return array.astype(np.float64)


def _powers(pairs: list[_Pair], weights: dict[str, NDArray[np.float64]], graph: Graph) -> list[NDArray[np.int64]]:
    """The power of two that each channel between the layers of each pair is divided by, until no pair changes any more."""
    logs = [np.zeros(len(weights[pair.first.input[1]])) for pair in pairs]
    for _ in range(_SWEEPS):
        moved = 0.0
        for place, (first, second) in enumerate(pairs):
            axis = _input_axis(second, graph)
            before, behind = _largest(weights[first.input[1]], 0), _largest(weights[second.input[1]], axis)
            alive = (before > 0) & (behind > 0)
            step = np.where(alive, 0.5 * np.log2(np.where(alive, before, 1) / np.where(alive, behind, 1)), 0.0)
            logs[place] += step
            weights[first.input[1]] = _along(weights[first.input[1]], np.exp2(-step), 0)
            weights[second.input[1]] = _along(weights[second.input[1]], np.exp2(step), axis)
            moved = max(moved, float(np.abs(step).max()))
        if moved < 2.0**-6:
            break
    return [np.rint(each).clip(-_MOST, _MOST).astype(np.int64) for each in logs]


def _largest(weight: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.asarray(np.abs(weight).max(axis=tuple(other for other in range(weight.ndim) if other != axis)))


def _along(weight: NDArray[np.float64], factors: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return weight * factors.reshape([-1 if place == axis else 1 for place in range(weight.ndim)])


def _scale(graph: Graph, name: str, powers: NDArray[np.int64], axis: int) -> None:
    """Multiply a stored tensor, in place, by powers of two along ``axis``."""
    scaled = _along(_wide(graph, name), np.exp2(powers.astype(np.float64)), axis).astype(np.float32)
    graph.stored[name].CopyFrom(numpy_helper.from_array(scaled, name))
