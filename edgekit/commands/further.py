"""What ``edgekit bench`` measures beside latencies, where it is asked for: layers, load, and the start in fresh processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edgekit.backends import row_of, table
from edgekit.backends.choose import open_named
from edgekit.backends.contract import Opened
from edgekit.budgets import Budget
from edgekit.commands.ways import Way
from edgekit.errors import UsageError
from edgekit.latency.load import Load, Served, served, under_load
from edgekit.latency.loop import Timing
from edgekit.latency.start import start_rows
from edgekit.latency.turns import Thing
from edgekit.latency.work import Known, with_work
from edgekit.machine.packages import needs_onnx
from edgekit.progress import SILENT, Progress
from edgekit.reports.bench import LatencyReport
from edgekit.reports.layers import LayersReport, Peak
from edgekit.reports.load import LoadReport
from edgekit.reports.percentile import Bound
from edgekit.reports.start import StartRow
from edgekit.setups import taking
from edgekit.tensors import sample_feed

if TYPE_CHECKING:
    from edgekit.onnx.read import Node


class Further(NamedTuple):
    """What else is measured: the time of each layer, callers and requests at once, the start of each setup.

    ``budget`` bounds the end-to-end calls of the first batch size; what bounds requests under load is the load's own.
    """

    layers: bool = False
    load: Load | None = None
    start: bool = False
    budget: Budget | None = None

    @property
    def bound(self) -> Bound | None:
        """The budget as the report has it."""
        return None if self.budget is None else msgspec.convert({"key": self.budget.key, "ms": self.budget.limit}, Bound)

    def check(self, ways: Sequence[Way]) -> None:
        """Raise UsageError, or MissingError, for layers that nothing here can time."""
        if not self.layers:
            return
        needs_onnx()
        able = [name for name, row in table().items() if row.by_layer]
        named = list(dict.fromkeys(way.setup.backend for way in ways))
        if not set(able) & set(named):
            raise UsageError(f"--layers: {', '.join(named)} cannot time layers", f"add --backend {' or '.join(able)}")


def open_way(way: Way, timing: Timing, progress: Progress = SILENT) -> Opened:
    """Open a way's session for every batch of the timing."""
    return open_named(way.name, taking(way.setup, timing.batches), way.bundle, progress)


def layers_of(
    ways: Sequence[Way], ready: Sequence[Opened], rows: Sequence[LatencyReport], timing: Timing
) -> tuple[LayersReport, ...]:
    """The layers of every session that can tell them, with what they compute and what the machine reaches."""
    from edgekit.latency.layers import layer_reports

    files = {way.name: _read(way) for way in ways}
    reports = layer_reports(ready, rows, {name: nodes for name, (nodes, _) in files.items()}, timing.seconds)
    peaks = {way.name: _peaks(way) for way in ways if row_of(way.setup.backend).by_layer}
    return tuple(with_work(report, files[report.backend][1], peaks[report.backend]) for report in reports)


def _read(way: Way) -> tuple[tuple[Node, ...], Known]:
    from edgekit.onnx.read import read_nodes
    from edgekit.onnx.table import node_macs

    evidence = way.bundle.evidence()
    modules = {name: node.module for name, node in evidence.nodes.items()} if evidence else {}
    file = way.bundle.variant(way.setup.variant).file
    nodes, macs = way.bundle.reading(lambda place: (read_nodes(place / file), node_macs(place / file)))
    by_node = {node.name: next(filter(None, (modules.get(value, "") for value in node.outputs)), "") for node in nodes}
    return nodes, Known(macs, by_node)


def _peaks(way: Way) -> tuple[Peak, ...]:
    """In the file's precision; beside int8 in float32 too, in which layers may have stayed."""
    from edgekit.latency.peak import peak_of

    own = way.bundle.variant(way.setup.variant).precision
    precisions = dict.fromkeys((own, "float32") if own == "int8" else (own,))
    on_gpu = row_of(way.setup.backend).on_gpu
    peaks = (peak_of(way.setup, precision, on_gpu) for precision in precisions)
    return tuple(peak for peak in peaks if peak is not None)


def load_of(ways: Sequence[Way], ready: Sequence[Opened], load: Load, timing: Timing, progress: Progress) -> LoadReport:
    """Every session under load at the first batch size; where each caller has a session of its own, the others are opened too."""
    callers = max(load.callers)
    with ExitStack() as stack:
        things = []
        for way, first in zip(ways, ready, strict=True):
            sessions = [first]
            while load.sessions == "own" and len(sessions) < callers:
                sessions.append(stack.enter_context(open_way(way, timing, progress)))
            things.append(_served(sessions, callers, timing.batches[0]))
        seeded = load if load.seed is not None else msgspec.structs.replace(load, seed=timing.seed)
        return under_load(things, seeded, timing.batches[0], timing.seconds, progress)


def _served(sessions: Sequence[Opened], callers: int, batch: int) -> Served:
    feed = sample_feed(sessions[0].session.inputs, batch)
    calls: list[Callable[[], object]] = [partial(opened.session.run, feed) for opened in sessions]
    first = sessions[0]
    return served(first.name, first.setup, calls, callers, many=first.many_callers, on_gpu=first.on_gpu)


def starts_of(ways: Sequence[Way], timing: Timing, progress: Progress) -> tuple[StartRow, ...]:
    """The start of every way at the first batch size, end to end."""
    things = [Thing(way.name, way.bundle.root, way.setup, timing.batches[0], "end-to-end") for way in ways]
    return start_rows(things, timing.seconds, progress, seed=timing.seed)
