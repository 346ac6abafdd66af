"""Regimes of an ONNX file's nonlinearities: the ranges of their input in which they behave each in one way.

A fault of a clip shows only in inputs that reach it. What golden inputs did not reach, no comparison can see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgekit.tensors import Array

RELU6 = 6.0
"""A value above it tells Relu from what clips there."""
FLAT = 4.0
"""Beyond it a sigmoid, Tanh, Erf or Gelu is flat, or a straight line, to 2 % or better."""


class Nonlinearity(NamedTuple):
    """A node whose behaviour changes where its input ``value`` crosses a bound; ``bounds`` are sorted, float64."""

    name: str
    operator: str
    value: str
    bounds: NDArray[np.float64]

    def regimes(self, values: Array) -> NDArray[np.bool_]:
        """Which of the ``len(bounds) + 1`` regimes ``values`` reach; a NaN reaches none."""
        finite = values[~np.isnan(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (np.nan, np.nan)
        reached = np.empty(len(self.bounds) + 1, bool)
        reached[0], reached[-1] = low < self.bounds[0], high > self.bounds[-1]
        for place, (least, most) in enumerate(zip(self.bounds, self.bounds[1:], strict=False), 1):
            reached[place] = bool(((finite >= least) & (finite <= most)).any())
        return reached

    def described(self, place: int) -> str:
        """A regime in words: ``below 0``, ``0 to 6``, ``above 6``."""
        if place == 0:
            return f"below {self.bounds[0]:g}"
        if place == len(self.bounds):
            return f"above {self.bounds[-1]:g}"
        return f"{self.bounds[place - 1]:g} to {self.bounds[place]:g}"


def nonlinearities(model: onnx.ModelProto) -> list[Nonlinearity]:
    """The nonlinearities of the main graph whose bounds are known from the file, in its order."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    nodes = []
    for node in model.graph.node:
        bounds_of = _BOUNDS.get(node.op_type) if node.domain in ("", "ai.onnx") and node.input else None
        bounds = sorted(bounds_of(node, constants)) if bounds_of else []
        if bounds and np.isfinite(bounds).all():
            nodes.append(Nonlinearity(node.name or node.output[0], node.op_type, node.input[0], np.asarray(bounds, np.float64)))
    return nodes


_Bounds = Callable[[onnx.NodeProto, Mapping[str, onnx.TensorProto]], Iterable[float]]


def _fixed(*bounds: float) -> _Bounds:
    return lambda node, constants: bounds


def _number(node: onnx.NodeProto, name: str, default: float) -> float:
    return next((float(attribute.f) for attribute in node.attribute if attribute.name == name), default)


def _clip(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Iterable[float]:
    """The ends of a Clip, stored as attributes before opset 11 and as inputs since."""
    ends = [attribute.f for attribute in node.attribute if attribute.name in ("min", "max")]
    for name in node.input[1:]:
        if name in constants:
            ends += [float(number) for number in numpy_helper.to_array(constants[name]).reshape(-1)[:1]]
    return [end for end in ends if abs(end) < np.finfo(np.float32).max]


def _hard_sigmoid(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Iterable[float]:
    slope, offset = _number(node, "alpha", 0.2), _number(node, "beta", 0.5)
    return (-offset / slope, (1 - offset) / slope) if slope else ()


_SMOOTH = ("Sigmoid", "Tanh", "Erf", "Gelu", "Softplus", "Softsign", "Mish")
_KINKED = ("LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Abs")
_BOUNDS: Mapping[str, _Bounds] = {
    "Relu": _fixed(0.0, RELU6),
    "Clip": _clip,
    "HardSwish": _fixed(-3.0, 3.0),
    "HardSigmoid": _hard_sigmoid,
    "ThresholdedRelu": lambda node, constants: (_number(node, "alpha", 1.0),),
    **dict.fromkeys(_SMOOTH, _fixed(-FLAT, FLAT)),
    **dict.fromkeys(_KINKED, _fixed(0.0)),
}
