"""Find the operator that computes something else in an ONNX file than in the PyTorch graph that the file was written from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from edgekit.errors import ModelError
from edgekit.graphs.exact import Exact, in_float64
from edgekit.graphs.trace import tensors_of_feed
from edgekit.onnx.run import open_every_value
from edgekit.onnx.widen import inlined
from edgekit.tensors import Array, Feed, normalised_error

_FAR = 1e-4  # an error of scale that no rounding in float32 explains in one operator
_SAMPLES = 2
_NAME = "the exported file"


class Culprit(NamedTuple):
    """An ONNX node, PyTorch's name of its operator, and the path of the module that called it (empty for the model itself)."""

    operator: str
    node: str
    torch_operator: str
    module: str

    def __str__(self) -> str:
        place = f" in {self.module}" if self.module else ""
        return f"{self.operator} {self.node} ({self.torch_operator}{place})"


def differing_operator(content: bytes, graph: fx.GraphModule, feed: Feed, noise: float) -> Culprit | None:
    """The first operator of the file whose result departs from the graph's in float64; None if no named value does.

    The exporter names most values after the graph's nodes. ``noise`` is the original's own error of scale. Nothing is found in a
    file that ONNX Runtime does not run with all its values: the fault that asked is to be told, not this one.
    """
    few = {name: array[:_SAMPLES] for name, array in feed.items()}
    exact = _Kept(graph)
    with torch.inference_mode():
        exact.run(*map(in_float64, tensors_of_feed(few)))
    model = onnx.load_from_string(content)
    nodes = exact.nodes | dict(zip([value.name for value in model.graph.output], exact.returned, strict=False))
    try:
        values = {name: array for name, array in open_every_value(inlined(model), Path(_NAME))(few).items() if array.size}
    except ModelError:
        return None
    for node in model.graph.node:
        for name in node.output:
            at = nodes.get(name)
            if at in exact.values and name in values and _departs(values[name], exact.values[at], max(_FAR, 8 * noise)):
                return Culprit(node.op_type, node.name or name, str(at.target), _module(at))
    return None


def module_paths(graph: fx.GraphModule, outputs: Sequence[str]) -> dict[str, str]:
    """Value of the ONNX file -> path of the module that computes it.

    The exporter names values after the graph's nodes, and the last ones after the file's ``outputs``.
    """
    returned: list[fx.Node] = []
    for node in graph.graph.nodes:
        if node.op == "output":
            fx.node.map_arg(node.args, returned.append)
    named = [(node.name, node) for node in graph.graph.nodes if node.op == "call_function"]
    return {name: _module(node) for name, node in (*named, *zip(outputs, returned, strict=False)) if _module(node)}


def _departs(value: Array, reference: Array, limit: float) -> bool:
    return value.shape != reference.shape or not normalised_error(value, reference) <= limit


def _module(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return str(path).removeprefix("L['self'].")


class _Kept(Exact):
    """Runs a graph in float64 and keeps every tensor; ``nodes`` are known by name, ``returned`` are those of the outputs."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.nodes: dict[str, fx.Node] = {}
        self.values: dict[fx.Node, Array] = {}
        self.returned: list[fx.Node] = []

    def run_node(self, node: fx.Node) -> Any:
        """The node's value, kept by the node's name."""
        value = super().run_node(node)
        if node.op == "call_function" and isinstance(value, Tensor):
            self.nodes[node.name], self.values[node] = node, np.asarray(value.double().numpy()).copy()
        elif node.op == "output":
            fx.node.map_arg(node.args, self.returned.append)
        return value
