"""An ONNX network that takes pictures: resizing, layout and normalisation as nodes in front of it.

A picture is uint8, N x height x width x 3 (RGB), of any height and width. Resizing is Pillow's antialiased triangle filter
(``Image.resize`` with BILINEAR), first along the width and then along the height, each result rounded to a whole grey level. The
weight of the input pixel x for the output pixel i, of n input pixels and o output pixels, is

    W[i, x] = max(0, 2 max(n, o) - |(2x + 1) o - (2i + 1) n|),    w[i, x] = W[i, x] / sum over x of W[i, x]

which is max(0, 1 - |x + 0.5 - (i + 0.5) n/o| / max(n/o, 1)) times a constant. All W are whole numbers, so that every runtime has
the same weights, and ``ROUND`` is far enough from a half that every runtime rounds alike.

The nodes are of the oldest kind, matrix products among them, because runtimes do not agree on Resize with antialias: OpenVINO and
ONNX's reference evaluator compute other numbers, and TensorRT refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import ModelError
from edgekit.onnx.read import opset_of
from edgekit.preprocess import Preprocess
from edgekit.tensors import Array, TensorSpec

PICTURE = "picture"
ROUND = 0.5 + 1 / 4096
"""What is added before rounding down: ties, which are exact, go up in every runtime whatever it rounds in a sum."""
GREY = (19595, 38470, 7471)
"""ITU-R BT.601 in 16 bits, as Pillow's convert("L"): L = (19595 R + 38470 G + 7471 B + 32768) >> 16."""
OLDEST = 13
"""The opset in which ReduceSum takes its axes as an input."""


def picture_spec(network: TensorSpec) -> TensorSpec:
    """The input of ``with_pictures``, with the batch of the network's own input."""
    return TensorSpec(PICTURE, "uint8", (network.shape[0], "height", "width", 3))


def levels_name(network: TensorSpec) -> str:
    """The value in the file that holds the resized picture, float32 N x C x H x W in whole grey levels."""
    return f"{PICTURE}.{network.name}.levels"


def with_pictures(model: onnx.ModelProto, network: TensorSpec, preprocess: Preprocess) -> onnx.ModelProto:
    """A copy of ``model`` that takes pictures where it took ``network``, N x C x H x W; it must have no functions.

    Raises ModelError for a file of an opset before ``OLDEST``.
    """
    if opset_of(model) < OLDEST:
        raise ModelError(f"the file is of opset {opset_of(model)}, and resizing needs {OLDEST} or newer", "export it anew")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    front = _Front(network, preprocess)
    spec = picture_spec(network)
    shape: Sequence[Any] = spec.shape
    (place,) = (index for index, value in enumerate(graph.input) if value.name == network.name)
    graph.input[place].CopyFrom(helper.make_tensor_value_info(spec.name, TensorProto.UINT8, shape))
    network_nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend((*front.nodes(), *network_nodes))
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in front.constants.items())
    return copy


class _Front:
    """The nodes in front of a network; ``constants`` are known when ``nodes`` has run to its end."""

    def __init__(self, network: TensorSpec, preprocess: Preprocess) -> None:
        self.network, self.preprocess = network, preprocess
        self.constants: dict[str, Array] = {}

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """Pixels, then both sides, then the network's numbers."""
        mine, name = self.preprocess, self._name
        yield self._node("Cast", (PICTURE,), "pixels", to=TensorProto.FLOAT)
        pixels = "pixels"
        if mine.color == "grey":
            yield from self._grey()
            pixels = "grey"
        yield self._node("Transpose", (name(pixels),), "channels", perm=[0, 3, 1, 2])
        yield self._node("Shape", (PICTURE,), "shape")
        yield from self._weights("width", 2, mine.width)
        yield from self._weights("height", 1, mine.height)
        yield self._node("Transpose", (name("width.weights"),), "width.turned", perm=[1, 0])
        yield self._node("MatMul", (name("channels"), name("width.turned")), "width.sums")
        yield from self._rounded("width.sums", "width.levels")
        yield self._node("MatMul", (name("height.weights"), name("width.levels")), "height.sums")
        yield from self._rounded("height.sums", "levels")
        yield self._node("Div", (name("levels"), self._constant("white", np.float32(255))), "shares")
        columns = {key: np.asarray(getattr(mine, key), np.float32).reshape(1, -1, 1, 1) for key in ("mean", "std")}
        yield self._node("Sub", (name("shares"), self._constant("mean", columns["mean"])), "centred")
        yield helper.make_node(
            "Div", (name("centred"), self._constant("std", columns["std"])), (self.network.name,), name=name("normalised")
        )

    def _grey(self) -> Iterator[onnx.NodeProto]:
        """Multiples of 2^-16 below 256, which float32 adds exactly in any order."""
        weights = np.asarray(GREY, np.float32).reshape(3, 1) / np.float32(1 << 16)
        yield self._node("MatMul", (self._name("pixels"), self._constant("grey.weights", weights)), "grey.sums")
        yield self._node("Add", (self._name("grey.sums"), self._constant("grey.half", np.float32(0.5))), "grey.raised")
        yield self._node("Floor", (self._name("grey.raised"),), "grey")

    def _weights(self, side: str, axis: int, size: int) -> Iterator[onnx.NodeProto]:
        """float32 ``size`` x n: the weight of each of the n pixels of a side of the picture for each of the network's."""
        whole = {
            "axis": np.int64(axis),
            "from": np.int64(0),
            "step": np.int64(1),
            "two": np.int64(2),
            "size": np.int64(size),
            "twice": np.int64(2 * size),
            "places": (2 * np.arange(size, dtype=np.int64) + 1)[:, None],
            "along": np.asarray([1], np.int64),
        }
        given = {key: self._constant(f"{side}.{key}", value) for key, value in whole.items()}

        def name(key: str) -> str:
            return self._name(f"{side}.{key}")

        yield self._node("Gather", (self._name("shape"), given["axis"]), f"{side}.pixels", axis=0)
        yield self._node("Range", (given["from"], name("pixels"), given["step"]), f"{side}.numbers")
        yield self._node("Mul", (name("numbers"), given["twice"]), f"{side}.doubled")
        yield self._node("Add", (name("doubled"), given["size"]), f"{side}.centres")
        yield self._node("Mul", (given["places"], name("pixels")), f"{side}.sought")
        yield self._node("Sub", (name("centres"), name("sought")), f"{side}.apart")
        yield self._node("Abs", (name("apart"),), f"{side}.distances")
        yield self._node("Max", (name("pixels"), given["size"]), f"{side}.wider")
        yield self._node("Mul", (name("wider"), given["two"]), f"{side}.reach")
        yield self._node("Sub", (name("reach"), name("distances")), f"{side}.slopes")
        yield self._node("Max", (name("slopes"), given["from"]), f"{side}.triangles")
        yield self._node("ReduceSum", (name("triangles"), given["along"]), f"{side}.areas", keepdims=1)
        yield self._node("Cast", (name("triangles"),), f"{side}.triangles.float", to=TensorProto.FLOAT)
        yield self._node("Cast", (name("areas"),), f"{side}.areas.float", to=TensorProto.FLOAT)
        yield self._node("Div", (name("triangles.float"), name("areas.float")), f"{side}.weights")

    def _rounded(self, sums: str, levels: str) -> Iterator[onnx.NodeProto]:
        yield self._node("Add", (self._name(sums), self._constant("round", np.float32(ROUND))), f"{levels}.raised")
        yield self._node("Floor", (self._name(f"{levels}.raised"),), levels)

    def _node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, (self._name(output),), name=self._name(output), **attributes)

    def _constant(self, name: str, value: Any) -> str:
        self.constants[self._name(name)] = np.asarray(value)
        return self._name(name)

    def _name(self, name: str) -> str:
        """Names that no network has."""
        return f"{PICTURE}.{self.network.name}.{name}"
