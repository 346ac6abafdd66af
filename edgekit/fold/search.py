"""Search the layers that can take a normalisation: those before it, after it, or beside it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, fx

from edgekit.fold.affine import Affine
from edgekit.fold.graph import Constants, Storages, aten, describe, dtype_of, is_tensor, module_path, sizes, stored, values_read
from edgekit.fold.norms import Norm
from edgekit.fold.rules import Blocked, centred, layer_of, passage_of

FARTHEST, MOST_STEPS = 100, 2000
FARTHEST_MEAN = 4


class Edit(NamedTuple):
    """A change of one layer: ``scale`` and ``shift`` (float64 vectors) apply to its outputs, inputs or kernel centre."""

    layer: fx.Node
    place: Literal["outputs", "inputs", "centre"]
    scale: Tensor
    shift: Tensor


class Search:
    """The search over one graph, which is not changed; ``written``: nodes that share memory with a write in place.

    ``touched``: the nodes whose values change through the edits that the last search returned.
    """

    def __init__(self, graph: fx.GraphModule, written: frozenset[fx.Node]) -> None:
        self.graph, self._written = graph, written
        self.constants, self.storages = Constants(graph), Storages(graph)
        self.touched: list[fx.Node] = []
        self._steps = 0

    def before(self, norm: Norm) -> list[Edit]:
        """Edits that give the norm's input the value of its output; raises Blocked."""
        assert norm.affine is not None
        self._steps = 0
        self.touched = []
        return self._before(norm.source, norm.nodes[0], norm.affine, FARTHEST)

    def after(self, norm: Norm) -> list[Edit]:
        """Edits after the norm that compensate for its removal; raises Blocked.

        The graph is walked in the order of the data; each changed value is recorded with the map from its new to its old value.
        """
        assert norm.affine is not None
        self._check_written(norm.source)
        maps: dict[fx.Node, Affine] = {norm.last: norm.affine}
        waiting = set(norm.last.users)
        edits: list[Edit] = []
        node = norm.last
        while waiting:
            node = node.next
            waiting.discard(node)
            incoming = {value: maps[value] for value in values_read(node) if value in maps}
            if not incoming:
                continue
            if node.op == "output":
                raise Blocked("output", node, "the model's output would change")
            self._check_written(node)
            if layer_of(node) is not None:
                edits.append(self._into_inputs(node, incoming))
                continue
            passage = passage_of(node, self.constants)
            if passage is None:
                raise Blocked("between", node, f"{describe(node)} stands between")
            affine = passage.after(node, incoming, self.constants)
            if not affine.is_identity:
                maps[node] = affine
                waiting.update(node.users)
        self._check_offset(norm)  # last, because the other obstacles say more
        self.touched = list(maps)[1:]
        return edits

    def beside(self, norm: Norm) -> list[Edit]:
        """The edit of a convolution beside the norm, on the same input, whose output is added to the norm's; raises Blocked.

        conv(x) + (s x + t) is one convolution: s is added to the middle of the kernel, t to the bias.
        """
        assert norm.affine is not None
        self._check_offset(norm)
        self._check_written(norm.source)
        *sums, _ = sums_with(norm.last) or [norm.last]
        summands = self._summands(norm.last)
        self.touched = [*summands, *sums]
        for node in summands:
            if layer_of(node) is not None and node.args[0] is norm.source and centred(node) and len(node.users) == 1:
                self._check_weight(node)
                self._check_written(node)
                return [Edit(node, "centre", *self._vectors(node, node, norm.affine, "outputs"))]
        raise Blocked("between", norm.last, "no convolution of the same value is added to it")

    def _summands(self, node: fx.Node) -> list[fx.Node]:
        """The values added to ``node``, in one sum or in nested sums without other users."""
        inside = {node, *sums_with(node)}
        terms = [term for total in sums_with(node) for term in total.all_input_nodes if term not in inside]
        for term in terms:
            if _is_sum(term) and len(term.users) == 1:
                terms += term.all_input_nodes
        return terms

    def _before(self, node: fx.Node, user: fx.Node, affine: Affine, reach: int) -> list[Edit]:
        if affine.is_identity:
            return []
        self._steps += 1
        if not reach or self._steps > MOST_STEPS:  # every sum doubles the number of alternatives
            raise Blocked("too-far", node, "the layers that would have to share it are too many operators away")
        self._check_reach(node, user, affine)
        self.touched.append(node)
        if layer_of(node) is not None:
            return [self._into_outputs(node, affine)]
        passage = passage_of(node, self.constants)
        if passage is None:
            raise Blocked("between", node, f"no convolution or linear layer before it, but {describe(node)}")
        first: Blocked | None = None
        for shares in passage.before(node, affine, self.constants):
            try:
                return self._all(node, shares, reach - 1)
            except Blocked as blocked:
                first = first or blocked
        assert first is not None
        raise first

    def _all(self, node: fx.Node, shares: list[tuple[fx.Node, Affine]], reach: int) -> list[Edit]:
        if len({source for source, _ in shares}) != len(shares):
            raise Blocked("twice", node, f"{describe(node)} uses one value twice")
        return [edit for source, share in shares for edit in self._before(source, node, share, reach)]

    def _check_reach(self, node: fx.Node, user: fx.Node, affine: Affine) -> None:
        """Raise Blocked unless ``node`` is computed, ``user`` is its only reader, and its shape takes the map."""
        if node in self.constants:
            raise Blocked("constant", node, f"{describe(node)} is stored, not computed by a layer")
        if node.op != "call_function":
            raise Blocked("input", node, f"no convolution or linear layer before it, but {describe(node)}")
        self._check_written(node)
        others = sorted({describe(other) for other in node.users if other is not user and node in values_read(other)})
        if others:
            raise Blocked("other-users", node, f"the output of {module_path(node)} is also used by {', '.join(others)}")
        if any(sizes(node)[axis] == 1 for axis in affine.axes):
            raise Blocked("another-axis", node, f"{describe(node)} is the same for all channels")

    def _into_outputs(self, node: fx.Node, affine: Affine) -> Edit:
        """The edit for y = s (W u + b) + t; the map may vary along the layer's output channels only."""
        self._check_weight(node)
        return Edit(node, "outputs", *self._vectors(node, node, affine, "outputs"))

    def _into_inputs(self, node: fx.Node, incoming: dict[fx.Node, Affine]) -> Edit:
        """The edit for W (s u + t) + b; the map may vary along the input channels only, and t needs a layer without border."""
        source = node.args[0]
        if list(incoming) != [source]:
            raise Blocked("unknown", node, f"{describe(node)} uses the normalised value otherwise than as its input")
        assert isinstance(source, fx.Node)
        layer, affine = layer_of(node), incoming[source]
        assert layer is not None
        self._check_weight(node)
        border = layer.bordered(node) if affine.shifts else ""
        if border:
            raise Blocked("border", node, f"{describe(node)} {border}")
        return Edit(node, "inputs", *self._vectors(node, source, affine, "inputs"))

    def _vectors(self, node: fx.Node, value: fx.Node, affine: Affine, side: str) -> tuple[Tensor, Tensor]:
        layer = layer_of(node)
        assert layer is not None
        axis = layer.axis % len(sizes(value))
        wrong = [along for along in affine.axes if along != axis]
        if wrong:
            raise Blocked(
                "another-axis", node, f"it normalises axis {wrong[0]}, the {side} of {module_path(node)} lie along axis {axis}"
            )
        return affine.along(axis, sizes(value)[axis])

    def _check_weight(self, node: fx.Node) -> None:
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        if weight not in self.constants:
            raise Blocked("computed", node, f"the weight of {module_path(node)} is computed from the input")
        mine = self._between(weight) | {node}
        others = sorted(
            {
                describe(reader)
                for leaf in self._leaves(weight)
                for other, reader in self.storages.users(leaf)
                if reader not in mine and other in values_read(reader)
            }
        )
        if others:
            raise Blocked("shared-weight", node, f"the weight of {module_path(node)} is shared with {', '.join(others)}")

    def _leaves(self, node: fx.Node) -> list[fx.Node]:
        """The stored tensors of two or more axes from which a constant is computed; without any, all stored tensors."""
        leaves = [leaf for leaf in self._between(node) | {node} if leaf.op == "get_attr"]
        return [leaf for leaf in leaves if stored(self.graph, str(leaf.target)).dim() > 1] or leaves

    def _between(self, node: fx.Node) -> set[fx.Node]:
        """The nodes from which a constant is computed, and the constant itself."""
        visited, waiting = {node}, [node]
        while waiting:
            for source in waiting.pop().all_input_nodes:
                if source not in visited:
                    visited.add(source)
                    waiting.append(source)
        return visited

    def _check_written(self, node: fx.Node) -> None:
        if node in self._written:
            raise Blocked("in-place", node, f"{describe(node)} shares memory with a value that is written to in place")

    def _check_offset(self, norm: Norm) -> None:
        """Raise Blocked if the mean is far from zero: the next layer would subtract it after rounding, and lose digits."""
        if norm.offset > FARTHEST_MEAN and dtype_of(norm.last) != torch.float64:
            raise Blocked(
                "conditioning",
                norm.last,
                f"its mean lies {norm.offset:.3g} standard deviations from zero, which would cost {dtype_of(norm.last)} "
                "digits in the layer behind",
            )


def sums_with(node: fx.Node) -> list[fx.Node]:
    """The chain of sums that ``node`` goes into; each sum but the last has no other users."""
    sums: list[fx.Node] = []
    while len(node.users) == 1 and _is_sum(user := next(iter(node.users))):
        sums.append(user)
        node = user
    return sums


def _is_sum(node: fx.Node) -> bool:
    """Whether a node is the sum of two different values of one shape and dtype."""
    inputs = node.all_input_nodes
    return (
        node.target is aten.add.Tensor
        and not node.kwargs
        and len(inputs) == 2
        and all(is_tensor(value) and sizes(value) == sizes(node) and dtype_of(value) == dtype_of(node) for value in inputs)
    )
