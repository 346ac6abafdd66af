"""Find normalisations: batch norm in inference mode, and the same per-channel arithmetic written out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from edgekit.fold.affine import Affine
from edgekit.fold.graph import (
    Constants,
    aten,
    describe,
    dtype_of,
    free_axes,
    is_tensor,
    module_class,
    module_path,
    scope,
    sizes,
    stored,
)
from edgekit.reports.export import Obstacle

NOT_FINITE = "its statistics or parameters are not finite"


class Norm(NamedTuple):
    """One normalisation in the graph: its nodes in order, and its map or the obstacle to folding.

    ``operand``: the index of the normalised argument of the first node. ``onnx_nodes``: the number of BatchNormalization nodes
    that the norm becomes in ONNX. ``offset``: the largest distance of a channel's mean from zero, in standard deviations.
    """

    path: str
    kind: str
    operand: int
    nodes: tuple[fx.Node, ...]
    affine: Affine | None
    obstacle: Obstacle | None = None
    onnx_nodes: int = 0
    offset: float = 0.0

    @property
    def source(self) -> fx.Node:
        """The node whose output is normalised; folding another norm may change it."""
        source = self.nodes[0].args[self.operand]
        assert isinstance(source, fx.Node)
        return source

    @property
    def last(self) -> fx.Node:
        """The node whose output is the normalised value."""
        return self.nodes[-1]


class AffineStep(NamedTuple):
    """An elementwise operator with a constant operand: ``map`` applies to the output of ``variable``."""

    variable: fx.Node
    map: Affine


def find_norms(graph: fx.GraphModule) -> list[Norm]:
    """Every normalisation in the graph, in the order of the data; norms in branches (``torch.cond``) come last."""
    constants = Constants(graph)
    inside = _holders(graph)
    norms: list[Norm] = []
    claimed: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node in claimed or node in constants or node.op != "call_function":
            continue
        if is_batch_norm(node):
            norms.append(_batch_norm(node, constants))
        elif affine_step(node, constants) is not None:
            run = _step_chain(node, constants)
            claimed.update(run)
            norm = _written_out(run, constants, inside)
            norms += [norm] if norm is not None else []
    return norms + _in_branches(graph)


def _holders(graph: fx.GraphModule) -> set[str]:
    """The paths of modules with computing modules inside."""
    parts = [module_path(node).split(".") for node in graph.graph.nodes]
    return {".".join(path[:length]) for path in parts for length in range(1, len(path))}


def is_batch_norm(node: fx.Node) -> bool:
    """Whether a node is batch norm, or instance norm with running statistics, which is the same map of the same arguments."""
    if node.op != "call_function":
        return False
    return node.target is aten.batch_norm.default or (node.target is aten.instance_norm.default and not node.args[5])


def _in_branches(graph: fx.GraphModule) -> list[Norm]:
    branches = [part for name, part in graph.named_modules() if name and isinstance(part, fx.GraphModule)]
    norms = []
    for node in [node for part in branches for node in part.graph.nodes if is_batch_norm(node)]:
        why = Obstacle("itself", "branch", describe(node), "it is inside a branch, loop or autocast, where nothing is folded")
        norms.append(Norm(module_path(node), _kind(node), 0, (node,), None, why, onnx_nodes=1))
    return norms


def _batch_norm(node: fx.Node, constants: Constants) -> Norm:
    # aten.batch_norm(x, gamma, beta, mean, var, training, momentum, eps, cudnn_enabled)
    _, gamma, beta, mean, variance, training, _, eps, *_ = node.args
    norm = Norm(module_path(node), _kind(node), 0, (node,), None, onnx_nodes=1)
    if training:
        return _refused(norm, "training", "it uses the statistics of the batch, even in inference mode")
    if mean is None or variance is None:
        return _refused(norm, "no-statistics", "it keeps no running statistics")
    if any(isinstance(item, fx.Node) and item not in constants for item in (gamma, beta, mean, variance)):
        return _refused(norm, "computed", "its parameters are computed from the input")
    values = [constants(item) for item in (gamma, beta, mean, variance)]
    if not bool(values[2].isfinite().all() and values[3].isfinite().all()):
        return _refused(norm, "not-finite", NOT_FINITE)
    inverse = torch.rsqrt(values[3] + eps)
    scale = inverse if values[0] is None else inverse * values[0]
    shift = -values[2] * scale
    shift = shift if values[1] is None else shift + values[1]
    offset = float((values[2] * inverse).abs().max()) if inverse.isfinite().all() else 0.0
    shape = (1, -1, *(1,) * (len(sizes(node)) - 2))
    return _finite(norm._replace(affine=Affine(scale.reshape(shape), shift.reshape(shape)), offset=offset))


def _kind(node: fx.Node) -> str:
    kind = module_class(node)
    return kind if "Norm" in kind else "batch_norm"


def _step_chain(first: fx.Node, constants: Constants) -> tuple[fx.Node, ...]:
    """The chain of affine steps from ``first`` on, in one module, along one axis, whose values have no other users."""
    nodes = [first]
    axes = _axes(first, constants)
    while len(nodes[-1].users) == 1:
        user = next(iter(nodes[-1].users))
        if scope(user) != scope(first) or affine_step(user, constants) is None:
            break
        axes = axes | _axes(user, constants)
        if len(axes) > 1:
            break
        nodes.append(user)
    return tuple(nodes)


def _axes(node: fx.Node, constants: Constants) -> set[int]:
    step = affine_step(node, constants)
    return set(step.map.axes) if step is not None else set()


def _written_out(nodes: tuple[fx.Node, ...], constants: Constants, holders: set[str]) -> Norm | None:
    """A chain of affine steps as one normalisation; None if no stored tensor multiplies single channels.

    Without such a product the chain is no normalisation: sums alone are biases and position embeddings, and single numbers are
    constants of the model.
    """
    affine = Affine.identity(len(sizes(nodes[0])))
    operand, offset = 0, None
    scaled: list[fx.Node] = []
    for node in nodes:
        step = affine_step(node, constants)
        assert step is not None
        operand = node.args.index(step.variable) if node is nodes[0] else operand
        affine = affine.then(step.map)
        if node.target in _SCALING:
            scaled += [
                operand for operand in node.all_input_nodes if operand in constants and _per_channel(constants(operand), node)
            ]
        if scaled and offset is None:  # assume a standard deviation of one before the first product; the shift is minus the mean
            offset = float(affine.shift.abs().max()) if affine.finite else 0.0
    if not scaled or len(affine.axes) > 1:
        return None
    path, kind = _name(nodes, scaled[0], holders)
    return _finite(Norm(path, kind, operand, nodes, affine, offset=offset or 0.0))


def _per_channel(constant: Tensor, node: fx.Node) -> bool:
    """Whether a constant has several numbers, or is one number in the shape of a single channel."""
    return constant.numel() > 1 or constant.dim() == len(sizes(node))


def _name(nodes: tuple[fx.Node, ...], constant: fx.Node, holders: set[str]) -> tuple[str, str]:
    """(path, kind) of a written-out norm: its module if no modules are inside, otherwise the multiplying parameter."""
    path = module_path(nodes[0])
    if path != nodes[0].name and path not in holders and module_class(nodes[0]):
        return path, module_class(nodes[0])
    while constant.op != "get_attr":
        constant = constant.all_input_nodes[0]
    return str(constant.target), "scale" if len(nodes) == 1 else "scale and shift"


def affine_step(node: fx.Node, constants: Constants) -> AffineStep | None:
    """An elementwise operator with a constant operand, as a map of its variable operand; None for any other node.

    The constant may be a Python number, or a tensor of any shape that does not change the variable's shape.
    """
    rule = _STEPS.get(node.target) if node.op == "call_function" else None
    if rule is None or not is_tensor(node) or node in constants or not dtype_of(node).is_floating_point:
        return None
    variables = [value for value in node.all_input_nodes if value not in constants]
    if len(variables) != 1 or sum(arg is variables[0] for arg in node.args) != 1 or not is_tensor(variables[0]):
        return None
    if sizes(variables[0]) != sizes(node) or dtype_of(variables[0]) != dtype_of(node):
        return None
    values = [None if arg is variables[0] else constants(arg) for arg in node.args]
    step = rule(values, {key: constants(value) for key, value in node.kwargs.items()})
    if step is None:
        return None
    rank = len(sizes(node))
    aligned = [_aligned(part, rank) for part in step]
    if any(part is None or any(part.shape[axis] > 1 for axis in free_axes(node)) for part in aligned):
        return None
    return AffineStep(variables[0], Affine.of(*(part for part in aligned if part is not None)))


def _aligned(part: Any, rank: int) -> Tensor | None:
    tensor = torch.as_tensor(part, dtype=torch.float64)
    return tensor.reshape((1,) * (rank - tensor.dim()) + tuple(tensor.shape)) if tensor.dim() <= rank else None


Rule = Callable[[list[Any], Mapping[str, Any]], "tuple[Any, Any] | None"]


def _add(values: list[Any], options: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """The map of x + a c or c + a x, with a = alpha."""
    first, second = values
    alpha = options.get("alpha", 1)
    return (1.0, alpha * second) if first is None else (alpha, first)


def _sub(values: list[Any], options: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """The map of x - a c or c - a x, with a = alpha."""
    first, second = values
    alpha = options.get("alpha", 1)
    return (1.0, -alpha * second) if first is None else (-alpha, first)


def _rsub(values: list[Any], options: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """The map of c - a x or x - a c: ``_sub`` with its operands swapped."""
    return _sub([values[1], values[0]], options)


def _mul(values: list[Any], options: Mapping[str, Any]) -> tuple[Any, Any] | None:
    return (values[1] if values[0] is None else values[0]), 0.0


def _div(values: list[Any], options: Mapping[str, Any]) -> tuple[Any, Any] | None:
    if values[0] is not None or options.get("rounding_mode"):
        return None
    return 1 / torch.as_tensor(values[1], dtype=torch.float64), 0.0


def _addcmul(values: list[Any], options: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """The map of c1 + value x c2."""
    if values[0] is None:
        return None
    factor = values[1] if values[2] is None else values[2]
    return options.get("value", 1) * factor, values[0]


def _neg(values: list[Any], options: Mapping[str, Any]) -> tuple[Any, Any] | None:
    return -1.0, 0.0


_SCALING: Mapping[Any, Rule] = {
    **dict.fromkeys((aten.mul.Tensor, aten.multiply.Tensor), _mul),
    **dict.fromkeys((aten.div.Tensor, aten.divide.Tensor, aten.true_divide.Tensor), _div),
    aten.addcmul.default: _addcmul,
}
_STEPS: Mapping[Any, Rule] = {
    **_SCALING,
    aten.add.Tensor: _add,
    **dict.fromkeys((aten.sub.Tensor, aten.subtract.Tensor), _sub),
    **dict.fromkeys((aten.rsub.Tensor, aten.rsub.Scalar), _rsub),
    **dict.fromkeys((aten.neg.default, aten.negative.default), _neg),
}


def _finite(norm: Norm) -> Norm:
    if norm.affine is not None and norm.affine.finite:
        return norm
    return _refused(norm, "not-finite", NOT_FINITE)


def _refused(norm: Norm, code: str, why: str) -> Norm:
    return norm._replace(affine=None, obstacle=Obstacle("itself", code, norm.path, why))


def stored_names(graph: fx.GraphModule) -> list[str]:
    """The names of the tensors that a graph reads."""
    return [
        str(node.target)
        for node in graph.graph.nodes
        if node.op == "get_attr" and isinstance(stored(graph, str(node.target)), Tensor)
    ]
