"""Folding batch norm into the convolution or linear layer before it.

In inference mode batch norm is an affine map per channel,

    y = s * x + t,      s = gamma / sqrt(var + eps),      t = beta - mean * s

and so are its pieces when somebody wrote it out as subtract, multiply, divide and add. Behind a layer x = W * u + b it
vanishes into that layer, which becomes W' = s W and b' = s b + t along the layer's output channels. The graph comes from
``torch.export``, so what is "before" is told by the flow of data, not by the order in which modules were defined.
Everything is computed in float64 and rounded once, to the layer's own dtype.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from edgekit.errors import ModelError
from edgekit.models.trace import TRACED_BATCH, exact_spec, run, run_exact, tensors_of, trace
from edgekit.reports import Fold, FoldReport, Kept
from edgekit.tensors import TensorSpec

aten = torch.ops.aten
FLOAT64_LIMIT = 1e-10
NORM_MODULES = frozenset({"edgekit.models.batchnorm.BatchNorm"})
"""Modules whose own arithmetic is a batch norm written out."""


class Affine(NamedTuple):
    """y = scale * x + shift along axis 1; both of shape C, float64."""

    scale: Tensor
    shift: Tensor

    def then(self, after: Affine) -> Affine:
        """after(self(x)) = (s2 s1) x + (s2 t1 + t2)."""
        return Affine(after.scale * self.scale, after.scale * self.shift + after.shift)


class Norm(NamedTuple):
    """One normalisation in the graph: the nodes from its first to its last, and its affine map or why it has none."""

    path: str
    kind: str
    nodes: tuple[fx.Node, ...]
    affine: Affine | None
    reason: str = ""

    @property
    def source(self) -> fx.Node:
        """The node whose output is normalised."""
        return _variable_input(self.nodes[0])


class Producer(NamedTuple):
    """How a layer's weight is scaled per output channel: ``scaled(weight, s, groups)``; where ``groups`` is in its arguments."""

    scaled: Callable[[Tensor, Tensor, int], Tensor]
    groups_at: int | None = None
    last_axis: bool = False


def fold(model: nn.Module, inputs: Sequence[TensorSpec], *, fold_bn: bool = True) -> tuple[fx.GraphModule, FoldReport]:
    """Trace ``model`` and fold every batch norm that can be; ``model`` is untouched.

    With ``fold_bn=False`` the graph is only traced and every batch norm reported as kept. Raises ModelError when the
    model cannot be traced, or when the folded graph does not compute what the model does (float64, one random batch).
    """
    graph = trace(model, inputs)
    if not fold_bn:
        return graph, FoldReport((), tuple(_kept(norm, "folding was not asked for") for norm in find_norms(graph)))
    folded, kept = fold_graph(graph)
    return graph, FoldReport(folded, kept, _float64_error(model, inputs) if folded else None)


def fold_graph(graph: fx.GraphModule) -> tuple[tuple[Fold, ...], tuple[Kept, ...]]:
    """Fold in place, in the dtype the graph's parameters have; what was folded, and what was kept and why."""
    folded: list[Fold] = []
    kept: list[Kept] = []
    for norm in find_norms(graph):
        reason = norm.reason or _refusal(graph, norm)
        if reason:
            kept.append(_kept(norm, reason))
        else:
            folded.append(Fold(norm.path, norm.kind, module_path(norm.source)))
            _apply(graph, norm)
    _clean(graph)
    return tuple(folded), tuple(kept)


def find_norms(graph: fx.GraphModule) -> list[Norm]:
    """Every normalisation in the graph, in the order of the data."""
    constants = _Constants(graph)
    found: list[Norm] = []
    taken: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op != "call_function" or node in taken:
            continue
        if _is_batch_norm(node):
            found.append(_batch_norm_op(node, constants))
        elif _module_class(node) in NORM_MODULES and _affine_step(node, constants) is not None:
            norm = _written_out(node, constants)
            taken.update(norm.nodes)
            found.append(norm)
    return found


def module_path(node: fx.Node) -> str:
    """The path of the innermost module a node came from, or the node's own name outside any."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack and stack[-1][0] else str(node.name)


class _Constants:
    """Values of the graph's nodes that depend on parameters alone, in float64; None for the others."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._graph = graph
        self._values: dict[fx.Node, Any] = {}
        self._constant: set[fx.Node] = set()
        for node in graph.graph.nodes:  # in the order of the data: what a node needs has been decided before
            inputs = node.all_input_nodes
            if node.op == "get_attr" or (_is_pure(node) and inputs and all(one in self._constant for one in inputs)):
                self._constant.add(node)

    def __call__(self, node: Any) -> Any:
        if not isinstance(node, fx.Node):
            return node
        if node not in self._constant:
            return None
        if node not in self._values:
            self._values[node] = self._evaluate(node)
        return self._values[node]

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            value = _attribute(self._graph, str(node.target))
            return value.detach().double() if value.is_floating_point() else value.detach()
        assert callable(node.target)
        return node.target(*fx.node.map_arg(node.args, self), **fx.node.map_arg(node.kwargs, self))


def _is_pure(node: fx.Node) -> bool:
    """Whether a node gives the same for the same inputs."""
    return node.op == "call_function" and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())


def _is_batch_norm(node: fx.Node) -> bool:
    # instance norm with running statistics is the same map, with its arguments at the same places
    return node.target is aten.batch_norm.default or (node.target is aten.instance_norm.default and not node.args[5])


def _batch_norm_op(node: fx.Node, constants: _Constants) -> Norm:
    # aten.batch_norm(x, gamma, beta, mean, var, training, momentum, eps, cudnn_enabled)
    _, gamma, beta, mean, variance, training, _, eps, *_ = node.args
    path, kind = module_path(node), _module_class(node).rpartition(".")[2] or "batch_norm"
    kind = kind if "Norm" in kind else "batch_norm"
    if training:
        return Norm(path, kind, (node,), None, "it uses the statistics of the batch, even in inference mode")
    if mean is None or variance is None:
        return Norm(path, kind, (node,), None, "it keeps no running statistics")
    values = [constants(item) for item in (gamma, beta, mean, variance)]
    if values[2] is None or values[3] is None or (gamma is not None and values[0] is None):
        return Norm(path, kind, (node,), None, "its parameters are computed from the input")
    scale = torch.rsqrt(values[3] + eps)
    scale = scale if values[0] is None else scale * values[0]
    shift = -values[2] * scale
    shift = shift if values[1] is None else shift + values[1]
    return _checked(Norm(path, kind, (node,), Affine(scale, shift)))


def _written_out(first: fx.Node, constants: _Constants) -> Norm:
    """The run of affine steps that starts at ``first`` and stays inside its module."""
    path = module_path(first)
    affine = _affine_step(first, constants)
    assert affine is not None
    nodes = [first]
    while len(nodes[-1].users) == 1:
        user = next(iter(nodes[-1].users))
        step = _affine_step(user, constants) if module_path(user) == path else None
        if step is None:
            break
        affine = affine.then(step)
        nodes.append(user)
    return _checked(Norm(path, _module_class(first).rpartition(".")[2], tuple(nodes), affine))


def _affine_step(node: fx.Node, constants: _Constants) -> Affine | None:
    """X + c, x - c, x * c, x / c with c constant along every axis but 1 -> its affine map; None for anything else."""
    if node.op != "call_function" or node.target not in _STEPS or len(node.args) != 2 or node.kwargs:
        return None
    variable, constant = node.args[0], constants(node.args[1])
    if not isinstance(variable, fx.Node) or constants(variable) is not None or constant is None:
        return None
    value = variable.meta.get("val")
    if not isinstance(value, Tensor) or value.dim() < 2 or not isinstance(value.shape[1], int):
        return None
    channels = value.shape[1]
    per_channel = torch.as_tensor(constant, dtype=torch.float64)
    aligned = per_channel.reshape((1,) * (value.dim() - per_channel.dim()) + tuple(per_channel.shape))
    if any(size != 1 for axis, size in enumerate(aligned.shape) if axis != 1) or aligned.dim() != value.dim():
        return None
    return _STEPS[node.target](aligned.reshape(-1).expand(channels))


_STEPS: Mapping[Any, Callable[[Tensor], Affine]] = {
    aten.add.Tensor: lambda c: Affine(torch.ones_like(c), c),
    aten.sub.Tensor: lambda c: Affine(torch.ones_like(c), -c),
    aten.mul.Tensor: lambda c: Affine(c, torch.zeros_like(c)),
    aten.div.Tensor: lambda c: Affine(1 / c, torch.zeros_like(c)),
}


def _per_output(weight: Tensor, scale: Tensor, groups: int) -> Tensor:
    """Convolution and linear: W[o, ...] -> s[o] W[o, ...]."""
    return weight * scale.reshape(-1, *(1,) * (weight.dim() - 1))


def _per_transposed_output(weight: Tensor, scale: Tensor, groups: int) -> Tensor:
    """Transposed convolution, W of shape in x out/groups x ...: output channel o = j * out/groups + c belongs to group j.

    W[i, c, ...] -> s[j * out/groups + c] W[i, c, ...] for the input channels i of group j.
    """
    inputs, per_group, *kernel = weight.shape
    grouped = weight.reshape(groups, inputs // groups, per_group, *kernel)
    return (grouped * scale.reshape(groups, 1, per_group, *(1,) * len(kernel))).reshape(weight.shape)


_CONVOLUTION = Producer(_per_output)
_PRODUCERS: Mapping[Any, Producer] = {
    **{
        getattr(getattr(aten, f"conv{rank}d"), overload): _CONVOLUTION
        for rank in (1, 2, 3)
        for overload in ("default", "padding")
    },
    # conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation)
    aten.conv_transpose1d.default: Producer(_per_transposed_output, groups_at=6),
    aten.conv_transpose2d.input: Producer(_per_transposed_output, groups_at=6),
    aten.conv_transpose3d.input: Producer(_per_transposed_output, groups_at=6),
    aten.linear.default: Producer(_per_output, last_axis=True),
}


def _refusal(graph: fx.GraphModule, norm: Norm) -> str:
    """Why ``norm`` cannot go into the layer before it, or nothing."""
    source = norm.source
    producer = _PRODUCERS.get(source.target) if source.op == "call_function" else None
    if producer is None:
        return f"no convolution or linear layer directly before it, but {_describe(source)}"
    others = [user for user in source.users if user is not norm.nodes[0]]
    if others:
        return f"the output of {module_path(source)} is also used by {', '.join(sorted(map(_describe, others)))}"
    value = source.meta.get("val")
    if producer.last_axis and isinstance(value, Tensor) and value.dim() != 2:
        return f"it normalises axis 1, the outputs of {module_path(source)} lie along axis {value.dim() - 1}"
    for node in source.args[1:3]:
        if isinstance(node, fx.Node):
            if node.op != "get_attr":
                return f"a parameter of {module_path(source)} is computed, not stored"
            sharers = [user for user in _users_of_storage(graph, node) if user is not source]
            if sharers:
                return f"{node.target} is shared with {', '.join(sorted(map(_describe, sharers)))}"
    return ""


def _apply(graph: fx.GraphModule, norm: Norm) -> None:
    """Rewrite the layer before ``norm`` as W' = s W, b' = s b + t, and take the norm out of the graph."""
    assert norm.affine is not None
    source, last = norm.source, norm.nodes[-1]
    producer = _PRODUCERS[source.target]
    weight_node, bias_node = source.args[1], source.args[2] if len(source.args) > 2 else None
    assert isinstance(weight_node, fx.Node)
    weight = _attribute(graph, str(weight_node.target))
    groups = 1
    if producer.groups_at is not None and len(source.args) > producer.groups_at:
        groups = int(source.args[producer.groups_at])  # type: ignore[arg-type]
    scale, shift = (part.to(weight.device) for part in norm.affine)
    new_weight = producer.scaled(weight.detach().double(), scale, groups)
    if isinstance(bias_node, fx.Node):
        name = str(bias_node.target)
        new_bias = _attribute(graph, name).detach().double() * scale + shift
    else:
        name = str(weight_node.target).rpartition(".")[0] + ".bias"
        name = name.lstrip(".") if not _has_attribute(graph, name.lstrip(".")) else f"{weight_node.name}_folded_bias"
        new_bias = shift
    _set_parameter(graph, str(weight_node.target), new_weight.to(weight.dtype))
    _set_parameter(graph, name, new_bias.to(weight.dtype))
    if not isinstance(bias_node, fx.Node):
        with graph.graph.inserting_before(source):
            created = graph.graph.get_attr(name)
        created.meta["val"] = new_bias.to(weight.dtype)
        source.args = (*source.args[:2], created, *source.args[3:])
    last.replace_all_uses_with(source)
    for node in reversed(norm.nodes):
        graph.graph.erase_node(node)


def _clean(graph: fx.GraphModule) -> None:
    graph.graph.eliminate_dead_code()
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for name, _ in [*graph.named_parameters(), *graph.named_buffers()]:
        if name not in used:
            owner, leaf = _owner(graph, name)
            delattr(owner, leaf)
    graph.graph.lint()  # type: ignore[no-untyped-call]
    graph.recompile()


def _float64_error(model: nn.Module, inputs: Sequence[TensorSpec]) -> float:
    """Folded against unfolded, both in float64: the largest error of any output; raises ModelError beyond the limit.

    The float64 graph is traced anew: a float32 one may assert its own dtypes.
    """
    exact_inputs = tuple(exact_spec(spec) for spec in inputs)
    example = tensors_of(exact_inputs, TRACED_BATCH)
    wanted = run_exact(model, example)
    folded = trace(copy.deepcopy(model).double(), exact_inputs)
    fold_graph(folded)
    got = run(folded, example)
    error = max(_scaled_error(got[name].double(), wanted[name].double()) for name in wanted)
    if error > FLOAT64_LIMIT:
        raise ModelError(
            f"folding {type(model).__name__} changed its float64 outputs by {error:.1e} of their scale, which is a defect of "
            "edgekit or statistics too extreme to fold; export with --no-fold-bn and report it"
        )
    return error


def _scaled_error(got: Tensor, wanted: Tensor) -> float:
    """max|got - wanted| / max|wanted| over the finite values; infinite unless both are finite at the same places."""
    finite = wanted.isfinite()
    if not bool((got.isfinite() == finite).all()):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    return float((got - wanted)[finite].abs().max() / wanted[finite].abs().max().clamp_min(1e-30))


def _checked(norm: Norm) -> Norm:
    assert norm.affine is not None
    if not bool(norm.affine.scale.isfinite().all() and norm.affine.shift.isfinite().all()):
        return norm._replace(affine=None, reason="its statistics or parameters are not finite")
    return norm


def _kept(norm: Norm, reason: str) -> Kept:
    return Kept(norm.path, norm.kind, reason, nodes=int(_is_batch_norm(norm.nodes[0])))


def _variable_input(node: fx.Node) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def _describe(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "the model's input"
    if node.op == "output":
        return "the model's output"
    operation = str(node.target).split(".")[1] if str(node.target).startswith("aten.") else str(node.target)
    path = module_path(node)
    return operation if path == node.name else f"{operation} in {path}"


def _module_class(node: fx.Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return ""
    kind = stack[-1][1]
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _users_of_storage(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """Every user of the parameter behind ``node``, also through its other names."""
    wanted = _attribute(graph, str(node.target)).untyped_storage().data_ptr()
    return [
        user
        for other in graph.graph.nodes
        if other.op == "get_attr" and _attribute(graph, str(other.target)).untyped_storage().data_ptr() == wanted
        for user in other.users
    ]


def _owner(graph: fx.GraphModule, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return graph.get_submodule(path), leaf


def _attribute(graph: fx.GraphModule, name: str) -> Tensor:
    owner, leaf = _owner(graph, name)
    value = getattr(owner, leaf)
    assert isinstance(value, Tensor)
    return value


def _has_attribute(graph: fx.GraphModule, name: str) -> bool:
    owner, leaf = _owner(graph, name)
    return hasattr(owner, leaf)


def _set_parameter(graph: fx.GraphModule, name: str, value: Tensor) -> None:
    owner, leaf = _owner(graph, name)
    setattr(owner, leaf, nn.Parameter(value, requires_grad=False))
