"""What the nodes of an ONNX file compute in, read from protobuf's wire format: steps of integers, and types of weights."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from edgekit.onnx.bodies import WITH_GRAPHS, Node, alive, bodies
from edgekit.onnx.declared import element_types, initializers, of_tensor
from edgekit.onnx.wire import fields, operator_counts

_TENSOR_FLOATS, _TENSOR_RAW = 4, 9


class Quantised(NamedTuple):
    """A value that the main graph rounds to steps: its scale, None unless it stores one number, and its zero point's type."""

    value: str
    scale: float | None
    dtype: int


def quantised_values(content: bytes) -> list[Quantised]:
    """The values that the main graph rounds to steps; raises ValueError for a malformed message."""
    body, _ = bodies(content)
    tensors = {of_tensor(tensor)[2]: tensor for tensor in initializers(content)}
    found = []
    for node in alive(body):
        if node.operator == ("", "QuantizeLinear") and len(node.inputs) > 1:
            scale = tensors.get(node.inputs[1])
            zero = tensors.get(node.inputs[2]) if len(node.inputs) > 2 else None
            number = None if scale is None else _one_float(scale)
            found.append(Quantised(node.inputs[0], number, 0 if zero is None else of_tensor(zero)[0]))
    return found


def node_names(content: bytes) -> dict[str, str]:
    """Name, or first output, of each node that an output depends on -> its operator; ValueError for a malformed message."""
    body, _ = bodies(content)
    return {node.key: node.operator[1] for node in alive(body)}


def _one_float(tensor: memoryview) -> float | None:
    """The number of a float32 tensor of one element; None for any other."""
    kind, elements, _ = of_tensor(tensor)
    raw = next((value for number, value in fields(tensor) if number == _TENSOR_RAW and isinstance(value, memoryview)), b"")
    packed = next((value for number, value in fields(tensor) if number == _TENSOR_FLOATS and isinstance(value, memoryview)), b"")
    numbers = bytes(raw or packed)
    return float(struct.unpack("<f", numbers)[0]) if kind == 1 and elements == 1 and len(numbers) == 4 else None


_READ_THROUGH = ("DequantizeLinear", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")


def weight_types(content: bytes, operators: Collection[str]) -> list[int]:
    """What the main graph's nodes of ``operators`` read as weights, their second inputs: the element type of the stored tensor.

    Nodes that no output depends on do not count. A weight may be stored in steps, which a DequantizeLinear makes floats of, or in
    another shape; 0: none is stored.
    """
    body, _ = bodies(content)
    kinds = {name: kind for kind, _, name in map(of_tensor, initializers(content))}
    types = []
    for node in alive(body):
        if node.operator[1] in operators:
            name = node.inputs[1] if len(node.inputs) > 1 else ""
            passed = set[str]()
            while name not in passed and name in body.producers and _reads_through(body.producers[name]):
                passed.add(name)
                name = body.producers[name].inputs[0]
            types.append(kinds.get(name, 0))
    return types


class Arithmetic(NamedTuple):
    """What the outputs of a file depend on; see ``arithmetic``."""

    operators: Mapping[str, int]
    stored: Mapping[int, int]
    layers: tuple[int, ...]


def arithmetic(content: bytes, operators: Collection[str]) -> Arithmetic:
    """The operators of the nodes that an output depends on, and the element types of the stored tensors that they read.

    ``layers``: of the weights of nodes of ``operators``, as ``weight_types`` gives them. Nodes and tensors beside the way to the
    outputs do not count, but in a file with branches, loops or functions of its own, where all do. Raises ValueError for a
    malformed message.
    """
    body, functions = bodies(content)
    nodes, types = alive(body), tuple(weight_types(content, operators))
    everything = bool(functions) or any(node.operator[1] in WITH_GRAPHS for node in nodes)
    counts = operator_counts(content) if everything else Counter(node.operator[1] for node in nodes)
    read = {name for node in nodes for name in node.inputs}
    stored = Counter[int]()
    for kind, elements, name in map(of_tensor, initializers(content)):
        if everything or name in read:
            stored[kind] += elements
    return Arithmetic(counts, stored, types)


_FLOAT, _HALF = 1, 10
_OF_OTHER_TYPES = frozenset(
    {"ArgMax", "ArgMin", "CastLike", "ConstantOfShape", "Equal", "EyeLike", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less",
     "LessOrEqual", "NonMaxSuppression", "NonZero", "QuantizeLinear", "Resize", "Shape", "Size"}
)  # fmt: skip
"""Operators whose outputs may be of another type than the floats that they read."""


class InHalf(NamedTuple):
    """The nodes of a file that compute in float16: those that surely do, and how many do at ``most``."""

    nodes: tuple[Node, ...]
    most: int


def in_half(content: bytes) -> InHalf:
    """The nodes of the main graph that compute in float16, without the Casts at their borders.

    Where the file gives the types of a node's outputs they decide, and so does a comparison of two float16 values. Elsewhere a
    node surely computes in float16 where it reads that, no float32, and gives what it reads, and may do so whatever it reads. No
    output need depend on what counts for ``most``. Raises ValueError for a malformed message.
    """
    body, _ = bodies(content)
    types, needed = element_types(content), set(alive(body))
    sure, most = list[Node](), 0
    for node in dict.fromkeys(body.producers.values()):
        read, given = ([types.get(name, 0) for name in names if name] for names in (node.inputs, node.outputs))
        certain, possible = _in_half(node.operator[1], read, given)
        most += possible
        if certain and node in needed:
            sure.append(node)
    return InHalf(tuple(sure), most)


def _in_half(operator: str, read: Sequence[int], given: Sequence[int]) -> tuple[bool, bool]:
    """Whether a node surely computes in float16, and whether it may; ``read`` and ``given`` are types of values, 0: not known."""
    if operator == "Cast":  # one from integers was there before the conversion
        return False, bool({_HALF, 0} & set(given)) and not {_FLOAT, _HALF} & set(read)
    if _HALF in given or read.count(_HALF) > 1:
        return True, True
    alike = _HALF in read and _FLOAT not in read and operator not in _OF_OTHER_TYPES
    return 0 in given and alike, 0 in given


def _reads_through(node: Node) -> bool:
    """Whether a node gives its first input's numbers in another form."""
    return node.operator[0] in ("", "ai.onnx") and node.operator[1] in _READ_THROUGH and bool(node.inputs)


_IN_STEPS = re.compile(r"^(?:Dynamic)?(?:Quantize|Dequantize)Linear$|^QLinear|Integer$|^QGemm$|^MatMulNBits$")


def in_steps(operator: str) -> bool:
    """Whether an operator computes in integers of 8 bits or fewer, or turns them into floats or back."""
    return _IN_STEPS.search(operator) is not None
