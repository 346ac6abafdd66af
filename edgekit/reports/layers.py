"""What each layer of a session takes, and how much of what the machine can do that is."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.reports.base import Part
from edgekit.reports.page import Cell, Column, Line, Page, Table
from edgekit.setups import Setup

MOST_LAYERS = 15
"""The most layers that the table shows for a backend; the JSON has all."""


class Peak(Part, frozen=True):
    """What the machine reaches in a precision by the same runtime and threads, in 10^9 operations a second.

    A product of square matrices, ``size`` x ``size``, the fastest of several; a multiply-accumulate is two operations.
    """

    precision: str
    gflops: float
    size: int


class LayerLatency(Part, frozen=True):
    """A layer as the runtime runs it, in its own words; ``nodes`` are the ONNX nodes that it computes.

    No ``nodes``: the runtime has added it, or does not say. ``share`` is of the sum of all layers' medians. ``modules``: paths of
    the PyTorch modules that these nodes are from, where the bundle has recorded them. ``macs``: multiply-accumulates of a call;
    None where they are not known, or where the runtime does a node's in several layers.
    """

    name: str
    operator: str
    nodes: tuple[str, ...]
    median_ms: float
    share: float
    modules: tuple[str, ...] = ()
    macs: int | None = None

    @property
    def gflops(self) -> float | None:
        """10^9 operations a second, two for each multiply-accumulate; None where there are none, or are not known."""
        return 2 * self.macs / self.median_ms / 1e6 if self.macs and self.median_ms else None


class LayersReport(Part, frozen=True):
    """What each layer takes, in the order of execution, by the runtime's own profiler in ``calls`` calls of its own.

    ``total_ms`` is the median sum of a call. Profiling slows calls down: the time of a whole call is in the rows, under the same
    ``backend``. ``peaks``: what the machine reaches in the file's precision, and in float32 where layers may have stayed in that.
    """

    backend: str
    batch: int
    calls: int
    total_ms: float
    layers: tuple[LayerLatency, ...]
    setup: Setup
    peaks: tuple[Peak, ...] = ()

    def page(self) -> Page:
        """A row for each of the slowest layers, and what all take."""
        slowest = sorted(self.layers, key=lambda layer: -layer.median_ms)[:MOST_LAYERS]
        headings = tuple(column for column in _COLUMNS if column.heading != "module" or any(layer.modules for layer in slowest))
        rows = tuple(tuple(_cells(layer)[column.heading] for column in headings) for layer in slowest)
        title = f"layers on {self.backend}, batch {self.batch}, the slowest first"
        hidden = len(self.layers) - len(slowest)
        more = f"{hidden} more layer{' is' if hidden == 1 else 's are'} in the JSON; " if hidden else ""
        every = "its one layer takes" if len(self.layers) == 1 else f"all {len(self.layers)} take"
        return (
            Table(title, headings, rows),
            Line(
                f"{more}{every} {self.total_ms:.3g} ms a call by {self.backend}'s profiler, which slows "
                f"calls down ({self.calls} calls of its own)."
            ),
            *map(Line, self._reached()),
        )

    def _reached(self) -> Iterator[str]:
        for peak in self.peaks:
            work = sum(layer.macs or 0 for layer in self.layers)
            took = sum(layer.median_ms for layer in self.layers)
            share = f"; all layers together {2 * work / took / 1e6:.3g}" if work and took and peak is self.peaks[0] else ""
            yield (
                f"GFLOP/s: two operations a multiply-accumulate. {self.setup.backend} reaches {peak.gflops:.3g} here in "
                f"{peak.precision}, in a product of {peak.size} x {peak.size} matrices{share}."
            )


_COLUMNS = (
    Column("layer", prose=True),
    Column("operator", rank=2),
    Column("module", prose=True, rank=1),
    Column("ONNX nodes", prose=True),
    Column("median ms", number=True),
    Column("share", number=True),
    Column("GFLOP/s", number=True),
)


def _cells(layer: LayerLatency) -> dict[str, Cell]:
    return {
        "layer": layer.name,
        "operator": layer.operator,
        "module": ", ".join(layer.modules),
        "ONNX nodes": ", ".join(layer.nodes),
        "median ms": f"{layer.median_ms:.3g}",
        "share": f"{layer.share:.1%}",
        "GFLOP/s": "" if layer.gflops is None else f"{layer.gflops:.3g}",
    }
