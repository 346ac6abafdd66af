"""Fold batch norm, and arithmetic equivalent to batch norm, into the layers around it.

In inference mode batch norm is an affine map per channel,

    y = s * x + t,      s = gamma / sqrt(var + eps),      t = beta - mean * s

and so are the subtract, multiply, divide and add of a batch norm written out by hand. After a layer x = W u + b the map goes
into that layer, as s W and s b + t; before a layer W y + b, as W s and W t + b. Between norm and layer there may be any operators
that let an affine map pass. The graph comes from ``torch.export``, so "before" and "after" follow the flow of data.

    graph.py     reading the graph                      affine.py    the algebra of maps
    norms.py     which nodes are normalisations         rules.py     what each operator does to a map: add rules here
    search.py    which layers take a normalisation      weights.py   the layers' new weights, in float64, rounded once

``proof.py`` then runs the original and the folded graph in float64 and compares them.
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
    """Trace ``model`` and fold every normalisation that can be folded; ``model`` is untouched.

    ``traced`` is the model's graph, fresh from ``trace``, if the caller has traced the model already; this graph is rewritten.
    With ``fold_bn=False`` the graph is only traced, and every normalisation is reported as kept. Raises ModelError if the model
    cannot be traced, or if the folded graph and the traced one differ in float64 on a random batch.
    """
    graph = trace(model, inputs) if traced is None else traced
    if not fold_bn:
        without_bystanders(graph)
        without_repeats(graph)
        own_weights(graph, model)
        obstacle = Obstacle("itself", "not-asked", "", "folding was not asked for")
        return graph, FoldReport((), tuple(_kept_norm(norm, [obstacle]) for norm in find_norms(graph)))
    report = _fold(model, graph, tensors_of(inputs, TRACED_BATCH + 1))  # not the batch size that was traced
    _clean(graph)
    own_weights(graph, model)
    return graph, report


def _fold(model: nn.Module, graph: fx.GraphModule, example: tuple[torch.Tensor, ...]) -> FoldReport:
    """Rewrite ``graph``, and prove that its values are unchanged."""
    writes = writes_in_place(graph)
    unchanged = not writes and all(norm.affine is None for norm in find_norms(graph))
    proof = None if unchanged else Proof(model, graph, example)
    without_bystanders(graph)
    written = without_writes(graph)
    without_zeros(graph)
    without_repeats(graph)
    linears = Linears(graph)
    weights, folded, refused = fold_graph(graph, written, proof)
    linears.undo()
    error = proof.check(graph, weights.exact) if proof is not None and (folded or writes) else None
    weights.commit()
    return FoldReport(folded, refused, error if folded else None)


def fold_graph(
    graph: fx.GraphModule, written: frozenset[fx.Node], proof: Proof | None = None
) -> tuple[Weights, tuple[Fold, ...], tuple[Kept, ...]]:
    """Remove the norms that fold from the graph; returns the new weights, the folded norms and the kept norms with reasons.

    Rounds repeat until one folds nothing: a folded norm may clear the way for another.
    """
    weights = Weights(Search(graph, written))
    attempt = partial(_attempt, weights, proof)
    order = [norm.nodes[0] for norm in find_norms(graph)]
    folded: dict[fx.Node, Fold] = {}
    refused: dict[fx.Node, Kept] = {}
    while True:
        norms = [norm for norm in find_norms(graph) if norm.nodes[0] not in folded]
        round_folded = len(folded)
        for norm in norms:  # into layers before the norm, in the order of the data
            attempt(norm, "before", folded, refused)
        for norm in reversed([norm for norm in norms if norm.nodes[0] not in folded]):  # into layers after, the last norm first
            attempt(norm, "after", folded, refused)
        for norm in [norm for norm in norms if norm.nodes[0] not in folded]:
            attempt(norm, "beside", folded, refused)
        if len(folded) == round_folded:
            break
    weights.name_parameters()
    graph.graph.lint()  # type: ignore[no-untyped-call]
    graph.recompile()
    position = {node: index for index, node in enumerate(order)}
    first = {node: position.get(node, len(order)) for node in (*folded, *refused)}
    return (
        weights,
        tuple(folded[node] for node in sorted(folded, key=first.__getitem__)),
        tuple(refused[node] for node in sorted(set(refused) - set(folded), key=first.__getitem__)),
    )


def _attempt(
    weights: Weights, proof: Proof | None, norm: Norm, side: Side, folded: dict[fx.Node, Fold], refused: dict[fx.Node, Kept]
) -> None:
    """Fold ``norm`` to one side, or record the obstacle."""
    node = norm.nodes[0]
    if norm.obstacle is not None:
        refused[node] = _kept_norm(norm, [norm.obstacle])
        return
    search = weights.search
    try:
        edits = getattr(search, side)(norm)
        weights.put(edits)
    except Blocked as blocked:
        if side == "beside":  # rarely possible, so its failure explains nothing to a reader
            return
        obstacle = Obstacle(side, blocked.code, str(blocked.at.name), str(blocked))
        before = [earlier for earlier in refused[node].obstacles if earlier.side != side] if node in refused else []
        refused[node] = _kept_norm(norm, [*before, obstacle])
        return
    folded[node] = Fold(norm.path, norm.kind, _layer_paths(edits), side, norm.onnx_nodes)
    places, removed = _take_out(search.graph, norm, side)
    if proof is not None:
        layers = [(edit.layer, edit.layer) for edit in edits] if side == "after" else []
        proof.unchanged([*places, *layers], [*search.touched, *removed])


def _take_out(graph: fx.GraphModule, norm: Norm, side: Side) -> tuple[list[tuple[fx.Node, fx.Node]], list[fx.Node]]:
    """Replace ``norm`` by its input, or drop it from its sum if a convolution beside it took it.

    Returns the pairs of nodes (before, now) with equal values, and the removed nodes.
    """
    removed = [*norm.nodes]
    places: list[tuple[fx.Node, fx.Node]] = []
    if side == "beside":
        (total,) = norm.last.users
        (other,) = [term for term in total.all_input_nodes if term is not norm.last]
        top = sums_with(norm.last)[-1]
        places = [(top, other if top is total else top)]
        total.replace_all_uses_with(other)
        removed.append(total)
    else:
        norm.last.replace_all_uses_with(norm.source)
        places = [(norm.last, norm.source)] if side == "before" else []
    for node in reversed(removed):
        graph.graph.erase_node(node)
    return places, removed


def _layer_paths(edits: list[Edit]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(module_path(edit.layer) for edit in edits))


def _kept_norm(norm: Norm, obstacles: Sequence[Obstacle]) -> Kept:
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
