"""Which layers of an int8 file stay in float, so that a budget holds: the search, and what each layer costs by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from edgekit.budgets import Budget
from edgekit.bundle.allowance import MARGIN_DB, WHOLE_BARS
from edgekit.bundle.folder import Bundle
from edgekit.errors import ModelError
from edgekit.onnx.calibration import Way
from edgekit.onnx.read import name_of
from edgekit.parity.keeping import fewest_kept
from edgekit.recipe import DataRecipe
from edgekit.reports.quantize import Sensitivity
from edgekit.variants.int8_network import FLOAT, Network
from edgekit.variants.pictures import LabelledPictures, held_pictures

ROOM = 0.5
"""The first layer is in int8 where it leaves so much of a budget of accuracy, or MARGIN_DB of one of SNR."""
JUDGED = 64
"""Calibration samples on which single layers are judged."""


class Search(NamedTuple):
    """The layers that went back to float, node -> reason, what each layer costs by itself, and what became of the first."""

    kept: Mapping[str, str]
    sensitivity: tuple[Sensitivity, ...] = ()
    notes: tuple[str, ...] = ()


class Judge(NamedTuple):
    """Whether a file of ``network`` holds a ``budget``; ``held``: the pictures that one of accuracy is judged on."""

    network: Network
    budget: Budget
    bundle: Bundle
    held: LabelledPictures | None

    @classmethod
    def of(cls, network: Network, budget: Budget, bundle: Bundle, data: DataRecipe | None) -> Judge:
        """The judge of a budget, with pictures where it is of accuracy; raises UsageError where none are known."""
        return cls(network, budget, bundle, held_pictures(bundle, data, budget) if budget.points is not None else None)

    def holds(self, content: bytes) -> bool:
        """Whether the file costs no more than the budget."""
        if self.held is None or self.budget.points is None:
            return self.network.snr_db(content) >= (self.budget.snr_db or 0.0)
        return self._lost(content) <= self.budget.points

    def holds_with_room(self, content: bytes) -> bool:
        """Whether the budget holds by a margin, as other pictures and other CPUs need it, and so does the bar of every file."""
        least = max(self.budget.snr_db or 0.0, WHOLE_BARS["int8"].snr_db + MARGIN_DB) + MARGIN_DB
        if self.network.snr_db(content) < least:
            return False
        return self.held is None or self.budget.points is None or self._lost(content) <= ROOM * self.budget.points

    def _lost(self, content: bytes) -> float:
        assert self.held is not None
        change = self.held.change(content)
        return 100 * (change.before - change.after)


def search(network: Network, way: Way, judge: Judge) -> Search:
    """Layers in float, as few as the budget allows; raises ModelError if it leaves none in 8 bits.

    The first layer, which stays in float by rule, is in 8 bits too where the budget then holds with room. Otherwise layers go
    back to float, the one that costs most first, until it holds. The last layer always stays: it is no faster in 8 bits.
    """
    first, budget = _first_in_int8(network, way, judge), judge.budget
    ranked = _sensitivity(network, way)
    reasons = {row.node: f"the budget {budget.text} needs it: by itself it costs {row.snr_db:.1f} dB" for row in ranked}

    def holds(kept: Sequence[str]) -> bool:
        if len(kept) == len(ranked):
            return True  # nothing is left in 8 bits
        return judge.holds(network.file(way, {node: reasons[node] for node in kept}).content)

    kept = () if first else fewest_kept([row.node for row in ranked], holds) or ()
    if len(kept) == len(ranked):
        raise ModelError(
            f"the budget {budget.text} leaves no layer of {judge.bundle.onnx_of()} in 8 bits",
            f"allow more, or {FLOAT}",
        )
    rows = tuple(msgspec.structs.replace(row, kept=row.node in kept) for row in ranked)
    return Search({node: reasons[node] for node in kept}, rows, tuple(_about_first(network, budget, taken=first)))


def _first_in_int8(network: Network, way: Way, judge: Judge) -> bool:
    """Whether the ``network`` has its first layers in 8 bits from here on: where that leaves room."""
    if network.first:
        network.take(network.first)
        if judge.holds_with_room(network.file(way, {}).content):
            return True
        network.take(())
    return False


def _about_first(network: Network, budget: Budget, *, taken: bool) -> Iterator[str]:
    for node in network.first:
        if taken:
            yield f"the first layer, {node}, is in int8: the budget {budget.text} holds with room"
        else:
            yield f"the first layer, {node}, stays in float: in int8 the budget {budget.text} would not hold with room"


def _sensitivity(network: Network, way: Way) -> tuple[Sensitivity, ...]:
    """Each layer in 8 bits by itself, the one that costs most first."""
    layers = network.everywhere.layers
    outputs = {name_of(node): node.output[0] for node in network.model.graph.node}
    rows = []
    for layer in layers:
        others = {other.name: "is judged by itself" for other in layers if other is not layer}
        snr_db = network.snr_db(network.file(way, others).content, JUDGED)
        rows.append(Sensitivity(layer.name, network.modules.get(outputs[layer.name], ""), snr_db))
    return tuple(sorted(rows, key=lambda row: row.snr_db))
