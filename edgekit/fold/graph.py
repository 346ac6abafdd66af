"""Read a traced graph (shapes, names, stored tensors, constants) and normalise its form before folding."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgekit.graphs.exact import in_float64, widened_call

aten = torch.ops.aten
CACHED_ELEMENTS = 1 << 12
_READ_NO_VALUES = frozenset({aten.sym_size.int})
_READ_FIRST_ONLY = frozenset({aten.reshape_as.default, aten.view_as.default, aten.expand_as.default, aten.type_as.default})
DROPOUTS = frozenset(
    getattr(aten, f"{name}dropout{place}").default for name in ("", "feature_", "alpha_", "feature_alpha_") for place in ("", "_")
)


def sizes(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's output as traced; a free axis has the size that it had in tracing."""
    return tuple(size if isinstance(size, int) else int(size.node.hint) for size in _value(node).shape)


def free_axes(node: fx.Node) -> frozenset[int]:
    """The axes whose size is not known before the model runs."""
    return frozenset(axis for axis, size in enumerate(_value(node).shape) if not isinstance(size, int))


def dtype_of(node: fx.Node) -> torch.dtype:
    """The dtype of a node's output."""
    return _value(node).dtype


def is_tensor(node: object) -> bool:
    """Whether ``node`` is a node whose output is one tensor."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)


def _value(node: fx.Node) -> Tensor:
    value = node.meta["val"]
    assert isinstance(value, Tensor)
    return value


def argument(node: fx.Node, index: int, default: Any = None) -> Any:
    """A positional argument of a node, or ``default`` if it is left out."""
    return node.args[index] if len(node.args) > index else default


def values_read(node: fx.Node) -> list[fx.Node]:
    """The inputs whose values a node reads; inputs read for their shape or dtype only are left out."""
    if node.target in _READ_NO_VALUES:
        return []
    if node.target in _READ_FIRST_ONLY:
        return [value for value in node.args[:1] if isinstance(value, fx.Node)]
    return node.all_input_nodes


def scope(node: fx.Node) -> str | None:
    """The path of the innermost module that a node came from: empty for the model itself, None outside of modules."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else None


def module_path(node: fx.Node) -> str:
    """The path of the innermost module that a node came from, or the node's own name if there is no path."""
    return scope(node) or str(node.name)


def module_class(node: fx.Node) -> str:
    """The class name of the innermost module that a node came from; empty outside of modules."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return ""
    kind = stack[-1][1]
    return (kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}").rpartition(".")[2]


def describe(node: fx.Node) -> str:
    """A node in words for a reader, like ``relu in features.3``."""
    if node.op == "placeholder":
        return "the model's input"
    if node.op == "output":
        return "the model's output"
    if node.op == "get_attr":
        return str(node.target)
    if node.target is operator.getitem:  # one of several results, as of chunk()
        return describe(node.all_input_nodes[0])
    operation = str(node.target).split(".")[1] if str(node.target).startswith("aten.") else str(node.target)
    path = module_path(node)
    return operation if path == node.name else f"{operation} in {path}"


def owner(graph: fx.GraphModule, name: str) -> tuple[nn.Module, str]:
    """The submodule that holds the tensor ``name``, and the tensor's attribute name there."""
    path, _, leaf = name.rpartition(".")
    return graph.get_submodule(path), leaf


def stored(graph: fx.GraphModule, name: str) -> Any:
    """The value that a ``get_attr`` node of this name reads."""
    holder, leaf = owner(graph, name)
    return getattr(holder, leaf)


class Storages:
    """The nodes that read the same stored numbers under any name; indexed once, because a graph has thousands of readers."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._place: dict[fx.Node, tuple[int, int, int]] = {}
        self._nodes: dict[int, list[fx.Node]] = {}
        for node in graph.graph.nodes:
            if node.op == "get_attr" and isinstance(tensor := stored(graph, str(node.target)), Tensor):
                self._place[node] = _place(tensor)
                self._nodes.setdefault(self._place[node][0], []).append(node)

    def users(self, node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
        """(reader, user) for every use of the numbers behind a ``get_attr`` node, including uses under other names."""
        storage, first, last = self._place[node]
        readers = [other for other in self._nodes[storage] if self._place[other][1] <= last and first <= self._place[other][2]]
        return [(other, user) for other in readers for user in other.users]


def _place(tensor: Tensor) -> tuple[int, int, int]:
    """(storage, first element, last element) of a tensor; views that do not overlap share no numbers."""
    first = int(tensor.storage_offset())
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.untyped_storage().data_ptr(), first, first + max(int(reach), 0)


class Constants:
    """Float64 values of the nodes that depend on stored tensors only; None for all other nodes."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._graph = graph
        self._values: dict[fx.Node, Any] = {}
        self._constant: set[fx.Node] = set()
        for node in graph.graph.nodes:  # in the order of the data, so that a node's inputs are classified before the node
            inputs = node.all_input_nodes
            leaf = node.op == "get_attr" and isinstance(stored(graph, str(node.target)), Tensor)
            if leaf or (_is_pure(node) and inputs and all(value in self._constant for value in inputs)):
                self._constant.add(node)

    def __contains__(self, node: object) -> bool:
        return node in self._constant

    def __call__(self, node: Any) -> Any:
        """The value of a node; any other argument is returned as it is."""
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
            return widened_call(node.target, fx.node.map_arg(node.args, self), fx.node.map_arg(node.kwargs, self))


def _is_pure(node: fx.Node) -> bool:
    """Whether a node is deterministic and writes into none of its inputs."""
    if node.op != "call_function":
        return False
    seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return not seeded and not _writes(node)


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def without_bystanders(graph: fx.GraphModule) -> None:
    """Drop operators without effect in inference: inactive dropout, and the tracer's checks of dtypes."""
    for node in list(graph.graph.nodes):
        inactive = node.target in DROPOUTS and not node.args[2] and not any(user.op == "output" for user in node.users)
        if inactive:
            node.replace_all_uses_with(node.all_input_nodes[0])
        if inactive or node.target is aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)
    graph.recompile()


class Linears:
    """Rewrites ``x @ W`` and ``addmm(b, x, W)`` with a stored W as linear(x, transposed W, b), so that one rule serves all."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._spelled: dict[fx.Node, tuple[Any, fx.Node]] = {}
        constants = Constants(graph)
        for node in list(graph.graph.nodes):
            bias, source, weight = _product_with_bias(node)
            if weight not in constants or source in constants or len(sizes(weight)) != 2 or dtype_of(source) != dtype_of(weight):
                continue
            with graph.graph.inserting_before(node):
                turned = graph.graph.call_function(aten.permute.default, (weight, [1, 0]))
                turned.meta = {**node.meta, "val": weight.meta["val"].permute(1, 0)}
            self._spelled[node] = (node.target, turned)
            node.target, node.args = aten.linear.default, (source, turned, bias)

    def undo(self) -> None:
        """Restore the original operator of every rewritten node that nothing was folded into."""
        for node, (target, turned) in self._spelled.items():
            if turned in node.all_input_nodes:
                source, weight, bias = node.args[0], turned.args[0], argument(node, 2)
                node.target, node.args = target, (bias, source, weight) if target is aten.addmm.default else (source, weight)


def _product_with_bias(node: fx.Node) -> tuple[fx.Node | None, Any, Any]:
    """(bias, x, W) of a matrix product; three Nones for any other node."""
    if node.target in (aten.matmul.default, aten.mm.default):
        return (None, *node.args)  # type: ignore[return-value]
    if node.target is aten.addmm.default and not node.kwargs and len(sizes(node.all_input_nodes[0])) == 1:
        return node.args  # type: ignore[return-value]
    return None, None, None


def writes_in_place(graph: fx.GraphModule) -> bool:
    """Whether any operator writes into its input."""
    return any(_writes(node) for node in graph.graph.nodes)


def without_writes(graph: fx.GraphModule) -> frozenset[fx.Node]:
    """Replace operators that write into their input (``relu_``) by operators that do not.

    A write through a view cannot be replaced. Returns every node that shares memory with such a write; nothing may be folded
    there.
    """
    position = {node: index for index, node in enumerate(graph.graph.nodes)}
    roots: dict[fx.Node, fx.Node] = {}
    owners: dict[int, fx.Node] = {}  # memory -> the node that wrote its current contents
    viewed: set[fx.Node] = set()
    written: set[fx.Node] = set()
    for node in list(position):
        memory = _memory(node)
        root = roots[node] = owners.setdefault(memory, node)
        if root is not node and not _writes(node):
            viewed.add(root)
        if not _writes(node) or not isinstance(node.args[0], fx.Node):
            continue
        target, functional = node.args[0], _functional(node)
        if functional is None or root in viewed or root.op != "call_function":
            written.add(root)
            continue
        node.target = functional
        roots[node] = owners[memory] = node
        for user in [reader for reader in target.users if position[reader] > position[node]]:
            user.replace_input_with(target, node)
    graph.recompile()
    return frozenset(node for node in roots if roots[node] in written)


def without_repeats(graph: fx.GraphModule) -> None:
    """Drop unused nodes, and merge nodes that compute the same from the same values, as the exporter does too."""
    graph.graph.eliminate_dead_code()
    graph.recompile()
    if writes_in_place(graph):
        return
    first: dict[str, fx.Node] = {}
    for node in list(graph.graph.nodes):
        if not _is_pure(node) or any(user.op == "output" for user in node.users):
            continue
        twin = first.setdefault(f"{node.target} {node.args} {node.kwargs}", node)
        if twin is not node:
            node.replace_all_uses_with(twin)
            graph.graph.erase_node(node)
    graph.recompile()


def without_zeros(graph: fx.GraphModule) -> None:
    """Drop sums with the number 0, as in ``total = 0; total = total + x``."""
    for node in list(graph.graph.nodes):
        if node.target is not aten.add.Tensor or len(node.all_input_nodes) != 1 or not is_tensor(node):
            continue
        (source,) = node.all_input_nodes
        zero = any(isinstance(value, (int, float)) and value == 0 for value in node.args)
        returned = any(user.op == "output" for user in node.users)  # each output of the model needs a node of its own
        if zero and not returned and is_tensor(source) and dtype_of(source) == dtype_of(node):
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)


def _memory(node: fx.Node) -> int:
    """An identifier of the memory of a node's value: the tracer's tensors share memory where the real ones do."""
    memories: list[int] = []
    fx.node.map_aggregate(
        node.meta.get("val"), lambda part: memories.append(part.untyped_storage()._cdata) if isinstance(part, Tensor) else None
    )
    return memories[0] if memories else -1 - id(node)


def _functional(node: fx.Node) -> Any:
    """The same operator without the write; None if there is none, or if its result would have another dtype."""
    if any(
        is_tensor(value) and dtype_of(value).is_floating_point and dtype_of(value) != dtype_of(node)
        for value in node.all_input_nodes
    ):
        return None
    target: Any = node.target
    packet = getattr(aten, target._schema.name.removeprefix("aten::").rstrip("_"), None)
    twin = getattr(packet, target._overloadname, None)
    return None if twin is None or twin._schema.is_mutable else twin  # ``mul.out`` has no twin of that name
