"""What the nodes of an ONNX file compute in, read from protobuf's wire format: steps of integers, and types of weights."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from edgekit.onnx.bodies import GRAPH_NODE, MODEL_GRAPH, WITH_GRAPHS, Body, Node, alive, bodies, node_of
from edgekit.onnx.declared import declared, element_types, initializers, of_tensor
from edgekit.onnx.wire import ELEMENT_TYPES, decoded, fields, inside, operator_counts

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with weights, whose types say what a file computes in."""

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


def node_of_each(content: bytes) -> dict[str, str]:
    """Value -> operator and name of the main graph's node that computes it; ValueError for a malformed message."""
    return {name: f"{node.operator[1]} {node.key}" for name, node in bodies(content)[0].producers.items()}


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


_CASTS = ("Cast", "CastLike")
_READ_THROUGH = (*_CASTS, "DequantizeLinear", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")


def weight_types(content: bytes, operators: Collection[str]) -> list[int]:
    """What the main graph's nodes of ``operators`` read as weights, their second inputs: the element type of the stored tensor.

    Nodes that no output depends on do not count. A weight may be stored in steps, which a DequantizeLinear makes floats of, in
    another shape, or as a Constant; behind a Cast its type is the one that the Cast gives. 0: none is stored.
    """
    body, _ = bodies(content)
    kinds = {name: kind for kind, _, name in (*_constants(content), *map(of_tensor, initializers(content)))}
    given = _casts(content, body)
    layers = [node for node in alive(body) if node.operator[1] in operators]
    return [_weight_type(node.inputs[1] if len(node.inputs) > 1 else "", body, kinds, given) for node in layers]


def _weight_type(name: str, body: Body, kinds: Mapping[str, int], casts: Mapping[str, int]) -> int:
    """The element type of a weight, a value of ``body``; ``kinds`` of stored values, ``casts`` of those that a Cast gives."""
    *passed, name = read_through(name, body)
    in_codes = any(body.producers[each].operator[1] == "DequantizeLinear" for each in passed)
    cast, kind = next(filter(None, (casts.get(each, 0) for each in passed)), 0), kinds.get(name, 0)
    return kind if in_codes else cast or kind


def read_through(name: str, body: Body) -> list[str]:
    """A value of ``body`` and those that it is another form of, one behind the other; the last one is where its numbers are."""
    passed = [name]
    while name in body.producers and _reads_through(body.producers[name]):
        name = body.producers[name].inputs[0]
        if name in passed:
            break
        passed.append(name)
    return passed


_NODE_ATTRIBUTE = 5
_ATTRIBUTE_NAME, _ATTRIBUTE_NUMBER, _ATTRIBUTE_TENSOR = 1, 3, 5


def _attributes(content: bytes | bytearray, operator: str, *names: str) -> dict[str, memoryview]:
    """First output of each node of ONNX's ``operator`` in the main graph -> its attribute of one of these ``names``.

    The attribute is a message in the memory of ``content``.
    """
    found = {}
    for message in inside(memoryview(content), MODEL_GRAPH, GRAPH_NODE):
        node = node_of(message)
        if node.operator not in ((domain, operator) for domain in ("", "ai.onnx")) or not node.outputs:
            continue
        for attribute in inside(message, _NODE_ATTRIBUTE):
            if decoded(dict(fields(attribute)).get(_ATTRIBUTE_NAME, 0)) in names:
                found[node.outputs[0]] = attribute
    return found


def constant_tensors(content: bytes | bytearray) -> dict[str, memoryview]:
    """Value -> the tensor that a Constant of the main graph gives for it; it lies in the memory of ``content``."""
    values = {name: dict(fields(each)).get(_ATTRIBUTE_TENSOR) for name, each in _attributes(content, "Constant", "value").items()}
    return {name: tensor for name, tensor in values.items() if isinstance(tensor, memoryview)}


def constant_floats(content: bytes | bytearray) -> dict[str, memoryview]:
    """Value -> the attribute by which a Constant of the main graph gives float32 numbers for it without a tensor."""
    return _attributes(content, "Constant", "value_float", "value_floats")


def _constants(content: bytes) -> list[tuple[int, int, str]]:
    """The element type, the number of elements and the name of each value that a Constant of the main graph gives as a tensor."""
    return [(*of_tensor(tensor)[:2], name) for name, tensor in constant_tensors(content).items()]


def _casts(content: bytes, body: Body) -> dict[str, int]:
    """First output of each Cast and CastLike of the main graph ``body`` -> the element type that it gives; 0: not known."""
    asked = {name: dict(fields(each)).get(_ATTRIBUTE_NUMBER) for name, each in _attributes(content, "Cast", "to").items()}
    given = {name: value for name, value in asked.items() if isinstance(value, int)}
    known = {**element_types(content), **{name: kind for kind, _, name in _constants(content)}, **given}
    for name, node in body.producers.items():  # in the file's order, which is one of computation
        if node.operator[1] == "CastLike" and len(node.inputs) > 1:
            given[name] = known[name] = known.get(node.inputs[1], 0) or known.get(name, 0)
    return given


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
    for kind, elements, name in (*_constants(content), *map(of_tensor, initializers(content))):
        if everything or name in read:
            stored[kind] += elements
    return Arithmetic(counts, stored, types)


_FLOAT, _HALF, _DOUBLE = 1, 10, 11
_NUMPY_FLOATS = (_FLOAT, _HALF, _DOUBLE)
FLOATS = {kind: name for kind, name in ELEMENT_TYPES.items() if "float" in name}
"""Element types of floats, by numpy's names."""


def precision_of_file(content: bytes) -> str:
    """The precision that a file is of, which ``edgekit export`` records, and to which ``edgekit verify`` holds a manifest.

    It is what the file computes in. A float32 file with an output of 16 bits is of that precision, because it rounds to it.
    Raises ValueError for a malformed message.
    """
    precision = computed_in(content)
    given = [FLOATS.get(kind, "") for kind, _ in declared(content).outputs.values()]
    halves = [name for name in given if name in ("float16", "bfloat16")]
    return halves[0] if halves and precision == "float32" else precision


def computed_in(content: bytes) -> str:
    """int8 where an output depends on steps of 8 bits, and otherwise the float type of most layers' weights.

    Where no layer has any, it is that of most stored numbers, or of the first float input. Raises ValueError for a malformed
    message.
    """
    found = arithmetic(content, LAYERS)
    if any(map(in_steps, found.operators)):
        return "int8"
    weights = Counter(kind for kind in found.layers if kind)
    stored = Counter({kind: elements for kind, elements in found.stored.items() if kind in FLOATS})
    read = [kind for kind, _ in declared(content).inputs.values() if kind in FLOATS]
    return _mostly(weights or stored or Counter(read[:1]))


def _mostly(kinds: Mapping[int, int]) -> str:
    """The float type of more than half of what is counted; float32 where none is."""
    return next((FLOATS[kind] for kind, count in kinds.items() if kind in FLOATS and 2 * count > sum(kinds.values())), "float32")


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


_BETWEEN_FLOATS = ("QuantizeLinear", "DequantizeLinear")


def steps_between_floats(content: bytes) -> bool:
    """Whether all arithmetic that an output depends on is of floats, rounded to steps between its nodes or not at all.

    Such a file, run node by node, gives the same on every CPU but for rounding. Nodes that compute in integers themselves, such
    as QLinearConv, overflow on some. Raises ValueError for a malformed message.
    """
    return all(operator in _BETWEEN_FLOATS for operator in arithmetic(content, LAYERS).operators if in_steps(operator))


def floats_from_steps(content: bytes) -> dict[str, str]:
    """Value -> operator and name of the main graph's node that makes these floats of stored or computed steps.

    A node in steps does unless the file says that its output is no float, or its operator gives codes. A Cast or CastLike does
    where it reads what depends on a node in steps, through others that make no floats of them. Nodes that no output depends on
    are left out. Raises ValueError for a malformed message.
    """
    (body, _), types = bodies(content), element_types(content)
    found, behind, casts = dict[str, str](), set[str](), _casts(content, body)
    for node in alive(body):  # in the file's order, which is one of computation
        operator, reads_steps = node.operator[1], not behind.isdisjoint(node.inputs)
        cast = reads_steps and operator in _CASTS and casts.get("".join(node.outputs[:1])) in (0, *_NUMPY_FLOATS)
        gives = {types.get(name, 0) for name in node.outputs[:1]}
        if cast or (in_steps(operator) and not _gives_codes(node) and (gives & {0, *FLOATS})):
            found |= dict.fromkeys(node.outputs[:1], f"{operator} {node.key}")
        elif reads_steps or in_steps(operator):
            behind.update(filter(None, node.outputs))
    return found


def fixed_values(content: bytes) -> dict[str, int]:
    """Values of the main graph's nodes that are stored numbers in another form, such as weights behind a DequantizeLinear.

    Value -> its number of elements.
    No input changes them and nothing is summed, so that every machine makes the same of them to the last bit. Raises ValueError
    for a malformed message.
    """
    body, fixed = bodies(content)[0], dict[str, int]()
    tensors = [of_tensor(tensor) for tensor in initializers(content)] + _constants(content)
    stored = dict.fromkeys(constant_floats(content), 1) | {name: elements for _, elements, name in tensors}
    for node in dict.fromkeys(body.producers.values()):  # in the file's order, which is one of computation
        sizes = [stored.get(name) for name in node.inputs if name]
        if _reads_through(node) and None not in sizes:
            made = dict.fromkeys(node.outputs, max(filter(None, sizes), default=0))
            fixed |= made
            stored |= made
    return fixed


_GIVES_CODES = re.compile(r"^Quantize[A-Z]|^DynamicQuantizeLinear$|^QLinear[A-Z]|^QOrdered[A-Z]|Integer(?:16)?$")
"""Operators in steps whose first outputs are codes, whatever a file says of them."""
_SCALE_OF_CODES = {"QGemm": 7}
"""Operators in steps that give codes where they read a scale of these, by the place of that input, and floats elsewhere."""
_IN_STEPS = re.compile(
    r"^(?:Dynamic)?Quantize[A-Z]|^Dequantize[A-Z]|^Q[A-Z]|Integer(?:16|ToFloat)?$|BlockQuantized$|^MatMul(?:NBits|Bnb4|FpQ4)$"
)


def _gives_codes(node: Node) -> bool:
    place = _SCALE_OF_CODES.get(node.operator[1])
    return _GIVES_CODES.search(node.operator[1]) is not None or (place is not None and any(node.inputs[place : place + 1]))


def in_steps(operator: str) -> bool:
    """Whether an operator computes in integers of 8 bits or fewer, or turns them into floats or back."""
    return _IN_STEPS.search(operator) is not None
