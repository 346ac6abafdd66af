"""What layers compute: the multiply-accumulates and the modules of their nodes, beside what the machine reaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from edgekit.reports.layers import LayerLatency, LayersReport, Peak


class Known(NamedTuple):
    """Of a file's nodes by their names: multiply-accumulates of a sample (None: not known), and paths of PyTorch modules."""

    macs: Mapping[str, int | None]
    modules: Mapping[str, str]


def with_work(report: LayersReport, known: Known, peaks: Sequence[Peak]) -> LayersReport:
    """The report whose layers have their modules and their arithmetic, with what the machine reaches."""
    runs = Counter(node for layer in report.layers for node in layer.nodes)
    layers = tuple(_with_work(layer, report.batch, known, runs) for layer in report.layers)
    return msgspec.structs.replace(report, layers=layers, peaks=tuple(peaks))


def _with_work(layer: LayerLatency, batch: int, known: Known, runs: Mapping[str, int]) -> LayerLatency:
    """A node that the runtime runs as several layers does its arithmetic in some of them, and nobody says in which."""
    counts = [None if runs[node] > 1 and known.macs.get(node) else known.macs.get(node) for node in layer.nodes]
    macs = None if None in counts or not counts else sum(count or 0 for count in counts) * batch
    modules = dict.fromkeys(filter(None, (known.modules.get(node, "") for node in layer.nodes)))
    return msgspec.structs.replace(layer, macs=macs, modules=tuple(modules))
