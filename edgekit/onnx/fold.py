"""Fold batch norm in an ONNX file from elsewhere into the layer before it, whatever it is spelled as.

A chain runs from a layer through nodes that only move or copy (Identity, Dropout, Transpose) and nodes that compute a x + b for
each channel: BatchNormalization, and Mul, Div, Add and Sub with stored numbers. The whole chain becomes one a and b in float64,
which the layer takes over; its numbers are rounded once, at the end. A layer behind the norm does so in PyTorch models only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir
from onnx_ir.passes import common

from edgekit.errors import ModelError, first_line
from edgekit.onnx.affine import Reason, Step, is_norm, norm_reason, passed_through, step_of
from edgekit.onnx.constants import Constants, store
from edgekit.onnx.layers import NAMED, Numbers, is_layer, layer_reason, numbers_of, place_of, scaled
from edgekit.onnx.read import NORM, batch_norms
from edgekit.onnx.rounding import rounding_unit
from edgekit.reports.export import Fold, FoldReport, Kept, Obstacle
from edgekit.tensors import Array

_OLDEST_IR = 4  # older IR versions list every initializer as an input, so none can be replaced
_BRANCH: Reason = ("branch", "it is inside a branch or a loop, where nothing is folded")  # "it" is the norm, named before
_OVERFLOW: Reason = ("overflow", "the folded numbers do not fit into the dtype of the layer before it")
Names = Mapping[onnx_ir.Node, str]


class Folding(NamedTuple):
    """A folded file; ``exact`` is ``model`` before the folded numbers were rounded, None if nothing folded."""

    model: onnx.ModelProto
    exact: onnx.ModelProto | None
    report: FoldReport


class _Chain(NamedTuple):
    """A layer, the steps behind it, and the reason against folding these into it (None: they fold)."""

    layer: onnx_ir.Node
    steps: tuple[Step, ...]
    reason: Reason | None


def fold_onnx(model: onnx.ModelProto, *, fold_bn: bool = True) -> Folding:
    """A folded copy of ``model``, and a report on each normalisation; ``model`` is untouched."""
    if not fold_bn:
        return Folding(model, None, _not_asked(model))
    try:
        folding = _folded(model, frozenset())
    except ModelError:
        raise
    except Exception as problem:  # onnx_ir wraps the cause in errors of its own
        raise ModelError(
            f"the file cannot be rewritten: {first_line(_first_cause(problem))}", "export with --no-fold-bn and report the file"
        ) from problem
    _check_count(folding.model, folding.report)
    return folding


def _not_asked(model: onnx.ModelProto) -> FoldReport:
    graph_model = onnx_ir.from_proto(model)
    functions = [node for function in graph_model.functions.values() for node in function.all_nodes()]
    nodes = [node for node in (*graph_model.graph.all_nodes(), *functions) if is_norm(node)]
    names = _node_names(nodes)
    return FoldReport((), tuple(_kept_node(names[node], ("not-asked", "folding was not asked for")) for node in nodes))


def _folded(model: onnx.ModelProto, unfit: frozenset[str]) -> Folding:
    """Fold every chain; one whose numbers do not fit into its layer's dtype joins ``unfit``, and the folding starts again."""
    graph_model = _inlined(model)
    graph = graph_model.graph
    names = _node_names(graph.all_nodes())
    norms = [node for node in graph.all_nodes() if is_norm(node)]
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph_model)
    common.RemoveUnusedNodesPass()(graph_model)
    alive = {id(node) for node in graph.all_nodes()}
    constants = Constants(graph_model)
    opset = graph_model.opset_imports.get("", 0)
    layers = [node for node in graph if is_layer(node)]
    chains = [_chain(layer, graph, opset, names, constants, unfit) for layer in layers]
    report = _report(norms, alive, chains, graph, names, constants)
    folds = [chain for chain in chains if chain.steps and chain.reason is None]
    numbers = {chain.layer: _taken_over(chain, constants) for chain in folds}
    dtypes = {chain.layer: constants.dtype(chain.layer.inputs[1]) for chain in folds}
    too_large = frozenset(names[layer] for layer, exact in numbers.items() if not _fit(exact, dtypes[layer]))
    if too_large:
        return _folded(model, unfit | too_large)
    wide: dict[str, Array] = {}
    for chain in folds:
        chain.layer.name = names[chain.layer]  # as the report calls it
        wide |= _rewrite(graph, chain, numbers[chain.layer], dtypes[chain.layer])
    common.RemoveUnusedNodesPass()(graph_model)
    folded = onnx_ir.to_proto(graph_model)
    return Folding(folded, _with_exact(folded, wide) if folds else None, report)


def _inlined(model: onnx.ModelProto) -> onnx_ir.Model:
    """A copy without functions, and without the inputs that old IR versions list for every weight."""
    graph_model = onnx_ir.from_proto(model)
    if graph_model.functions:
        common.InlinePass()(graph_model)
    if graph_model.ir_version < _OLDEST_IR:
        graph_model.ir_version = _OLDEST_IR
        for value in [value for value in graph_model.graph.inputs if value.is_initializer()]:
            graph_model.graph.inputs.remove(value)
    return graph_model


def _chain(
    layer: onnx_ir.Node, graph: onnx_ir.Graph, opset: int, names: Names, constants: Constants, unfit: frozenset[str]
) -> _Chain:
    """The steps behind ``layer`` up to the last that belongs to a normalisation; none where there is no normalisation."""
    place, value = place_of(layer, constants), layer.outputs[0]
    steps: list[Step] = []
    while place is not None and not value.is_graph_output() and len(value.uses()) == 1:
        user = next(iter(value.uses())).node
        step = step_of(user, value, place, constants) if user.graph is graph else None
        moved = passed_through(user, place, opset, constants) if user.graph is graph and step is None else None
        if step is None and (moved is None or user.inputs[0] is not value):
            break
        if step is not None:
            steps.append(step)
        place, value = moved or place, user.outputs[0]
    if not any(step.norm or step.wide for step in steps):
        return _Chain(layer, (), None)
    reason = layer_reason(layer, names[layer], names, constants)
    return _Chain(layer, tuple(steps), reason or (_OVERFLOW if names[layer] in unfit else None))


def _report(
    norms: list[onnx_ir.Node], alive: set[int], chains: list[_Chain], graph: onnx_ir.Graph, names: Names, constants: Constants
) -> FoldReport:
    chain_of = {step.node: chain for chain in chains for step in chain.steps}
    folded, kept = [], []
    for norm in norms:
        chain = chain_of.get(norm)
        if id(norm) not in alive:
            folded.append(Fold(names[norm], NORM, ()))
        elif chain is not None and chain.reason is None:
            folded.append(Fold(names[norm], NORM, (names[chain.layer],)))
        else:
            reason = chain.reason if chain is not None else _obstacle(norm, graph, names, constants)
            kept.append(_kept_node(names[norm], reason or ("rule", "no rule folds it")))
    for chain in chains:
        for run in _written_out(chain.steps):
            kind, name = ", ".join(step.node.op_type for step in run), names[run[0].node]
            if chain.reason is None:
                folded.append(Fold(name, kind, (names[chain.layer],), nodes=0))
            else:
                kept.append(_kept_node(name, chain.reason, kind, 0))
    return FoldReport(tuple(folded), tuple(kept))


def _written_out(steps: tuple[Step, ...]) -> list[list[Step]]:
    """The normalisations of a chain that are written out as arithmetic: runs between batch norms that scale each channel."""
    runs: list[list[Step]] = [[]]
    for step in steps:
        if step.norm:
            runs.append([])
        else:
            runs[-1].append(step)
    return [run for run in runs if any(step.wide for step in run)]


def _obstacle(norm: onnx_ir.Node, graph: onnx_ir.Graph, names: Names, constants: Constants) -> Reason | None:
    """Why ``norm``, which is in no chain, has no layer to fold into."""
    if norm.graph is not graph:
        return _BRANCH
    reason = norm_reason(norm, constants)
    value, between = norm.inputs[0], ""
    while reason is None and value is not None:
        users = sorted({names[user] for user, _ in value.uses() if user is not norm})
        producer = value.producer()
        if producer is None:
            return "between", f"no {NAMED} before it, but an input of the model"
        if is_layer(producer):
            shared = _shared(names[producer], users) if len(value.uses()) > 1 or value.is_graph_output() else None
            return shared or _of_layer(producer, between, names, constants)
        if producer.op_type not in _SEEN_THROUGH:
            return "between", f"no {NAMED} directly before it, but {producer.op_type} {names[producer]}"
        if len(value.uses()) > 1 or value.is_graph_output():
            return _shared(names[producer], users)
        moving = (source for source in producer.inputs if source is not None and constants.number(source) is None)
        between = between or (f"{producer.op_type} {names[producer]}" if producer.op_type in _ARITHMETIC else "")
        norm, value = producer, next(moving, None)
    return reason


_ARITHMETIC = ("Mul", "Div", "Add", "Sub")
_SEEN_THROUGH = (NORM, "Identity", "Dropout", "Transpose", *_ARITHMETIC)


def _of_layer(layer: onnx_ir.Node, between: str, names: Names, constants: Constants) -> Reason:
    reason = layer_reason(layer, names[layer], names, constants)
    if reason is None and between:
        return "between", f"{between} between it and {names[layer]} has not one stored number for each channel"
    return reason or ("rule", f"its channels are not those of {layer.op_type} {names[layer]}")


def _shared(name: str, users: list[str]) -> Reason:
    return "other-users", f"the output of {name} is also {', '.join(users) or 'an output of the model'}"


def _taken_over(chain: _Chain, constants: Constants) -> Numbers:
    """The layer's numbers in float64, with every step of the chain in them."""
    numbers = numbers_of(chain.layer, constants)
    scale, shift = np.ones_like(numbers.bias), np.zeros_like(numbers.bias)
    for step in chain.steps:
        scale, shift = step.scale * scale, step.scale * shift + step.shift
    return scaled(chain.layer, numbers, scale, shift)


def _fit(numbers: Numbers, dtype: np.dtype[np.generic]) -> bool:
    """Whether both tensors can be rounded to ``dtype`` with no more than a rounding error."""
    return all(_rounds(part, dtype) for part in numbers)


def _rounds(exact: Array, dtype: np.dtype[np.generic]) -> bool:
    with np.errstate(over="ignore", under="ignore"):
        rounded = exact.astype(dtype).astype(np.float64)
    error, scale = np.abs(rounded - exact).max(initial=0), np.abs(exact).max(initial=0)
    return bool(error <= scale * rounding_unit(dtype.name))


def _rewrite(graph: onnx_ir.Graph, chain: _Chain, exact: Numbers, dtype: np.dtype[np.generic]) -> dict[str, Array]:
    """Give the layer its new numbers, and take the steps out of the graph.

    Returns the stored tensors that hold the numbers, by name, with their values before rounding.
    """
    layer = chain.layer
    weight = layer.inputs[1]
    assert weight is not None
    name = str(weight.name)
    stored = _stored(graph, weight, name, exact.weight.astype(dtype))
    layer.replace_input_with(1, stored)
    wide = {str(stored.name): exact.weight}
    for step in chain.steps:
        _bypass(graph, step)
    if not exact.bias.any() and (layer.op_type == "MatMul" or len(layer.inputs) < 3):
        return wide
    old = layer.inputs[2] if layer.op_type != "MatMul" and len(layer.inputs) > 2 else None
    bias = _stored(graph, old, str(old.name) if old is not None and old.name else f"{name}_bias", exact.bias.astype(dtype))
    if layer.op_type == "MatMul":
        _add_behind(graph, layer, bias)
    else:
        layer.resize_inputs(3)
        layer.replace_input_with(2, bias)
    if layer.op_type == "Gemm" and "beta" in layer.attributes:
        layer.attributes["beta"] = onnx_ir.AttrFloat32("beta", 1.0)
    return wide | {str(bias.name): exact.bias}


def _bypass(graph: onnx_ir.Graph, step: Step) -> None:
    """Remove the step's node; its input takes the place of its output, and the name where that is an output of the model."""
    source, output = step.node.inputs[step.data], step.node.outputs[0]
    assert source is not None
    _take_place(graph, source, output)
    graph.remove(step.node, safe=True)


def _take_place(graph: onnx_ir.Graph, source: onnx_ir.Value, output: onnx_ir.Value) -> None:
    for index, value in enumerate(graph.outputs):
        if value is output:
            graph.outputs[index] = source
            source.type, source.shape = output.type, output.shape
            source.name, output.name = output.name, f"{output.name}_unfolded"
    onnx_ir.convenience.replace_all_uses_with(output, source)


def _add_behind(graph: onnx_ir.Graph, layer: onnx_ir.Node, bias: onnx_ir.Value) -> None:
    """Put an Add of ``bias`` between the MatMul and its users."""
    output = layer.outputs[0]
    add = onnx_ir.Node("", "Add", [None, bias], name=f"{layer.name or output.name}_bias")
    total = add.outputs[0]
    total.name, total.type, total.shape = f"{output.name}_shifted", output.type, output.shape
    _take_place(graph, total, output)
    add.replace_input_with(0, output)
    graph.insert_after(layer, add)


def _stored(graph: onnx_ir.Graph, old: onnx_ir.Value | None, name: str, numbers: Array) -> onnx_ir.Value:
    """A stored tensor of these numbers: ``old`` itself where nothing else uses it, or a new one."""
    if old is not None and old.is_initializer() and len(old.uses()) == 1 and not old.is_graph_output():
        tensor = onnx_ir.tensor(numbers, name=name)
        old.const_value, old.shape, old.type = tensor, onnx_ir.Shape(numbers.shape), onnx_ir.TensorType(tensor.dtype)
        return old
    return store(graph, name, numbers)


def _with_exact(folded: onnx.ModelProto, wide: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of the folded file in which the stored tensors ``wide`` have their numbers before rounding, in float64."""
    exact = onnx.ModelProto()
    exact.CopyFrom(folded)
    for tensor in exact.graph.initializer:
        if tensor.name in wide:
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide[tensor.name], tensor.name))
    return exact


def _check_count(proto: onnx.ModelProto, report: FoldReport) -> None:
    written, reported = batch_norms(proto), sum(norm.nodes for norm in report.kept)
    if written != reported:
        raise ModelError(
            f"the folded file has {written} BatchNormalization nodes where the report says {reported}", "please report this file"
        )


def _kept_node(name: str, reason: Reason, kind: str = NORM, nodes: int = 1) -> Kept:
    code, why = reason
    return Kept(name, kind, why, nodes, (Obstacle("itself", code, name, why),))


def _node_names(nodes: Iterable[onnx_ir.Node]) -> dict[onnx_ir.Node, str]:
    """Node -> its name, or its output's name where its own is empty or not unique."""
    every = list(nodes)
    often = Counter(node.name for node in every)
    return {node: node.name if node.name and often[node.name] == 1 else _output(node) for node in every}


def _output(node: onnx_ir.Node) -> str:
    return str(node.outputs[0].name) if node.outputs else str(node.name)


def _first_cause(problem: BaseException) -> BaseException:
    return _first_cause(problem.__cause__) if problem.__cause__ is not None else problem
