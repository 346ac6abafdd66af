"""Nodes that scale and shift each channel by stored numbers, and layers that can take this over.

A batch norm is y = scale (x - mean) / sqrt(var + epsilon) + shift for each channel; Mul, Div, Add and Sub with one number for
each channel are the same in parts. All become y = a x + b, with a and b in float64 (one number, or one for each channel).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import onnx_ir

from edgekit.onnx.constants import Constants
from edgekit.onnx.read import NORM, is_standard
from edgekit.tensors import Array

Reason: TypeAlias = tuple[str, str]  # a code and a sentence
EPSILON = onnx_ir.AttrFloat32("epsilon", float(np.float32(1e-5)))  # ONNX's default is a float32
_ARITHMETIC = ("Mul", "Div", "Add", "Sub")


class Place(NamedTuple):
    """A value that comes out of a layer: its channels lie on ``axis`` of ``rank`` axes."""

    axis: int
    rank: int
    channels: int


class Step(NamedTuple):
    """A node that computes a x + b of its input number ``data``; ``wide``: a is one number for each channel."""

    node: onnx_ir.Node
    data: int
    scale: Array
    shift: Array
    wide: bool

    @property
    def norm(self) -> bool:
        """Whether the node is a BatchNormalization."""
        return self.node.op_type == NORM


def is_norm(node: onnx_ir.Node) -> bool:
    """Whether the node is ONNX's own BatchNormalization."""
    return node.op_type == NORM and is_standard(node.domain)


def step_of(node: onnx_ir.Node, value: onnx_ir.Value, place: Place, constants: Constants) -> Step | None:
    """What ``node`` does to the channels of ``value``; None if that is anything but y = a x + b."""
    if is_norm(node):
        return _norm_step(node, value, place, constants)
    if node.op_type not in _ARITHMETIC or not is_standard(node.domain) or node.inputs[0] is node.inputs[1]:
        return None
    data = 0 if node.inputs[0] is value else 1
    stored = constants.number(node.inputs[1 - data])
    number = _by_channel(stored, place) if stored is not None else None
    if number is None or not np.isfinite(number).all() or (node.op_type == "Div" and (data == 1 or not number.all())):
        return None
    one, zero = np.ones(()), np.zeros(())
    scale, shift = {
        "Mul": (number, zero),
        "Div": (1 / np.where(number == 0, 1, number), zero),
        "Add": (one, number),
        "Sub": (one, -number) if data == 0 else (-one, number),
    }[node.op_type]
    return Step(node, data, scale, shift, scale.ndim > 0)


def _norm_step(node: onnx_ir.Node, value: onnx_ir.Value, place: Place, constants: Constants) -> Step | None:
    if norm_reason(node, constants) is not None or place.axis != 1 or node.inputs[0] is not value:
        return None
    scale, shift = norm_numbers(node, constants)
    return Step(node, 0, scale, shift, wide=True) if len(scale) == place.channels else None


def _by_channel(stored: Array, place: Place) -> Array | None:
    """One number, or one for each channel, of a stored tensor that is broadcast; None if it varies along another axis."""
    if stored.dtype.kind not in "f" and stored.dtype.name != "bfloat16":
        return None
    number = stored.astype(np.float64)
    if number.ndim > place.rank:
        return None
    if number.size == 1:
        return number.reshape(())
    own = number.ndim - (place.rank - place.axis)
    return number.reshape(-1) if own >= 0 and number.shape[own] == place.channels == number.size else None


def norm_reason(node: onnx_ir.Node, constants: Constants) -> Reason | None:
    """The reason against folding that lies in the BatchNormalization itself, or None."""
    training = node.attributes.get("training_mode")
    if (training is not None and training.as_int()) or sum(bool(value.name) for value in node.outputs) > 1:
        return "training", "it is in training mode and uses the statistics of the batch"
    spatial = node.attributes.get("spatial")
    if spatial is not None and not spatial.as_int():
        return "rule", "it has statistics for each position (spatial=0), not for each channel"
    for value in node.inputs[1:5]:
        reason = not_constant(value, "", constants)
        if reason is not None:
            return reason
    scale, shift = norm_numbers(node, constants)
    epsilon = node.attributes.get("epsilon", EPSILON).as_float()
    variance = constants.number(node.inputs[4])
    assert variance is not None
    if not (variance.astype(np.float64) + epsilon > 0).all():
        return "not-finite", "the root of its variance is no number: it is negative or zero"
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return "not-finite", "its statistics or parameters are not finite"
    return None


def norm_numbers(node: onnx_ir.Node, constants: Constants) -> tuple[Array, Array]:
    """The numbers a = scale / sqrt(var + epsilon) and b = shift - mean a of a BatchNormalization, in float64."""
    scale, shift, mean, var = (np.asarray(constants.number(value), np.float64) for value in node.inputs[1:5])
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + node.attributes.get("epsilon", EPSILON).as_float())
        return factor, shift - mean * factor


def not_constant(value: onnx_ir.Value | None, of: str, constants: Constants) -> Reason | None:
    """Why ``value`` cannot be known ahead; ``of`` says in words whose it is. None if it can."""
    if value is not None and value.is_graph_input() and value.is_initializer():
        return "graph-input", f"{value.name}{of} is also an input of the model, whose caller may replace it"
    if constants.number(value) is None:
        return (
            "computed",
            f"{value.name if value is not None else 'a parameter'}{of} is quantised, or computed from the model's inputs",
        )
    return None


def passed_through(node: onnx_ir.Node, place: Place, opset: int, constants: Constants) -> Place | None:
    """Where the channels are behind a node that only moves or copies its first input; None for any other node."""
    if not is_standard(node.domain):
        return None
    if node.op_type == "Identity" or (node.op_type == "Dropout" and _drops_nothing(node, opset, constants)):
        return place
    if node.op_type == "Transpose":
        given = node.attributes.get("perm")
        order = list(given.as_ints()) if given is not None else list(reversed(range(place.rank)))
        return place._replace(axis=order.index(place.axis))
    return None


def _drops_nothing(node: onnx_ir.Node, opset: int, constants: Constants) -> bool:
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return False
    if opset < 7:  # ONNX's first two Dropouts trained unless told otherwise
        tested = node.attributes.get("is_test")
        return tested is not None and bool(tested.as_int())
    training = node.inputs[2] if len(node.inputs) > 2 else None
    return training is None or not training.name or bool((number := constants.number(training)) is not None and not number.any())
