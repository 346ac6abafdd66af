"""Faults that happen to ONNX files on their way, each as a function that changes a copy of the model.

A kind takes a model and a random generator, and returns what it did, or None where the model has no place for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Kind: TypeAlias = Callable[[onnx.ModelProto, np.random.Generator], "str | None"]
Layer: TypeAlias = "tuple[onnx.NodeProto, onnx.TensorProto]"
WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def weights_of(model: onnx.ModelProto, smallest_rank: int = 2) -> list[Layer]:
    """The layers with their stored weights."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    sites = []
    for node in model.graph.node:
        if node.op_type in WITH_WEIGHTS:
            sites += [
                (node, stored[name]) for name in node.input[1:2] if name in stored and len(stored[name].dims) >= smallest_rank
            ]
    return sites


def biases_of(model: onnx.ModelProto) -> list[Layer]:
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in WITH_WEIGHTS and len(node.input) > 2]
    return [(node, stored[node.input[2]]) for node in layers if node.input[2] in stored]


def put(tensor: onnx.TensorProto, values: NDArray[np.float32]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), tensor.name))


def element(change: Callable[[np.float32, np.random.Generator], float]) -> Kind:
    """One weight that is not zero, changed."""

    def inject(model: onnx.ModelProto, rng: np.random.Generator) -> str | None:
        node, tensor = choice(rng, weights_of(model))
        values = numpy_helper.to_array(tensor).copy()
        places = np.argwhere(values != 0)
        place = tuple(int(index) for index in places[rng.integers(len(places))])
        before = values[place]
        values[place] = change(before, rng)
        put(tensor, values)
        return f"{node.name}{list(place)}: {before:.6g} -> {values[place]:.6g}"

    return inject


def flipped(bits: tuple[int, ...]) -> Callable[[np.float32, np.random.Generator], float]:
    def change(value: np.float32, rng: np.random.Generator) -> float:
        while True:
            bit = int(rng.choice(bits))
            other = float((np.float32(value).view(np.uint32) ^ np.uint32(1 << bit)).view(np.float32))
            if np.isfinite(other) and abs(other) < 1e6:
                return other

    return change


def whole(change: Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32] | None]) -> Kind:
    """All weights of one layer, changed."""

    def inject(model: onnx.ModelProto, rng: np.random.Generator) -> str | None:
        layers = weights_of(model)
        for index in rng.permutation(len(layers)):
            node, tensor = layers[index]
            values = numpy_helper.to_array(tensor)
            changed = change(values.copy(), rng)
            if changed is not None and not np.array_equal(changed, values):
                put(tensor, changed)
                return str(node.name)
        return None

    return inject


def swapped(axis: int) -> Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32] | None]:
    def change(values: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32] | None:
        if values.shape[axis] < 2:
            return None
        first, second = rng.choice(values.shape[axis], 2, replace=False)
        order = np.arange(values.shape[axis])
        order[[first, second]] = order[[second, first]]
        return np.take(values, order, axis)

    return change


def transposed(values: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32] | None:
    return values.swapaxes(-1, -2) if values.ndim == 4 and values.shape[-1] == values.shape[-2] > 1 else None


def mirrored(values: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32] | None:
    return values[..., ::-1] if values.ndim == 4 and values.shape[-1] > 1 else None


def biased(change: Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]) -> Kind:
    def inject(model: onnx.ModelProto, rng: np.random.Generator) -> str | None:
        layers = [(node, tensor) for node, tensor in biases_of(model) if numpy_helper.to_array(tensor).any()]
        if not layers:
            return None
        node, tensor = choice(rng, layers)
        put(tensor, change(numpy_helper.to_array(tensor).copy(), rng))
        return str(node.name)

    return inject


def one_moved(values: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    values[rng.integers(len(values))] += 1e-3
    return values


def colours(model: onnx.ModelProto, rng: np.random.Generator) -> str | None:
    """The first layer reads its input's channels backwards, as where BGR is given for RGB."""
    names = {value.name for value in model.graph.input}
    for node, tensor in weights_of(model, 4):
        if node.input[0] in names and tensor.dims[1] > 1:
            put(tensor, numpy_helper.to_array(tensor)[:, ::-1])
            return str(node.name)
    return None


def operator(kind: str, change: Callable[[onnx.ModelProto, onnx.NodeProto, np.random.Generator], bool]) -> Kind:
    """One node of a kind, changed or replaced in place."""

    def inject(model: onnx.ModelProto, rng: np.random.Generator) -> str | None:
        nodes = [node for node in model.graph.node if node.op_type == kind]
        for index in rng.permutation(len(nodes)):
            if change(model, nodes[index], rng):
                return f"{nodes[index].name} {kind} -> {nodes[index].op_type}"
        return None

    return inject


def to_relu6(model: onnx.ModelProto, node: onnx.NodeProto, rng: np.random.Generator) -> bool:
    low, high = stored(model, node.name + "/low", 0.0), stored(model, node.name + "/high", 6.0)
    node.op_type = "Clip"
    node.input.extend([low, high])
    return True


def stored(model: onnx.ModelProto, name: str, value: float) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return name


def to_leaky(model: onnx.ModelProto, node: onnx.NodeProto, rng: np.random.Generator) -> bool:
    node.op_type = "LeakyRelu"
    node.attribute.append(helper.make_attribute("alpha", 0.01))
    return True


def to_identity(model: onnx.ModelProto, node: onnx.NodeProto, rng: np.random.Generator) -> bool:
    node.op_type = "Identity"
    del node.attribute[:]
    del node.input[1:]
    return True


def renamed(to: str) -> Callable[[onnx.ModelProto, onnx.NodeProto, np.random.Generator], bool]:
    def change(model: onnx.ModelProto, node: onnx.NodeProto, rng: np.random.Generator) -> bool:
        node.op_type = to
        return True

    return change


def to_average(model: onnx.ModelProto, node: onnx.NodeProto, rng: np.random.Generator) -> bool:
    if len(node.output) > 1 and node.output[1]:
        return False
    node.op_type = "AveragePool"
    kept = [each for each in node.attribute if each.name in ("kernel_shape", "strides", "pads", "auto_pad", "ceil_mode")]
    del node.attribute[:]
    node.attribute.extend(kept)
    return True


def moved_pads(model: onnx.ModelProto, node: onnx.NodeProto, rng: np.random.Generator) -> bool:
    """The padding of one side moves to the other, which keeps the shape."""
    for each in node.attribute:
        if each.name == "pads" and any(each.ints):
            half = len(each.ints) // 2
            axis = int(np.argmax(each.ints[:half]))
            if each.ints[axis] == 0:
                return False
            each.ints[axis] -= 1
            each.ints[axis + half] += 1
            return True
    return False


def other_alpha(model: onnx.ModelProto, node: onnx.NodeProto, rng: np.random.Generator) -> bool:
    """A HardSigmoid of another framework's slope."""
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("alpha", 0.2))
    return True


def other_epsilon(model: onnx.ModelProto, node: onnx.NodeProto, rng: np.random.Generator) -> bool:
    for each in node.attribute:
        if each.name == "epsilon":
            each.f = 1e-3
            return True
    node.attribute.append(helper.make_attribute("epsilon", 1e-3))
    return True


def outputs(change: Callable[[onnx.ModelProto, str, str, np.random.Generator], list[onnx.NodeProto]]) -> Kind:
    """Something behind the first output."""

    def inject(model: onnx.ModelProto, rng: np.random.Generator) -> str | None:
        name = model.graph.output[0].name
        inner = f"{name}/before"
        for node in model.graph.node:
            for index, each in enumerate(node.output):
                if each == name:
                    node.output[index] = inner
        model.graph.node.extend(change(model, inner, name, rng))
        return "behind the output"

    return inject


def scaled_by(factor: float) -> Kind:
    def change(model: onnx.ModelProto, inner: str, name: str, rng: np.random.Generator) -> list[onnx.NodeProto]:
        return [helper.make_node("Mul", [inner, stored(model, name + "/factor", factor)], [name], name="fault")]

    return outputs(change)


def cast_through(kind: int) -> Kind:
    def change(model: onnx.ModelProto, inner: str, name: str, rng: np.random.Generator) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Cast", [inner], [name + "/narrow"], to=kind, name="fault-narrow"),
            helper.make_node("Cast", [name + "/narrow"], [name], to=TensorProto.FLOAT, name="fault-wide"),
        ]

    return outputs(change)


def softmaxed(model: onnx.ModelProto, inner: str, name: str, rng: np.random.Generator) -> list[onnx.NodeProto]:
    return [helper.make_node("Softmax", [inner], [name], axis=-1, name="fault")]


def choice(rng: np.random.Generator, items: list[Layer]) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    return items[int(rng.integers(len(items)))]


def narrowed(dtype: type) -> Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]:
    return lambda values, rng: values.astype(dtype).astype(np.float32)


KINDS: dict[str, Kind] = {
    "weight x1.01": element(lambda value, rng: float(value) * 1.01),
    "weight x1.1": element(lambda value, rng: float(value) * 1.1),
    "weight zeroed": element(lambda value, rng: 0.0),
    "weight negated": element(lambda value, rng: -float(value)),
    "bit of a mantissa": element(flipped((16, 17, 18, 19, 20, 21, 22))),
    "bit of an exponent": element(flipped((23, 24, 25, 26))),
    "outputs swapped": whole(swapped(0)),
    "inputs swapped": whole(swapped(1)),
    "kernel transposed": whole(transposed),
    "kernel mirrored": whole(mirrored),
    "layer in float16": whole(narrowed(np.float16)),
    "layer in bfloat16": whole(narrowed(ml_dtypes.bfloat16)),
    "layer x1.001": whole(lambda values, rng: values * np.float32(1.001)),
    "bias dropped": biased(lambda values, rng: np.zeros_like(values)),
    "bias element +1e-3": biased(one_moved),
    "bias +1e-3": biased(lambda values, rng: values + np.float32(1e-3)),
    "RGB as BGR": colours,
    "relu -> relu6": operator("Relu", to_relu6),
    "relu -> leaky": operator("Relu", to_leaky),
    "relu dropped": operator("Relu", to_identity),
    "hardswish -> swish": operator("HardSwish", renamed("Mish")),
    "hardsigmoid's slope": operator("HardSigmoid", other_alpha),
    "max -> average": operator("MaxPool", to_average),
    "global average -> max": operator("GlobalAveragePool", renamed("GlobalMaxPool")),
    "padding moved": operator("Conv", moved_pads),
    "pool's padding moved": operator("MaxPool", moved_pads),
    "batch norm's eps": operator("BatchNormalization", other_epsilon),
    "output x100": scaled_by(100.0),
    "output x1.00002": scaled_by(1.00002),
    "output in float16": cast_through(TensorProto.FLOAT16),
    "output in bfloat16": cast_through(TensorProto.BFLOAT16),
    "softmax behind": outputs(softmaxed),
}


def injected(model: onnx.ModelProto, kind: str, rng: np.random.Generator) -> Iterator[tuple[onnx.ModelProto, str]]:
    """A changed copy and what was done, or nothing where the model has no place for this kind."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    where = KINDS[kind](copy, rng)
    if where is not None:
        yield copy, where
