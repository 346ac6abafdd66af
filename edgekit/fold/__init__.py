"""Folding batch norm, and what is one in disguise, into the layers around it.

In inference mode batch norm is an affine map per channel,

    y = s * x + t,      s = gamma / sqrt(var + eps),      t = beta - mean * s

and so are its pieces when somebody wrote it out as subtract, multiply, divide and add. Behind a layer x = W u + b it vanishes
into that layer, s W and s b + t; in front of one, W y + b, into W s and W t + b. On the way there it passes whatever an affine
map passes. The graph comes from ``torch.export``, so what is "before" is told by the flow of data.

    graph.py     reading the graph                      affine.py    the algebra of maps
    norms.py     which nodes are normalisations         rules.py     how a map meets each operator: add yours here
    search.py    which layers take a normalisation      weights.py   their new weights, in float64, rounded once

Both graphs are then run in float64 (``proof.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import fx, nn

from edgekit.fold.graph import (
    Linears,
    module_path,
    stored,
    without_bystanders,
    without_repeats,
    without_writes,
    without_zeros,
    writes_in_place,
)
from edgekit.fold.norms import Norm, find_norms, stored_names
from edgekit.fold.proof import FLOAT64_LIMIT, Proof
from edgekit.fold.rules import Blocked
from edgekit.fold.search import Edit, Search, sums_with
from edgekit.fold.weights import Weights
from edgekit.graphs.trace import TRACED_BATCH, own_weights, tensors_of, trace
from edgekit.reports.export import Fold, FoldReport, Kept, Obstacle
from edgekit.tensors import TensorSpec

__all__ = ["FLOAT64_LIMIT", "fold"]

Side = Literal["before", "after", "beside"]


def fold(
    model: nn.Module, inputs: Sequence[TensorSpec], *, fold_bn: bool = True, traced: fx.GraphModule | None = None
) -> tuple[fx.GraphModule, FoldReport]:
    """Trace ``model`` and fold every normalisation that can be; ``model`` is untouched.

    ``traced`` is its graph where there is one already, fresh from ``trace``; it is rewritten.
    With ``fold_bn=False`` the graph is only traced and every normalisation reported as kept. Raises ModelError when the
    model cannot be traced, or when the folded graph does not compute what the traced one did (float64, one random batch).
    """
    graph = trace(model, inputs) if traced is None else traced
    if not fold_bn:
        without_bystanders(graph)
        without_repeats(graph)
        own_weights(graph, model)
        asked = Obstacle("itself", "not-asked", "", "folding was not asked for")
        return graph, FoldReport((), tuple(_kept(norm, [asked]) for norm in find_norms(graph)))
    report = _fold(model, graph, tensors_of(inputs, TRACED_BATCH + 1))  # another batch than was traced
    _clean(graph)
    own_weights(graph, model)
    return graph, report


def _fold(model: nn.Module, graph: fx.GraphModule, example: tuple[torch.Tensor, ...]) -> FoldReport:
    """Rewrite ``graph``, and prove what was rewritten."""
    writes = writes_in_place(graph)
    nothing = not writes and all(norm.affine is None for norm in find_norms(graph))
    proof = None if nothing else Proof(model, graph, example)
    without_bystanders(graph)
    written = without_writes(graph)
    without_zeros(graph)
    without_repeats(graph)
    linears = Linears(graph)
    weights, folded, kept = fold_graph(graph, written, proof)
    linears.undo()
    error = proof.check(graph, weights.exact) if proof is not None and (folded or writes) else None
    weights.commit()
    return FoldReport(folded, kept, error if folded else None)


def fold_graph(
    graph: fx.GraphModule, written: frozenset[fx.Node], proof: Proof | None = None
) -> tuple[Weights, tuple[Fold, ...], tuple[Kept, ...]]:
    """Take out of the graph what folds; the weights that make up for it, what was folded where, what was kept and why.

    Rounds go on until one folds nothing more: what one normalisation leaves may be what the next one needs.
    """
    weights = Weights(Search(graph, written))
    attempt = partial(_attempt, weights, proof)
    order = [norm.nodes[0] for norm in find_norms(graph)]
    folded: dict[fx.Node, Fold] = {}
    kept: dict[fx.Node, Kept] = {}
    while True:
        norms = [norm for norm in find_norms(graph) if norm.nodes[0] not in folded]
        round_folded = len(folded)
        for norm in norms:  # into what comes before, in the order of the data
            attempt(norm, "before", folded, kept)
        for norm in reversed([norm for norm in norms if norm.nodes[0] not in folded]):  # what is behind must be done first
            attempt(norm, "after", folded, kept)
        for norm in [norm for norm in norms if norm.nodes[0] not in folded]:
            attempt(norm, "beside", folded, kept)
        if len(folded) == round_folded:
            break
    weights.name_parameters()
    graph.graph.lint()  # type: ignore[no-untyped-call]
    graph.recompile()
    position = {node: index for index, node in enumerate(order)}
    first = {node: position.get(node, len(order)) for node in (*folded, *kept)}
    return (
        weights,
        tuple(folded[node] for node in sorted(folded, key=first.__getitem__)),
        tuple(kept[node] for node in sorted(set(kept) - set(folded), key=first.__getitem__)),
    )


def _attempt(
    weights: Weights, proof: Proof | None, norm: Norm, side: Side, folded: dict[fx.Node, Fold], kept: dict[fx.Node, Kept]
) -> None:
    """Fold ``norm`` to one side, or note what stands against it."""
    node = norm.nodes[0]
    if norm.obstacle is not None:
        kept[node] = _kept(norm, [norm.obstacle])
        return
    search = weights.search
    try:
        edits = getattr(search, side)(norm)
        weights.put(edits)
    except Blocked as blocked:
        if side == "beside":  # so rarely possible that its absence explains nothing
            return
        obstacle = Obstacle(side, blocked.code, str(blocked.at.name), str(blocked))
        before = [earlier for earlier in kept[node].obstacles if earlier.side != side] if node in kept else []
        kept[node] = _kept(norm, [*before, obstacle])
        return
    folded[node] = Fold(norm.path, norm.kind, _layer_paths(edits), side, norm.onnx_nodes)
    places, gone = _take_out(search.graph, norm, side)
    if proof is not None:
        layers = [(edit.layer, edit.layer) for edit in edits] if side == "after" else []
        proof.unchanged([*places, *layers], [*search.touched, *gone])


def _take_out(graph: fx.GraphModule, norm: Norm, side: Side) -> tuple[list[tuple[fx.Node, fx.Node]], list[fx.Node]]:
    """Its input takes its place; where a convolution beside it does its work, it leaves the sum altogether.

    Gives where (before, now) the value must be the same, and the nodes that are gone.
    """
    gone = [*norm.nodes]
    places: list[tuple[fx.Node, fx.Node]] = []
    if side == "beside":
        (total,) = norm.last.users
        (other,) = [term for term in total.all_input_nodes if term is not norm.last]
        top = sums_with(norm.last)[-1]
        places = [(top, other if top is total else top)]
        total.replace_all_uses_with(other)
        gone.append(total)
    else:
        norm.last.replace_all_uses_with(norm.source)
        places = [(norm.last, norm.source)] if side == "before" else []
    for node in reversed(gone):
        graph.graph.erase_node(node)
    return places, gone


def _layer_paths(edits: list[Edit]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(module_path(edit.layer) for edit in edits))


def _kept(norm: Norm, obstacles: Sequence[Obstacle]) -> Kept:
    sides = {"itself": "", "before": "", "after": "behind it: "}
    reason = "; ".join(sides[obstacle.side] + obstacle.why for obstacle in obstacles)
    return Kept(norm.path, norm.kind, reason, norm.onnx_nodes, tuple(obstacles))


def _clean(graph: fx.GraphModule) -> None:
    graph.graph.eliminate_dead_code()
    used = set(stored_names(graph))
    for name, _ in [*graph.named_parameters(), *graph.named_buffers()]:
        if name not in used:
            path, _, leaf = name.rpartition(".")
            delattr(graph.get_submodule(path), leaf)
    graph.graph.lint()  # type: ignore[no-untyped-call]
    graph.recompile()
    assert all(stored(graph, name) is not None for name in used)
