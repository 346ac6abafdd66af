"""Fold batch norm in an ONNX file from elsewhere, by onnxscript's own rules.

Batch norm goes into the Conv, ConvTranspose or Gemm before it; the other rules of ``edgekit.fold`` need the PyTorch model.
onnxscript's rules compute in the dtype of the file's numbers, so these are widened to float64 first and rounded once at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx
import onnx_ir
from onnx_ir.passes import common
from onnxscript import rewriter
from onnxscript.rewriter.rules import common as rules

from edgekit.errors import ModelError, first_line
from edgekit.onnx.read import NORM, batch_norms, is_standard
from edgekit.reports.export import Fold, FoldReport, Kept, Obstacle
from edgekit.tensors import Array

_RULES = (
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_batchnorm_into_conv_transpose_rule,
    rules.fuse_batchnorm_into_gemm_rule,
)
_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_EPSILON = onnx_ir.AttrFloat32("epsilon", float(np.float32(1e-5)))  # ONNX's default is a float32; the rules use a float64
_HIDDEN = "HiddenBatchNormalization"  # an operator that no rule matches and whose outputs no pass drops
_OLDEST_IR = 4  # older IR versions list every initializer as an input, so none can be replaced
Reason: TypeAlias = tuple[str, str]  # a code and a sentence
_BRANCH: Reason = ("branch", "it is inside a branch or a loop, where nothing is folded")  # "it" is the norm, named before


class Folding(NamedTuple):
    """A folded file; ``exact`` is ``model`` before the folded numbers were rounded, None if nothing folded."""

    model: onnx.ModelProto
    exact: onnx.ModelProto | None
    report: FoldReport


class _Plan(NamedTuple):
    """The plan for one normalisation: the ``layer`` that it folds into, or the ``reason`` why it stays."""

    node: onnx_ir.Node
    name: str
    output: str
    layer: onnx_ir.Node | None
    reason: Reason | None


def fold_onnx(model: onnx.ModelProto, *, fold_bn: bool = True) -> Folding:
    """A folded copy of ``model``, and a report on each BatchNormalization; ``model`` is untouched."""
    if not fold_bn:
        return Folding(model, None, _not_asked(model))
    try:
        folding = _folded(model, frozenset())
    except ModelError:
        raise
    except Exception as problem:  # onnxscript wraps the cause in errors of its own
        raise ModelError(
            f"onnxscript cannot rewrite the file: {first_line(_first_cause(problem))}",
            "export with --no-fold-bn and report the file",
        ) from problem
    _check_count(folding.model, folding.report)
    return folding


def _not_asked(model: onnx.ModelProto) -> FoldReport:
    graph_model = onnx_ir.from_proto(model)
    functions = [node for function in graph_model.functions.values() for node in function.all_nodes()]
    nodes = [node for node in (*graph_model.graph.all_nodes(), *functions) if _is_norm(node, NORM)]
    names = _node_names(nodes)
    return FoldReport((), tuple(_kept_node(names[node], "not-asked", "folding was not asked for") for node in nodes))


def _folded(model: onnx.ModelProto, unfit: frozenset[str]) -> Folding:
    """Hide the norms that must stay from the rules, widen the numbers, apply the rules, and round their results.

    A normalisation whose folded numbers do not fit into its layer's dtype joins ``unfit``, and the folding starts again.
    """
    graph_model = _inlined(model)
    graph = graph_model.graph
    norms = [node for node in graph.all_nodes() if _is_norm(node, NORM)]
    names = _node_names(graph.all_nodes())
    for node in norms:
        node.op_type = _HIDDEN
    common.LiftConstantsToInitializersPass(size_limit=0)(graph_model)
    _see_through_copies(graph)
    common.RemoveUnusedNodesPass()(graph_model)
    alive = {id(node) for node in graph.all_nodes()}
    plans = _planned(graph, [node for node in norms if id(node) in alive], names, unfit)
    layers = {plan.layer: names[plan.layer] for plan in plans if plan.layer is not None}
    dtypes = _widen_layers(graph, plans)
    weights = {plan.output: _weights(plan.layer) for plan in plans if plan.layer is not None}  # the rules take the layers apart
    for plan in plans:
        if plan.layer is not None:
            plan.node.op_type = NORM
            plan.node.attributes.setdefault("epsilon", _EPSILON)
    rewriter.rewrite(graph_model, pattern_rewrite_rules=_RULES)
    for node in graph.all_nodes():
        if node.op_type == _HIDDEN:
            node.op_type = NORM
    produced = {_output(node): node for node in graph}
    _name_layers(produced, plans, layers)
    exact = onnx_ir.to_proto(graph_model) if layers else None
    too_large = _round(graph, dtypes)
    wrong = frozenset(output for output, values in weights.items() if too_large & values)
    if wrong:
        return _folded(model, unfit | wrong)
    remaining = {_output(node) for node in graph if _is_norm(node, NORM)}
    dead = [Fold(names[node], NORM, ()) for node in norms if id(node) not in alive]
    return Folding(onnx_ir.to_proto(graph_model), exact, _report(plans, remaining, layers, dead))


def _report(plans: list[_Plan], remaining: set[str], layers: dict[onnx_ir.Node, str], dead: list[Fold]) -> FoldReport:
    folded, refused = [], []
    for plan in plans:
        if plan.reason is not None:
            refused.append(_kept_node(plan.name, *plan.reason))
        elif plan.layer is not None and plan.output in remaining:
            refused.append(
                _kept_node(plan.name, "rule", f"onnxscript has no rule for this {plan.layer.op_type} ({layers[plan.layer]})")
            )
        elif plan.layer is not None:
            folded.append(Fold(plan.name, NORM, (layers[plan.layer],)))
    return FoldReport((*folded, *dead), tuple(refused))


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


def _see_through_copies(graph: onnx_ir.Graph) -> None:
    """Bypass the Identity nodes through which PyTorch's exporter shares equal weights; other Identities stay."""
    for node in graph:
        source = node.inputs[0] if node.op_type == "Identity" and is_standard(node.domain) else None
        if source is not None and source.is_initializer() and not node.outputs[0].is_graph_output():
            onnx_ir.convenience.replace_all_uses_with(node.outputs[0], source)


def _planned(
    graph: onnx_ir.Graph, norms: list[onnx_ir.Node], names: dict[onnx_ir.Node, str], unfit: frozenset[str]
) -> list[_Plan]:
    """A plan for each norm, in the order of the data: a norm behind one that folds can fold into the same layer."""
    into: dict[onnx_ir.Node, onnx_ir.Node] = {}
    plans = []
    for node in norms:
        reason, layer = _itself(node) if node.graph is graph else _BRANCH, None
        if reason is None and _output(node) in unfit:
            reason = ("overflow", "the folded numbers do not fit into the dtype of the layer before it")
        if reason is None:
            source = node.inputs[0]
            producer = source.producer() if source is not None else None
            layer = into.get(producer, producer) if producer is not None else None
            reason = _before(node, layer, names)
        if reason is None and layer is not None:
            into[node] = layer
        plans.append(_Plan(node, names[node], _output(node), layer if reason is None else None, reason))
    return plans


def _itself(node: onnx_ir.Node) -> Reason | None:
    """The reason against folding that lies in the normalisation itself, or None."""
    training = node.attributes.get("training_mode")
    if (training is not None and training.as_int()) or sum(bool(value.name) for value in node.outputs) > 1:
        return "training", "it is in training mode and uses the statistics of the batch"
    spatial = node.attributes.get("spatial")
    if spatial is not None and not spatial.as_int():
        return "rule", "it has statistics per position (spatial=0), for which onnxscript has no rule"
    reasons = [reason for value in node.inputs[1:] if (reason := _not_stored(value, ""))]
    return reasons[0] if reasons else _numeric(node)


def _numeric(node: onnx_ir.Node) -> Reason | None:
    """The reason against folding that lies in the normalisation's numbers, or None."""
    epsilon = node.attributes.get("epsilon", _EPSILON).as_float()
    scale, shift, mean, var = (_numbers(value).astype(np.float64) for value in node.inputs[1:5])
    if not all(np.isfinite(numbers).all() for numbers in (scale, shift, mean, var)):
        return "not-finite", "its statistics or parameters are not finite"
    if not (var + epsilon > 0).all():
        return "not-finite", "the root of its variance is no number: it is negative or zero"
    return None


def _before(node: onnx_ir.Node, layer: onnx_ir.Node | None, names: dict[onnx_ir.Node, str]) -> Reason | None:
    """The reason against folding that lies in the layer before the normalisation, or None."""
    source = node.inputs[0]
    assert source is not None
    if layer is None or layer.op_type not in _LAYERS or not is_standard(layer.domain):
        before = "an input of the model" if layer is None else f"{_shown_operator(layer)} {names[layer]}"
        return "between", f"no Conv, ConvTranspose or Gemm directly before it, but {before}"
    users = sorted({names[user] for user, _ in source.uses() if user is not node})
    if users or source.is_graph_output():
        producer = source.producer()
        name = names[producer] if producer is not None else names[layer]
        return "other-users", f"the output of {name} is also {', '.join(users) or 'an output of the model'}"
    weight, *bias = layer.inputs[1:3]
    reasons = [reason for value in (weight, *filter(None, bias)) if (reason := _not_stored(value, f" of {names[layer]}"))]
    if reasons or weight is None or not _is_shared(weight):
        return reasons[0] if reasons else None
    others = ", ".join(sorted({names[user] for user, _ in weight.uses() if user is not layer}))
    sharers = others or ("an output" if weight.is_graph_output() else "another input of that layer")
    return "shared-weight", f"{weight.name} of {names[layer]} is shared with {sharers}"


def _not_stored(value: onnx_ir.Value | None, of: str) -> Reason | None:
    if value is not None and value.is_graph_input() and value.is_initializer():
        return "graph-input", f"{value.name}{of} is also an input of the model, whose caller may replace it"
    if value is None or not value.is_initializer() or value.const_value is None:
        return "computed", f"{value.name if value is not None else 'a parameter'}{of} is not stored in the file"
    return None


def _is_shared(value: onnx_ir.Value) -> bool:
    return len(value.uses()) > 1 or value.is_graph_output()


def _widen_layers(graph: onnx_ir.Graph, plans: list[_Plan]) -> dict[str, np.dtype[np.generic]]:
    """Widen the planned layers' numbers to float64 and give each layer its own bias; returns name -> dtype to round to.

    Without a bias of its own a layer would fail in the rules: they may choose a name in use, and do not handle an empty input.
    """
    dtypes: dict[str, np.dtype[np.generic]] = {}
    for plan in plans:
        if plan.layer is None:
            continue
        layer, weight = plan.layer, plan.layer.inputs[1]
        bias = layer.inputs[2] if len(layer.inputs) > 2 else None
        if bias is None or _is_shared(bias):
            zeros = np.zeros(len(_numbers(plan.node.inputs[1])), _numbers(weight).dtype)
            layer.resize_inputs(3)
            name = f"{weight.name if weight is not None else ''}_bias"
            layer.replace_input_with(2, _stored(graph, name, zeros if bias is None else _numbers(bias)))
        for value in (*layer.inputs[1:3], *plan.node.inputs[1:]):
            assert value is not None
            assert value.name is not None
            if value.name not in dtypes:
                dtypes[value.name] = _numbers(value).dtype
                value.const_value = onnx_ir.tensor(_numbers(value).astype(np.float64), name=value.name)
    return dtypes


def _stored(graph: onnx_ir.Graph, name: str, numbers: Array) -> onnx_ir.Value:
    used = {value.name for node in graph.all_nodes() for value in (*node.inputs, *node.outputs) if value is not None}
    used |= {value.name for value in graph.inputs} | set(graph.initializers)
    while name in used:
        name += "_"
    tensor = onnx_ir.tensor(numbers, name=name)
    value = onnx_ir.Value(
        name=name, shape=onnx_ir.Shape(numbers.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _round(graph: onnx_ir.Graph, dtypes: dict[str, np.dtype[np.generic]]) -> set[str]:
    """Round every widened tensor back to its dtype; returns the names of the tensors that do not fit into it."""
    wrong = set()
    for name, value in graph.initializers.items():
        if name not in dtypes or value.const_value is None:
            continue
        exact = _numbers(value)
        with np.errstate(over="ignore", under="ignore"):
            rounded = exact.astype(dtypes[name])
        error, scale = np.abs(rounded.astype(np.float64) - exact).max(initial=0), np.abs(exact).max(initial=0)
        if not error <= scale * _unit(dtypes[name]):
            wrong.add(name)
        value.const_value = onnx_ir.tensor(rounded, name=name)
        value.type = onnx_ir.TensorType(value.const_value.dtype)
    return wrong


def _unit(dtype: np.dtype[np.generic]) -> float:
    """The rounding unit of a dtype; bfloat16's is a constant, because numpy lacks it."""
    return float(np.finfo(str(dtype)).eps) if dtype.kind == "f" else 2.0**-7


def _name_layers(produced: dict[str, onnx_ir.Node], plans: list[_Plan], layers: dict[onnx_ir.Node, str]) -> None:
    """Give the nodes that the rules made the names of the layers that they replace."""
    for plan in plans:
        if plan.layer is not None and plan.output in produced and produced[plan.output].op_type == plan.layer.op_type:
            produced[plan.output].name = layers[plan.layer]


def _weights(layer: onnx_ir.Node) -> set[str]:
    return {str(value.name) for value in layer.inputs[1:3] if value is not None}


def _numbers(value: onnx_ir.Value | None) -> Array:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _check_count(proto: onnx.ModelProto, report: FoldReport) -> None:
    written, reported = batch_norms(proto), sum(norm.nodes for norm in report.kept)
    if written != reported:
        raise ModelError(
            f"the folded file has {written} BatchNormalization nodes where the report says {reported}", "please report this file"
        )


def _kept_node(name: str, code: str, why: str) -> Kept:
    return Kept(name, NORM, why, 1, (Obstacle("itself", code, name, why),))


def _is_norm(node: onnx_ir.Node, kind: str) -> bool:
    return node.op_type == kind and is_standard(node.domain)


def _node_names(nodes: Iterable[onnx_ir.Node]) -> dict[onnx_ir.Node, str]:
    """Node -> its name, or its output's name where its own is empty or not unique."""
    every = list(nodes)
    often = Counter(node.name for node in every)
    return {node: node.name if node.name and often[node.name] == 1 else _output(node) for node in every}


def _shown_operator(node: onnx_ir.Node) -> str:
    return NORM if node.op_type == _HIDDEN else node.op_type


def _output(node: onnx_ir.Node) -> str:
    return str(node.outputs[0].name) if node.outputs else str(node.name)


def _first_cause(problem: BaseException) -> BaseException:
    return _first_cause(problem.__cause__) if problem.__cause__ is not None else problem
