"""The weights of layers while norms are folded into them: changes are held as vectors and rounded once, at the end."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from edgekit.fold.graph import CACHED_ELEMENTS, describe, module_path, owner, sizes, stored
from edgekit.fold.rules import Blocked, LayerRule, centre, layer_of
from edgekit.fold.search import Edit, Search


class Weights:
    """The folded weights of a graph: ``put`` takes edits, ``exact`` gives float64 values, ``commit`` stores rounded ones."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self._graph = search.graph
        self._layers: dict[fx.Node, _Pending] = {}
        self._named: dict[str, _Pending] = {}

    def put(self, edits: list[Edit]) -> None:
        """Take all edits; raises Blocked and takes none if a layer's dtype cannot hold the result."""
        changed = [(edit.layer, self._pending(edit.layer).with_edit(edit)) for edit in edits]
        for layer, pending in changed:
            pending.check(layer)
        self._layers.update(changed)

    def _pending(self, node: fx.Node) -> _Pending:
        if node in self._layers:
            return self._layers[node]
        bias = node.args[2] if len(node.args) > 2 else None
        value = self.search.constants(bias) if isinstance(bias, fx.Node) else None
        if isinstance(bias, fx.Node) and value is None:
            raise Blocked("computed", node, f"the bias of {module_path(node)} is computed from the input")
        return _Pending(self.search, node, value)

    def name_parameters(self) -> None:
        """Give each changed layer a weight and a bias of its own in the graph; ``commit`` stores their values."""
        for node, pending in self._layers.items():
            weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
            assert isinstance(weight, fx.Node)
            pending.weight_name = self._own(node, weight, "weight")
            self._named[pending.weight_name] = pending
            if pending.bias is not None:
                pending.bias_name = self._own(node, bias if isinstance(bias, fx.Node) else None, "bias")
                self._named[pending.bias_name] = pending

    def _own(self, node: fx.Node, current: fx.Node | None, leaf: str) -> str:
        """The name of a parameter that ``node`` alone reads: the present one, or a new one if others read the present one."""
        index = 1 if leaf == "weight" else 2
        if (
            current is not None
            and current.op == "get_attr"
            and [user for _, user in self.search.storages.users(current)] == [node]
        ):
            return str(current.target)
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        holder = str(weight.target).rpartition(".")[0] if weight.op == "get_attr" else module_path(node)
        name = f"{holder}.{leaf}".lstrip(".")
        if not self._free(name):
            name = f"{node.name}_folded_{leaf}"
        example = stored(self._graph, str(weight.target)) if weight.op == "get_attr" else weight.meta["val"]
        parent, last = owner(self._graph, name)
        parent.register_parameter(last, nn.Parameter(torch.zeros((), dtype=example.dtype), requires_grad=False))
        with self._graph.graph.inserting_before(node):
            created = self._graph.graph.get_attr(name)
        arguments = [*node.args, *[None] * (index + 1 - len(node.args))]
        arguments[index] = created
        node.args = tuple(arguments)
        return name

    def _free(self, name: str) -> bool:
        try:
            holder, leaf = owner(self._graph, name)
        except AttributeError:
            return False
        return not hasattr(holder, leaf)

    def exact(self, name: str) -> Tensor | None:
        """The folded value of a parameter in float64; None for a parameter without changes."""
        pending = self._named.get(name)
        if pending is None:
            return None
        return pending.weight() if name == pending.weight_name else pending.bias

    def commit(self) -> None:
        """Round each layer's weights to its dtype and store them; one layer's float64 copy exists at a time."""
        for node, pending in self._layers.items():
            dtype = pending.dtype
            self._store(pending.weight_name, pending.weight(), dtype)
            if pending.bias is not None:
                self._store(pending.bias_name, pending.bias, dtype)
            for argument in node.args[1:3]:
                if isinstance(argument, fx.Node):
                    argument.meta["val"] = stored(self._graph, str(argument.target))
        self._layers.clear()
        self._named.clear()

    def _store(self, name: str, value: Tensor, dtype: torch.dtype) -> None:
        holder, leaf = owner(self._graph, name)
        setattr(holder, leaf, nn.Parameter(value.to(dtype), requires_grad=False))


class _Pending:
    """One layer's changes, held as vectors: W' = outputs * W * inputs + centre, and the new bias."""

    def __init__(self, search: Search, node: fx.Node, bias: Tensor | None) -> None:
        self._search, self._node = search, node
        layer = layer_of(node)
        assert layer is not None
        self.layer: LayerRule = layer
        self.outputs: Tensor | None = None
        self.inputs: Tensor | None = None
        self.centre: Tensor | None = None
        self.bias = bias
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        self._source = weight
        self.dtype: torch.dtype = weight.meta["val"].dtype
        self.shape = tuple(int(size) for size in weight.meta["val"].shape)
        self.weight_name = self.bias_name = ""

    def weight(self) -> Tensor:
        """The changed weight in float64."""
        weight: Tensor = self._search.constants(self._source)
        groups = self.layer.groups(self._node)
        if weight.numel() <= CACHED_ELEMENTS or self._source.op != "get_attr" or self.dtype == torch.float64:
            weight = weight.clone()  # large weights are fresh float64 copies already, so they are multiplied in place
        if self.outputs is not None:
            weight.mul_(self.layer.outputs(self.shape, self.outputs, groups))
        if self.inputs is not None:
            weight.mul_(self.layer.inputs(self.shape, self.inputs, groups))
        return weight if self.centre is None else weight + centre(self.shape, self.centre)

    def with_edit(self, edit: Edit) -> _Pending:
        """The changes with one more edit: s (W u + b) + t, W (s u + t) + b, or W u + b + (s u + t)."""
        pending = copy.copy(self)
        if edit.place == "outputs":
            pending.outputs, pending.centre = _product(edit.scale, self.outputs), _scaled(self.centre, edit.scale)
            pending.bias = _sum(edit.shift, _scaled(self.bias, edit.scale))
        elif edit.place == "inputs":
            pending.inputs, pending.centre = _product(edit.scale, self.inputs), _scaled(self.centre, edit.scale)
            if bool(edit.shift.any()):
                pending.bias = _sum(self.layer.bias(self.weight(), edit.shift, self.layer.groups(self._node)), self.bias)
        else:
            pending.centre, pending.bias = _sum(edit.scale, self.centre), _sum(edit.shift, self.bias)
        return pending

    def check(self, node: fx.Node) -> None:
        """Raise Blocked if the layer's dtype would overflow, or round the result more than the original weights."""
        limits = torch.finfo(self.dtype)
        weight = self.weight()
        largest = max(_largest(weight), _largest(self.bias))
        if not largest <= limits.max:
            raise Blocked("overflow", node, f"the folded {describe(node)} would need numbers beyond {self.dtype}")
        # wider dtypes underflow only below 1e-38, which matters to no channel
        if self.dtype == torch.float16 and self._lost(weight) > limits.eps:
            raise Blocked("underflow", node, f"the folded {describe(node)} would need numbers too small for {self.dtype}")

    def _lost(self, weight: Tensor) -> float:
        """The largest rounding error of an output channel's weights, relative to the channel's largest weight."""
        count = sizes(self._node)[self.layer.axis]
        channel = self.layer.outputs(self.shape, torch.arange(count, dtype=torch.float64), self.layer.groups(self._node))
        channel = channel.expand(self.shape).reshape(-1).long()
        values = torch.stack([weight.reshape(-1).abs(), (weight - weight.to(self.dtype)).reshape(-1).abs()])
        largest, lost = torch.zeros(2, count, dtype=torch.float64).scatter_reduce(1, channel.expand(2, -1), values, "amax")
        return float((lost / largest.clamp_min(torch.finfo(torch.float64).tiny)).max())


def _largest(value: Tensor | None) -> float:
    return float(value.abs().max()) if value is not None and value.numel() else 0.0


def _product(factor: Tensor, other: Tensor | None) -> Tensor:
    return factor if other is None else factor * other


def _scaled(value: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if value is None else value * factor


def _sum(added: Tensor, value: Tensor | None) -> Tensor | None:
    """``value`` plus ``added``; None if both are absent or zero."""
    if value is None:
        return added if bool(added.any()) else None
    return value + added
