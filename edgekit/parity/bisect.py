"""Find the first node of a file that departs: from what was exported, or on one runtime from what the file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgekit.bundle.evidence import Fingerprint
from edgekit.onnx.bodies import Node, bodies
from edgekit.parity.fingerprints import distance, statistics
from edgekit.tensors import Array, normalised_error

JUMP = 8.0
"""A node is the culprit where its error is so many times that of its inputs."""
LEAST = 3e-6
"""Errors of scale below this are rounding, whatever their inputs have."""


class Departure(NamedTuple):
    """A node, the value that departs, its error of scale, and the largest error among the values that the node reads."""

    node: Node
    value: str
    error: float
    before: float


def nodes_of(content: bytes) -> list[Node]:
    """The nodes of the main graph in the file's order, which is an order of computation."""
    graph, _ = bodies(content)
    return list(dict.fromkeys(graph.producers.values()))


MOVERS = frozenset(
    ("", operator)
    for operator in (
        "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "SpaceToDepth",
        "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    )
)  # fmt: skip
"""Operators that move numbers and compute none: their error is that of what they read, seen in other channels."""


def first_departure(nodes: Sequence[Node], errors: Mapping[str, float]) -> Departure | None:
    """The first node whose error jumps above that of its inputs, or the one that jumps most; None if no error matters.

    ``errors``: value -> error of scale; a value that is not known takes the largest error of what its node reads. A node that
    only moves numbers stands for the one before it where the error begins, unless its own error is out of all proportion.
    """
    known: dict[str, float] = {}
    departures: dict[str, Departure] = {}
    largest: Departure | None = None
    for node in nodes:
        before = max((known.get(name, 0.0) for name in node.inputs), default=0.0)
        for value in node.outputs:
            error = known[value] = errors.get(value, before)
            departure = departures[value] = Departure(node, value, error, before)
            if error > LEAST and error > JUMP * before:
                return _computing(departure, departures)
            if error > LEAST and (largest is None or _jump(departure) > _jump(largest)):
                largest = departure
    return largest and _computing(largest, departures)


def _jump(departure: Departure) -> float:
    return departure.error / (departure.before or LEAST)


def _computing(departure: Departure, departures: Mapping[str, Departure]) -> Departure:
    """Where a node departs that only moves numbers: the departure before it behind which the error is there."""
    moved = departure.node.operator in MOVERS and departure.error <= JUMP**2 * departure.before
    while moved:
        read = [departures[name] for name in departure.node.inputs if name in departures]
        if not read:
            break
        departure = max(read, key=lambda each: each.error)
        moved = departure.node.operator in MOVERS or departure.error <= JUMP * departure.before
    return departure


UNITS = 16
"""Times the effect of one unit in the last place of what it reads that a node may be off by itself."""


def first_alone(nodes: Sequence[Node], local: Mapping[str, float], moved: Mapping[str, float]) -> Departure | None:
    """The first node that is wrong although it reads exact values; None if each is right by itself.

    ``local``: value -> error of scale of its node alone. ``moved``: the same of the plain reading, where what the node reads is
    moved by one unit in the last place: ``UNITS`` times that is its floor, and at least ``LEAST``.
    """
    for node in nodes:
        for value in node.outputs:
            error = local.get(value, 0.0)
            if error > max(LEAST, UNITS * moved.get(value, 0.0)):
                return Departure(node, value, error, 0.0)
    return None


def from_fingerprints(values: Mapping[str, Array], recorded: Mapping[str, Fingerprint]) -> dict[str, float]:
    """The distance of each value from its recorded fingerprint, of scale."""
    return {
        name: distance(statistics(values[name], fingerprint.statistics.shape[1]), fingerprint.statistics)
        for name, fingerprint in recorded.items()
        if name in values and values[name].size
    }


def from_values(values: Mapping[str, Array], plain: Mapping[str, Array]) -> dict[str, float]:
    """The error of scale of each value against the plain reading of the file; of quantised values beyond one step."""
    errors = {}
    for name, reference in plain.items():
        if name not in values or not reference.size or reference.dtype == bool:
            continue
        if values[name].shape != reference.shape:
            errors[name] = np.inf
        elif np.issubdtype(reference.dtype, np.floating):
            errors[name] = normalised_error(values[name], reference)
        elif reference.dtype.itemsize == 1:
            steps = np.abs(values[name].astype(np.float64) - reference).max()
            errors[name] = max(float(steps) - 1, 0.0) / (float(np.abs(reference.astype(np.float64)).max()) or 1.0)
    return errors


def first_by_halving(nodes: Sequence[Node], error_of: Callable[[str], float | None]) -> dict[str, float]:
    """Errors of a few values, found by halving, for a runtime that fuses less where all values are shown.

    ``error_of`` gives the error of one value, or None where the runtime cannot show it. Errors are taken to stay once they are
    there.
    """
    values = [value for node in nodes for value in node.outputs if value]
    errors: dict[str, float] = {}
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        error, shown = None, middle
        for shown in (*range(middle, high), *range(middle - 1, low - 1, -1)):  # the nearest that the runtime shows
            error = error_of(values[shown])
            if error is not None:
                break
        if error is None:
            break
        errors[values[shown]] = error
        if error > LEAST:
            high = shown
        else:
            low = shown + 1
    return errors
