"""Which of a runtime's layers takes how long, told in the names of the ONNX file's nodes.

A runtime renames and fuses what it is given. Each of its layers gives hints (names of nodes, or of what they put out); the graph
tells the rest: a kernel called after the last node of a fusion has swallowed what leads up to it, and a sum or an activation that
is no kernel's went into the one before it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence, Set

from edgekit.backends.contract import ByLayer, LayerTime, Opened
from edgekit.onnx.read import Node
from edgekit.reports.bench import LatencyReport
from edgekit.reports.layers import LayerLatency, LayersReport
from edgekit.setups import Setup
from edgekit.tensors import sample_feed

FEWEST_CALLS, MOST_CALLS = 5, 100
FUSED = "Fused"
LONGEST_FUSION = 3
SWALLOWED = ("Add", "Sum", "Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid", "Gelu")


def layer_reports(
    opened: Sequence[Opened], rows: Sequence[LatencyReport], nodes: Mapping[str, Sequence[Node]], seconds: float
) -> tuple[LayersReport, ...]:
    """For every batch, of the sessions that can tell; as many calls as take about ``seconds``.

    ``nodes`` are those of each session's file, by the session's name.
    """
    reports = []
    for ready in opened:
        session = ready.session
        for row in rows:
            if not isinstance(session, ByLayer) or row.backend != ready.name or row.boundary != "device":
                continue
            count = max(FEWEST_CALLS, min(MOST_CALLS, int(seconds * 1e3 / max(row.median_ms, 1e-3))))
            times = session.layer_times(sample_feed(ready.session.inputs, row.batch), count)
            reports.append(layers_report(row.backend, ready.setup, row.batch, times, nodes[ready.name]))
    return tuple(reports)


def layers_report(backend: str, setup: Setup, batch: int, times: Sequence[LayerTime], nodes: Sequence[Node]) -> LayersReport:
    """Medians over the calls; ``total_ms`` is the median of the calls' sums."""
    made_of = nodes_of(times, nodes)
    medians = [statistics.median(layer.ms) if layer.ms else 0.0 for layer in times]
    sums = [sum(call) for call in zip(*(layer.ms for layer in times), strict=True)]
    layers = tuple(
        LayerLatency(layer.name, layer.operator, made_of[index], medians[index], medians[index] / (sum(medians) or 1.0))
        for index, layer in enumerate(times)
    )
    return LayersReport(backend, batch, len(sums), statistics.median(sums) if sums else 0.0, layers, setup)


def nodes_of(layers: Sequence[LayerTime], nodes: Sequence[Node]) -> list[tuple[str, ...]]:
    """The ONNX nodes of each layer, in the file's order; empty for a layer that the runtime has added.

    A node that the runtime says it runs as several kernels is in each of them; one that is only inferred is in one layer.
    """
    by_name = {node.name: node for node in nodes if node.name}
    place = {node.name: index for index, node in enumerate(nodes)}
    made_by = {output: node for node in nodes for output in node.outputs if output}  # an optional one left out is called ""
    users: dict[str, list[Node]] = {}
    for node in nodes:
        for name in filter(None, dict.fromkeys(node.inputs)):
            users.setdefault(name, []).append(node)
    made_of: list[list[Node]] = [[] for _ in layers]
    claimed: set[str] = set()

    def claim(index: int, claimed_nodes: Sequence[Node]) -> None:
        claimed.update(node.name for node in claimed_nodes)
        made_of[index] = sorted(dict.fromkeys([*made_of[index], *claimed_nodes]), key=lambda node: place[node.name])

    def hinted(hint: str) -> Node | None:
        return by_name.get(hint) or made_by.get(hint)

    for index, layer in enumerate(layers):
        claim(index, [node for node in map(hinted, layer.hints) if node is not None])
    for index, layer in enumerate(layers):
        claim(index, _led_up(layer, made_of[index], made_by, claimed))
    # backwards: of two convolutions that are added it is the later one that adds
    for index in reversed(range(len(layers))):
        claim(index, _behind(made_of[index], users, claimed))
    return [tuple(node.name for node in own) for own in made_of]


def _led_up(layer: LayerTime, own: Sequence[Node], made_by: Mapping[str, Node], claimed: Set[str]) -> list[Node]:
    """A Conv that is called after the activation behind it: what leads from a node of that operator to the first of its own."""
    operator = layer.operator.removeprefix(FUSED)
    if not own or any(node.operator == operator for node in own):
        return []

    def way(node: Node, steps: int) -> list[Node]:
        before = [made_by[name] for name in node.inputs if name in made_by and made_by[name].name not in claimed]
        for node_before in before if steps else ():
            further = [] if node_before.operator == operator else way(node_before, steps - 1)
            if node_before.operator == operator or further:
                return [node_before, *further]
        return []

    return way(own[0], LONGEST_FUSION)


def _behind(own: Sequence[Node], users: Mapping[str, Sequence[Node]], claimed: Set[str]) -> list[Node]:
    """Sums and activations that stand alone behind a layer and are nobody else's: they went into what feeds them."""
    way: list[Node] = []
    node = own[-1] if own else None
    while node is not None:
        behind = [user for name in node.outputs for user in users.get(name, ())]
        alone = len(behind) == 1 and behind[0].name not in claimed and behind[0].operator in SWALLOWED
        node = behind[0] if alone and behind[0] not in way else None  # no file is sure to be free of rings
        way += [node] if node is not None else []
    return way
