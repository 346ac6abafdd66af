"""A float32 ONNX file in float16: callers keep float32, and so do the nodes that float16 would harm.

Each value exists in the float types that its readers take: computed in one, cast to the other at most once. Casts never follow
each other, because each reads the value as it was computed. ONNX's own schema says which positions of an operator may be float16.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import onnx

from edgekit.errors import ModelError, first_line
from edgekit.onnx.names import fresh_name
from edgekit.onnx.read import is_standard, name_of, opset_of
from edgekit.onnx.widen import TYPE_ATTRIBUTES, inlined, only_real_inputs, read_inside, subgraphs
from edgekit.spelling import did_you_mean
from edgekit.tensors import Array

OLDEST_OPSET = 13
LARGEST: Final = float(np.finfo(np.float16).max)
SUBSTANTIAL = 0.1
"""The share of a tensor's numbers other than zero that may become zero in float16 before its node stays float32."""
SIZES = ("Shape", "Size")
NOTHING_KEPT: Mapping[str, str] = MappingProxyType({})
FLOAT: Final[int] = onnx.TensorProto.FLOAT
HALF: Final[int] = onnx.TensorProto.FLOAT16
_NAMED = {FLOAT: "float32", HALF: "float16"}
_ASITIS = 0


class KeptFloat(NamedTuple):
    """A node that stays float32: its name (``edgekit.onnx.read.name_of``), its operator, the ``value`` it computes, and why."""

    node: str
    operator: str
    value: str
    reason: str


class Halved(NamedTuple):
    """The float16 ``model``, the number of nodes ``converted``, and those ``kept`` in float32, in the file's order."""

    model: onnx.ModelProto
    converted: int
    kept: tuple[KeptFloat, ...]


def to_half(model: onnx.ModelProto, keep: Mapping[str, str] = NOTHING_KEPT) -> Halved:
    """A copy of ``model`` whose float32 numbers and arithmetic are float16, and whose inputs and outputs are as they were.

    ``keep``: node key -> why the node stays float32, with Casts around it. So do, each with its reason: nodes that hold a graph,
    compute sizes, are no operator of ONNX or have no float16 there, and nodes whose stored numbers exceed float16 or for a
    substantial part vanish in it. Stored numbers are rounded to nearest. The model's own functions are inlined, and Constants
    become initializers. Raises ModelError for an opset below ``OLDEST_OPSET``, a key that is of no node, and a file that ONNX's
    checker refuses afterwards.
    """
    opset = opset_of(model)
    if opset < OLDEST_OPSET:
        raise ModelError(
            f"the file has opset {opset}, and a float16 file is made from opset {OLDEST_OPSET} on", "export it with a newer opset"
        )
    halving = _Halving(inlined(model), keep)
    halved = halving.run()
    try:
        onnx.checker.check_model(halved.model, full_check=True)
    except Exception as problem:
        raise ModelError(
            f"the file in float16 is not valid ONNX: {first_line(problem)}", "keep the node it names in float32"
        ) from None
    return halved


def rounded_after_every_node(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a float16 ``model`` that computes in float32 and rounds every value to float16, as GPUs do at best.

    ONNX Runtime on a CPU computes float16 nodes in float32 as well, but leaves out the roundings between them.
    """
    copy = inlined(model)
    types, _ = _types(copy)
    taken, nodes, wide = set(_names(copy.graph)), list[onnx.NodeProto](), dict[str, str]()

    def new_name(name: str) -> str:
        return fresh_name(f"{name}_exact", taken)

    for node in copy.graph.node:
        halves = [name for name in node.input if types.get(name) == HALF]
        if halves and node.op_type != "Cast" and not any(True for _ in subgraphs(node)):
            for name in dict.fromkeys(halves):
                if name not in wide:
                    wide[name] = new_name(name)
                    nodes.append(onnx.helper.make_node("Cast", [name], [wide[name]], new_name(name), to=FLOAT))
            results = {name: new_name(name) for name in node.output if types.get(name) == HALF}
            inputs, outputs = [wide.get(name, name) for name in node.input], [results.get(name, name) for name in node.output]
            del node.input[:], node.output[:]
            node.input.extend(inputs)
            node.output.extend(outputs)
            nodes.append(node)
            nodes += [onnx.helper.make_node("Cast", [exact], [name], new_name(name), to=HALF) for name, exact in results.items()]
        else:
            nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


class _Plan(NamedTuple):
    """The float types in which a node takes its inputs and gives its outputs (``_ASITIS``: no float32 there, or any float).

    ``reason``: why it stays float32; empty if it does not. ``floats``: whether its own arithmetic is in floats at all.
    """

    takes: tuple[int, ...]
    gives: tuple[int, ...]
    reason: str = ""
    floats: bool = True


class _Halving:
    """One conversion: plans for all nodes first, then stored numbers, then nodes with the Casts between them."""

    def __init__(self, model: onnx.ModelProto, keep: Mapping[str, str]) -> None:
        self.model, self.graph, self.keep = model, model.graph, keep
        _constants_to_initializers(self.graph)
        only_real_inputs(model)
        self.stored = {tensor.name: tensor for tensor in self.graph.initializer}
        self.harms: dict[str, str] = {}
        self.types, self.no_tensors = _types(model)
        self.of_sizes = _of_sizes(self.graph, self.stored)
        self.pinned = {value.name for value in self.graph.output} | set(read_inside(self.graph))
        self.taken: dict[str, set[int]] = {name: {FLOAT} for name in self.pinned}
        self.used = set(_names(self.graph))
        self.names: dict[tuple[str, int], str] = {(name, FLOAT): name for name in self._float_inputs()}
        self.nodes: list[onnx.NodeProto] = []

    def _float_inputs(self) -> Iterator[str]:
        return (value.name for value in self.graph.input if self.types.get(value.name) == FLOAT)

    def run(self) -> Halved:
        self._check_keep()
        nodes = list(self.graph.node)
        plans = [self._plan(node) for node in reversed(nodes)][::-1]  # a node that may choose gives what its readers take
        self._store()
        for node, plan in zip(nodes, plans, strict=True):
            self._write(node, plan)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        for value in self.graph.value_info:
            if self.names.get((value.name, HALF)) == value.name:
                value.type.tensor_type.elem_type = HALF
        kept = tuple(
            KeptFloat(name_of(node), node.op_type, next(filter(None, node.output), ""), plan.reason)
            for node, plan in zip(nodes, plans, strict=True)
            if plan.reason and plan.floats
        )
        return Halved(self.model, sum(plan.floats and not plan.reason for plan in plans), kept)

    def _check_keep(self) -> None:
        keys = [name_of(node) for node in self.graph.node]
        unknown = next((key for key in self.keep if key not in keys), None)
        if unknown is not None:
            raise ModelError(
                f"the file has no node {unknown!r} to keep in float32", f"check the name{did_you_mean(unknown, keys)}"
            )

    def _plan(self, node: onnx.NodeProto) -> _Plan:
        """The plan of a node all of whose readers have theirs."""
        plan = self._plan_alone(node)
        for name, kind in zip(node.input, plan.takes, strict=True):
            if kind:
                self.taken.setdefault(name, set()).add(kind)
        return plan

    def _plan_alone(self, node: onnx.NodeProto) -> _Plan:
        """What the node takes and gives, and why in float32 if so."""
        values = [name for name in (*node.input, *node.output) if name]
        kept = _Plan(
            tuple(FLOAT if self._is_float(name) else _ASITIS for name in node.input),
            tuple(FLOAT if self._is_float(name) else _ASITIS for name in node.output),
            floats=any(self.types.get(name, FLOAT) == FLOAT for name in values) or any(True for _ in subgraphs(node)),
        )
        schema = _schema(node, self.model)
        reason = self._why_not_at_all(node, schema, values)
        if reason:
            return kept._replace(reason=reason)
        if not kept.floats:
            return kept
        plan = self._in_half(node, schema)
        if not plan.floats:
            return plan
        if HALF not in (*plan.takes, *plan.gives):
            return kept._replace(reason=f"ONNX has no float16 {node.op_type} in opset {opset_of(self.model)}")
        sizes = "it computes sizes, and float16 has no odd numbers beyond 2048" if self.of_sizes.intersection(node.output) else ""
        reason = self.keep.get(name_of(node), "") or sizes or self._harm(node, plan)
        return kept._replace(reason=reason) if reason else plan

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) == FLOAT

    def _why_not_at_all(self, node: onnx.NodeProto, schema: Any, values: Sequence[str]) -> str:
        """Why no float16 form of the node is thought of; empty if nothing is in the way."""
        if any(True for _ in subgraphs(node)):
            return f"{node.op_type} holds a graph of its own"
        if schema is None:
            return "it is no operator of ONNX's own"
        if any(name in self.no_tensors for name in values):
            return "it handles what is no tensor"
        unknown = next((name for name in values if name not in self.types), "")
        if unknown:
            return f"ONNX infers no type for its value {unknown!r}"
        return ""

    def _in_half(self, node: onnx.NodeProto, schema: Any) -> _Plan:
        """The plan in float16, as far as the operator's schema has it."""
        positions = [(name, _formal(schema.inputs, place)) for place, name in enumerate(node.input) if name]
        results = [_formal(schema.outputs, place) for place in range(len(node.output))]
        takes = [
            _ASITIS if not self._is_float(name) else HALF if _has_half(_formal(schema.inputs, place)) else FLOAT
            for place, name in enumerate(node.input)
        ]
        read = [formal.type_str for name, formal in positions if self._is_float(name)]
        only_read = len(read) == 1 and HALF in takes and read[0] not in {formal.type_str for formal in results}
        if only_read:  # such as Cast, Shape, ArgMax: it takes what there is
            takes = [self._as_stored(name) if kind == HALF else kind for name, kind in zip(node.input, takes, strict=True)]
        bound = {formal.type_str for _, formal in positions}
        choice = _chooses(schema, bound, results)
        gives = [
            _ASITIS if not self._is_float(name) else HALF if _has_half(formal) and formal.type_str in bound else FLOAT
            for name, formal in zip(node.output, results, strict=True)
        ]
        for place, formal in enumerate(results):
            if gives[place] == FLOAT and formal.type_str not in bound and _has_half(formal):
                name = node.output[place]
                gives[place] = self._chosen(name) if choice else self._inferred(node, takes, schema).get(name, FLOAT)
        return _Plan(tuple(takes), tuple(gives), floats=HALF in gives or not (only_read or choice))

    def _chosen(self, name: str) -> int:
        """The float type of an output that an attribute may choose: what its readers take."""
        return FLOAT if FLOAT in self.taken.get(name, ()) else HALF

    def _inferred(self, node: onnx.NodeProto, takes: Sequence[int], schema: Any) -> dict[str, int]:
        """The types of a node's outputs that ONNX infers from what the node takes in float16; none where it cannot."""
        given = {
            name: onnx.helper.make_tensor_type_proto(kind or self.types[name], None)
            for name, kind in zip(node.input, takes, strict=True)
            if name
        }
        try:
            inferred = onnx.shape_inference.infer_node_outputs(schema, node, given)
        except Exception:  # it wants a shape, or a number
            return {}
        return {name: kind.tensor_type.elem_type for name, kind in inferred.items()}

    def _as_stored(self, name: str) -> int:
        return _ASITIS if name not in self.stored else FLOAT if self._harm_of(name) else HALF

    def _harm(self, node: onnx.NodeProto, plan: _Plan) -> str:
        """What rounding to float16 would do to the stored numbers of the node; empty if nothing bad."""
        stored = (name for name, kind in zip(node.input, plan.takes, strict=True) if kind == HALF and name in self.stored)
        harms = [self._harm_of(name) for name in stored]
        if HALF in plan.gives:
            harms += [_harm_of(_numbers(attribute.t)) for attribute in node.attribute if attribute.t.data_type == FLOAT]
        return next(filter(None, harms), "")

    def _harm_of(self, name: str) -> str:
        if name not in self.harms:
            self.harms[name] = _harm_of(_numbers(self.stored[name]))
        return self.harms[name]

    def _store(self) -> None:
        """Replace each float32 tensor by what its readers take: float16, float32 or both."""
        del self.graph.initializer[:]
        for name, tensor in self.stored.items():
            if tensor.data_type != FLOAT:
                self.graph.initializer.append(tensor)
                continue
            kinds = self.taken.get(name, set())
            own = FLOAT if name in self.pinned or HALF not in kinds else HALF
            for kind in sorted(kinds):
                self.names[name, kind] = name if kind == own else self._new_name(name, kind)
                self.graph.initializer.add().CopyFrom(tensor if kind == FLOAT else _rounded(tensor))
                self.graph.initializer[-1].name = self.names[name, kind]

    def _write(self, node: onnx.NodeProto, plan: _Plan) -> None:
        """Write the node, with the Casts that it needs before it, and those that callers and graphs inside need behind it."""
        written = onnx.NodeProto()
        written.CopyFrom(node)
        for place, (name, kind) in enumerate(zip(node.input, plan.takes, strict=True)):
            written.input[place] = self._version(name, kind)
        self._state_type(written, plan)
        behind = []
        for place, (name, kind) in enumerate(zip(node.output, plan.gives, strict=True)):
            if not kind:
                continue
            self.names[name, kind] = name
            if kind == HALF and name in self.pinned:
                self.names[name, HALF] = written.output[place] = self._new_name(name, HALF)
                self.names[name, FLOAT] = name
                behind.append(self._cast(name, FLOAT))
        self.nodes += [written, *behind]

    def _version(self, name: str, kind: int) -> str:
        """The value ``name`` in the float type ``kind``; ``_ASITIS``: as it was computed."""
        if not kind:
            return next((self.names[name, each] for each in (HALF, FLOAT) if (name, each) in self.names), name)
        if (name, kind) not in self.names:
            self.names[name, kind] = self._new_name(name, kind)
            self.nodes.append(self._cast(name, kind))
        return self.names[name, kind]

    def _cast(self, name: str, kind: int) -> onnx.NodeProto:
        """The Cast of a value to ``kind`` from the other float type."""
        source, target = self.names[name, HALF if kind == FLOAT else FLOAT], self.names[name, kind]
        return onnx.helper.make_node("Cast", [source], [target], self._new_name(f"{name}_to", kind), to=kind)

    def _new_name(self, name: str, kind: int) -> str:
        return fresh_name(f"{name}_{_NAMED[kind]}", self.used)

    def _state_type(self, node: onnx.NodeProto, plan: _Plan) -> None:
        """Let an attribute say that an output is float16 where no input does: a type by name, or what fills the output."""
        schema = _schema(node, self.model)
        named = _type_attribute(schema) if schema else ""
        bound = {_formal(schema.inputs, place).type_str for place, name in enumerate(node.input) if name} if named else set()
        if not named or all(
            kind != HALF or _formal(schema.outputs, place).type_str in bound for place, kind in enumerate(plan.gives)
        ):
            return
        stated = next((attribute for attribute in node.attribute if attribute.name == named), None)
        if named in TYPE_ATTRIBUTES:
            halved = onnx.helper.make_attribute(named, HALF)
        else:
            numbers = np.zeros(1, np.float16) if stated is None else _half(_numbers(stated.t))
            halved = onnx.helper.make_attribute(named, onnx.numpy_helper.from_array(numbers))
        (stated if stated is not None else node.attribute.add()).CopyFrom(halved)


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Turn Constants of float32 numbers into initializers, in place, so that all stored numbers are handled in one way."""
    rest = []
    for node in graph.node:
        numbers = _constant(node)
        if numbers is None:
            rest.append(node)
        else:
            graph.initializer.append(onnx.numpy_helper.from_array(numbers, node.output[0]))
    del graph.node[:]
    graph.node.extend(rest)


def _constant(node: onnx.NodeProto) -> Array | None:
    """The float32 numbers of a Constant; None for another node or type."""
    if node.op_type != "Constant" or not is_standard(node.domain):
        return None
    attribute = node.attribute[0]
    if attribute.name in ("value_float", "value_floats"):
        return np.asarray(onnx.helper.get_attribute_value(attribute), np.float32)
    return _numbers(attribute.t) if attribute.name == "value" and attribute.t.data_type == FLOAT else None


def _types(model: onnx.ModelProto) -> tuple[dict[str, int], set[str]]:
    """The element types of the main graph's tensors as ONNX infers them, and the names of values that are no tensors."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # a damaged shape; then all that the file does not say is unknown
        graph = model.graph
    values = [value for value in (*graph.input, *graph.value_info, *graph.output) if value.type.WhichOneof("value")]
    types = {value.name: value.type.tensor_type.elem_type for value in values if value.type.HasField("tensor_type")}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {name: kind for name, kind in types.items() if kind}, {value.name for value in values} - set(types)


def _of_sizes(graph: onnx.GraphProto, stored: Collection[str]) -> set[str]:
    """The values that are computed from sizes of tensors and constants alone, without the sizes themselves."""
    constant, sizes, computed = set(stored), set[str](), set[str]()
    for node in graph.node:
        read = {name for name in node.input if name} - constant
        if any(True for _ in subgraphs(node)):
            continue  # it may read more than its inputs
        if node.op_type in SIZES and is_standard(node.domain):
            sizes.update(node.output)
        elif not read:
            constant.update(node.output)
        elif read <= sizes | computed:
            computed.update(node.output)
    return computed


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name in use in ``graph`` and in the graphs inside its nodes, of nodes too."""
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for inner in subgraphs(node):
            yield from _names(inner)


def _schema(node: onnx.NodeProto, model: onnx.ModelProto) -> Any:
    """The schema of the node's operator in the opset of ``model``; None where ONNX has none."""
    domain = "" if is_standard(node.domain) else node.domain
    versions = [opset.version for opset in model.opset_import if domain == ("" if is_standard(opset.domain) else opset.domain)]
    try:
        return onnx.defs.get_schema(node.op_type, versions[0], domain)
    except (onnx.defs.SchemaError, IndexError):
        return None


def _formal(formals: Sequence[Any], place: int) -> Any:
    """The schema's parameter at ``place``; the last one repeats."""
    return formals[min(place, len(formals) - 1)]


def _has_half(formal: Any) -> bool:
    return "tensor(float16)" in formal.types


def _type_attribute(schema: Any) -> str:
    """The attribute that says the type of the operator's outputs, by name or as a tensor; empty if there is none."""
    return next((name for name in (*TYPE_ATTRIBUTES, "value") if name in schema.attributes), "")


def _chooses(schema: Any, bound: Collection[str], outputs: Sequence[Any]) -> bool:
    """Whether an attribute alone says the type of one of the ``outputs``; ``bound`` are the types that inputs say."""
    return bool(_type_attribute(schema)) and any(formal.type_str not in bound for formal in outputs)


def _numbers(tensor: onnx.TensorProto) -> Array:
    return np.asarray(onnx.numpy_helper.to_array(tensor))


def _half(numbers: Array) -> Array:
    """The numbers rounded to the nearest float16; infinite beyond its range."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float16)


def _rounded(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(_half(_numbers(tensor)))


def _harm_of(numbers: Array) -> str:
    """What rounding to float16 would do to float32 ``numbers``; empty if nothing bad."""
    rounded, finite, present = _half(numbers), np.isfinite(numbers), numbers != 0
    if np.isinf(rounded[finite]).any():
        return f"its weights exceed float16: they reach {np.abs(numbers[finite]).max():.3g}, beyond {LARGEST:.0f}"
    vanished, all_present = int((present & (rounded == 0)).sum()), int(present.sum())
    if vanished and vanished >= SUBSTANTIAL * all_present:
        return f"its weights vanish in float16: {vanished} of {all_present} are below 6e-8"
    return ""
