"""Bias correction: what rounding a layer's weight moves its output by on average is taken from its bias.

A layer y = W x + b with the rounded weight V has the mean error (V - W) E[x] for each output channel; b' = b - (V - W) E[x]
(Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.2). E[x] is the mean of
each input channel over the calibration samples; the padding around a convolution's input is left out of account.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgekit.onnx.placing import BIASED, Graph, Placement, QuantLayer
from edgekit.onnx.qdq import codes_of_layers
from edgekit.tensors import Array


def corrected_biases(
    graph: Graph, placement: Placement, limits: Mapping[str, float], means: Mapping[str, NDArray[np.float64]]
) -> dict[str, Array]:
    """Layer -> its bias b' in float32, one number for each output channel, for every layer that adds a bias itself.

    ``means``: what layers read -> E[x], float64 of its channels.
    """
    codes = codes_of_layers(graph, placement, limits)
    biases = {}
    for layer in placement.layers:
        weight = graph.array(layer.weight)
        assert weight is not None
        if layer.operator not in BIASED:
            continue
        shift = _shift(codes[layer.name].values - weight.astype(np.float64), means[layer.data], layer)
        bias = graph.array(layer.bias) if layer.bias else np.zeros(len(shift))
        assert bias is not None
        biases[layer.name] = (np.broadcast_to(bias.reshape(-1), shift.shape) - shift).astype(np.float32)
    return biases


def _shift(change: NDArray[np.float64], means: NDArray[np.float64], layer: QuantLayer) -> NDArray[np.float64]:
    """(V - W) E[x] of each output channel; a convolution's groups read channels of their own."""
    if layer.operator != "Conv":
        return np.asarray(change @ means if layer.axis == 0 else means @ change)
    by_channel = change.reshape(change.shape[0], change.shape[1], -1).sum(axis=2)
    groups = len(means) // change.shape[1]
    of_groups = means.reshape(groups, change.shape[1])
    return np.asarray(np.einsum("goi,gi->go", by_channel.reshape(groups, -1, change.shape[1]), of_groups).reshape(-1))
