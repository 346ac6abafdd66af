"""Reading a traced graph: shapes, names, stored tensors, values that depend on parameters alone, writes in place."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgekit.models.exact import in_float64

aten = torch.ops.aten
CACHED_ELEMENTS = 1 << 12
_READ_NO_VALUES = frozenset({aten._assert_tensor_metadata.default, aten.sym_size.int})
_READ_FIRST_ONLY = frozenset({aten.reshape_as.default, aten.view_as.default, aten.expand_as.default, aten.type_as.default})
_MAY_BE_THE_SAME = frozenset({aten.dropout.default, aten.to.dtype, aten.contiguous.default})


def sizes(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's output as traced; free axes have the size of the example."""
    return tuple(size if isinstance(size, int) else int(size.node.hint) for size in _value(node).shape)


def free_axes(node: fx.Node) -> frozenset[int]:
    """The axes whose size is not known before the model runs."""
    return frozenset(axis for axis, size in enumerate(_value(node).shape) if not isinstance(size, int))


def dtype_of(node: fx.Node) -> torch.dtype:
    """Of a node's output."""
    return _value(node).dtype


def is_tensor(node: object) -> bool:
    """Whether the node is known to give one tensor."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)


def _value(node: fx.Node) -> Tensor:
    value = node.meta["val"]
    assert isinstance(value, Tensor)
    return value


def argument(node: fx.Node, index: int, default: Any = None) -> Any:
    """A positional argument, or what it is when left out."""
    return node.args[index] if len(node.args) > index else default


def values_read(node: fx.Node) -> list[fx.Node]:
    """The inputs whose values a node uses, and not only their shape or dtype."""
    if node.target in _READ_NO_VALUES:
        return []
    if node.target in _READ_FIRST_ONLY:
        return [one for one in node.args[:1] if isinstance(one, fx.Node)]
    return node.all_input_nodes


def module_path(node: fx.Node) -> str:
    """The path of the innermost module a node came from, or the node's own name outside any."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack and stack[-1][0] else str(node.name)


def module_class(node: fx.Node) -> str:
    """The name of that module's class; empty outside any."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return ""
    kind = stack[-1][1]
    return (kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}").rpartition(".")[2]


def describe(node: fx.Node) -> str:
    """For a reader: ``relu in features.3``."""
    if node.op == "placeholder":
        return "the model's input"
    if node.op == "output":
        return "the model's output"
    if node.op == "get_attr":
        return str(node.target)
    if node.target is operator.getitem:  # one of several results, such as a chunk's
        return describe(node.all_input_nodes[0])
    operation = str(node.target).split(".")[1] if str(node.target).startswith("aten.") else str(node.target)
    path = module_path(node)
    return operation if path == node.name else f"{operation} in {path}"


def owner(graph: fx.GraphModule, name: str) -> tuple[nn.Module, str]:
    """The submodule that holds ``name``, and its last part."""
    path, _, leaf = name.rpartition(".")
    return graph.get_submodule(path), leaf


def stored(graph: fx.GraphModule, name: str) -> Any:
    """What a ``get_attr`` node gives."""
    holder, leaf = owner(graph, name)
    return getattr(holder, leaf)


def users_of_storage(graph: fx.GraphModule, node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """Every user of the tensor behind a ``get_attr`` node, also through its other names, as (name, user)."""
    wanted = stored(graph, str(node.target)).untyped_storage().data_ptr()
    same = [
        other
        for other in graph.graph.nodes
        if other.op == "get_attr"
        and isinstance(tensor := stored(graph, str(other.target)), Tensor)
        and tensor.untyped_storage().data_ptr() == wanted
    ]
    return [(other, user) for other in same for user in other.users]


class Constants:
    """Values of nodes that depend on stored tensors alone, in float64; None for all others."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._graph = graph
        self._values: dict[fx.Node, Any] = {}
        self._constant: set[fx.Node] = set()
        for node in graph.graph.nodes:  # in the order of the data: what a node needs has been decided before
            inputs = node.all_input_nodes
            leaf = node.op == "get_attr" and isinstance(stored(graph, str(node.target)), Tensor)
            if leaf or (_is_pure(node) and inputs and all(one in self._constant for one in inputs)):
                self._constant.add(node)

    def __contains__(self, node: object) -> bool:
        return node in self._constant

    def __call__(self, node: Any) -> Any:
        """The value; anything but a node is given back."""
        if not isinstance(node, fx.Node):
            return node
        if node not in self._constant:
            return None
        if node in self._values:
            return self._values[node]
        value = self._evaluate(node)
        if not isinstance(value, Tensor) or value.numel() <= CACHED_ELEMENTS:
            self._values[node] = value
        return value

    def _evaluate(self, node: fx.Node) -> Any:
        with torch.no_grad():
            if node.op == "get_attr":
                return in_float64(stored(self._graph, str(node.target)).detach())
            assert callable(node.target)
            return node.target(*fx.node.map_arg(node.args, self), **fx.node.map_arg(node.kwargs, self))


def _is_pure(node: fx.Node) -> bool:
    """Whether a node gives the same for the same inputs, and changes none of them."""
    if node.op != "call_function":
        return False
    seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return not seeded and not _writes(node)


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def without_writes(graph: fx.GraphModule) -> frozenset[fx.Node]:
    """Replace operators that write into their input (``relu_``) by those that do not; return the nodes it cannot be done for.

    A write through a view stays, and every value that shares memory with it is returned: nothing may be folded there.
    """
    position = {node: index for index, node in enumerate(graph.graph.nodes)}
    roots: dict[fx.Node, fx.Node] = {}
    viewed: set[fx.Node] = set()
    written: set[fx.Node] = set()
    for node in list(position):
        roots[node] = roots[node.args[0]] if _may_share(node) else node
        if roots[node] is not node and not _writes(node):
            viewed.add(roots[node])
        if not _writes(node) or not isinstance(node.args[0], fx.Node):
            continue
        root, target, functional = roots[node], node.args[0], _functional(node.target)
        if functional is None or root in viewed or root.op != "call_function":
            written.add(root)
            continue
        node.target, roots[node] = functional, node
        for user in [one for one in target.users if position[one] > position[node]]:
            user.replace_input_with(target, node)
    graph.recompile()
    return frozenset(node for node in roots if roots[node] in written)


def with_late_reads(graph: fx.GraphModule) -> None:
    """Read each stored tensor just before its first use, so that running the graph holds few of them at a time."""
    position = {node: index for index, node in enumerate(graph.graph.nodes)}
    for node in [one for one in position if one.op == "get_attr" and one.users]:
        min(node.users, key=position.__getitem__).prepend(node)


def without_zeros(graph: fx.GraphModule) -> None:
    """Drop sums with the number 0, as in ``total = 0; total = total + x``."""
    for node in list(graph.graph.nodes):
        if node.target is not aten.add.Tensor or len(node.all_input_nodes) != 1 or not is_tensor(node):
            continue
        (source,) = node.all_input_nodes
        zero = any(isinstance(value, (int, float)) and value == 0 for value in node.args)
        if zero and is_tensor(source) and dtype_of(source) == dtype_of(node):
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)


def _may_share(node: fx.Node) -> bool:
    """Whether the output may be the memory of the first input."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not node.all_input_nodes or not isinstance(node.args[0], fx.Node):
        return False
    return node.target in _MAY_BE_THE_SAME or any(returned.alias_info is not None for returned in schema.returns)


def _functional(target: Any) -> Any:
    packet = getattr(aten, target._schema.name.removeprefix("aten::").rstrip("_"), None)
    return getattr(packet, target._overloadname, None) if packet is not None else None
