"""Layers of an ONNX file that can take over a scale and a shift for each of their output channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx_ir

from edgekit.onnx.affine import Place, Reason, not_constant
from edgekit.onnx.constants import Constants
from edgekit.onnx.read import is_standard
from edgekit.tensors import Array

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NAMED = "Conv, ConvTranspose, Gemm or MatMul"


class Numbers(NamedTuple):
    """The numbers of a layer: its weight, and its bias for each output channel (zeros where it has none)."""

    weight: Array
    bias: Array


def is_layer(node: onnx_ir.Node | None) -> bool:
    """Whether the node is of a kind that can take over a scale and a shift."""
    return node is not None and node.op_type in LAYERS and is_standard(node.domain)


def place_of(layer: onnx_ir.Node, constants: Constants) -> Place | None:
    """Where the output channels of ``layer`` lie; None if its weight is no constant of a usual shape."""
    weight = constants.number(layer.inputs[1]) if len(layer.inputs) > 1 else None
    if weight is None or weight.ndim < 2:
        return None
    match layer.op_type:
        case "Conv":
            return Place(1, weight.ndim, weight.shape[0])
        case "ConvTranspose":
            return Place(1, weight.ndim, weight.shape[1] * _group(layer))
        case "Gemm":
            return Place(1, 2, weight.shape[0 if _flag(layer, "transB") else 1])
        case _:
            rank = constants.rank(layer.inputs[0])
            return Place(rank - 1, rank, weight.shape[1]) if weight.ndim == 2 and rank is not None and rank >= 2 else None


def layer_reason(layer: onnx_ir.Node, name: str, names: Mapping[onnx_ir.Node, str], constants: Constants) -> Reason | None:
    """Why the numbers of ``layer`` cannot be changed, or None."""
    weight, *bias = layer.inputs[1:3]
    for value in (weight, *(value for value in bias if value is not None and value.name)):
        reason = not_constant(value, f" of {name}", constants)
        if reason is not None:
            return reason
    if weight is not None and weight.is_initializer() and (len(weight.uses()) > 1 or weight.is_graph_output()):
        others = ", ".join(sorted({names[user] for user, _ in weight.uses() if user is not layer}))
        sharers = others or ("an output" if weight.is_graph_output() else "another input of that layer")
        return "shared-weight", f"{weight.name} of {name} is shared with {sharers}"
    place = place_of(layer, constants)
    if place is None or _bias(layer, place, constants) is None:
        return "rule", f"{name} is a {layer.op_type} of an unusual shape"
    return None


def numbers_of(layer: onnx_ir.Node, constants: Constants) -> Numbers:
    """The layer's numbers in float64; the layer must have no reason against a change."""
    weight, place = constants.number(layer.inputs[1]), place_of(layer, constants)
    assert weight is not None
    assert place is not None
    bias = _bias(layer, place, constants)
    assert bias is not None
    return Numbers(weight.astype(np.float64), bias)


def _bias(layer: onnx_ir.Node, place: Place, constants: Constants) -> Array | None:
    value = layer.inputs[2] if len(layer.inputs) > 2 and layer.op_type != "MatMul" else None
    if value is None or not value.name:
        return np.zeros(place.channels)
    stored = constants.number(value)
    if stored is None or stored.size not in (1, place.channels) or (stored.ndim and stored.shape[-1] != stored.size):
        return None
    beta = layer.attributes.get("beta")
    factor = beta.as_float() if layer.op_type == "Gemm" and beta is not None else 1.0
    bias: Array = np.broadcast_to(factor * stored.astype(np.float64).reshape(-1), (place.channels,)).copy()
    return bias


def scaled(layer: onnx_ir.Node, numbers: Numbers, scale: Array, shift: Array) -> Numbers:
    """The numbers of the layer that computes ``scale * layer(x) + shift``, one number for each output channel.

    The weight is out x in / group x kernel of a Conv, in x out / group x kernel of a ConvTranspose, in x out of a Gemm or MatMul
    (out x in with transB).
    """
    weight, ones = numbers.weight, (1,) * (numbers.weight.ndim - 2)
    match layer.op_type:
        case "Conv":
            changed = weight * scale.reshape(-1, 1, *ones)
        case "ConvTranspose":
            groups = weight.reshape(_group(layer), -1, *weight.shape[1:])
            changed = (groups * scale.reshape(_group(layer), 1, -1, *ones)).reshape(weight.shape)
        case "Gemm" if _flag(layer, "transB"):
            changed = weight * scale.reshape(-1, 1)
        case _:
            changed = weight * scale
    return Numbers(changed, numbers.bias * scale + shift)


def _group(layer: onnx_ir.Node) -> int:
    group = layer.attributes.get("group")
    return group.as_int() if group is not None else 1


def _flag(layer: onnx_ir.Node, name: str) -> bool:
    attribute = layer.attributes.get(name)
    return attribute is not None and bool(attribute.as_int())
