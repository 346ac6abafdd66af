"""The report of a timing."""

from __future__ import annotations

from edgekit.reports.base import Part, Report, Skipped


class Percentile(Part, frozen=True):
    """A percentile of the samples in milliseconds; None with the number of samples it takes when there are fewer."""

    percent: float
    ms: float | None
    samples_needed: int


class LatencyReport(Report, frozen=True):
    """One runtime, batch and boundary. ``samples_ms`` holds every recorded call, one tuple per block of the interleaving.

    Boundary ``device``: inputs resident, work complete. Boundary ``end-to-end``: host array in, host array out.
    ``device_ms`` is what the GPU's own clock says of further calls, made after these; empty where a runtime does not ask it.
    ``launch_bound``: the host queued those calls no faster than the GPU ran them, so that they show at most what the GPU takes.
    """

    backend: str
    batch: int
    boundary: str
    warmups_ms: tuple[float, ...]
    samples_ms: tuple[tuple[float, ...], ...]
    median_ms: float
    median_low_ms: float
    median_high_ms: float
    percentiles: tuple[Percentile, ...]
    cov: float
    noise: str
    facts: dict[str, str]
    device_ms: tuple[float, ...] = ()
    launch_bound: bool = False

    @property
    def count(self) -> int:
        """How many calls were recorded."""
        return sum(map(len, self.samples_ms))


class Comparison(Part, frozen=True):
    """Time of ``baseline`` over time of ``backend``, per round: the median of the ratios and its 95 % bootstrap interval."""

    backend: str
    baseline: str
    batch: int
    boundary: str
    speedup: float
    low: float
    high: float


class LayerLatency(Part, frozen=True):
    """A layer as the runtime runs it, in its own words; ``nodes`` are the ONNX nodes that it computes.

    No ``nodes``: the runtime has added it, or does not say. ``share`` is of the sum of all layers' medians.
    """

    name: str
    operator: str
    nodes: tuple[str, ...]
    median_ms: float
    share: float


class LayersReport(Part, frozen=True):
    """What each layer takes, in the order of execution, by the runtime's own profiler in ``calls`` calls of its own.

    ``total_ms`` is the median sum of a call. Profiling slows calls down: the time of a whole call is in the rows.
    """

    backend: str
    batch: int
    calls: int
    total_ms: float
    layers: tuple[LayerLatency, ...]


class BenchReport(Report, frozen=True):
    """Latencies of every runtime present, measured interleaved; ``layers`` where they were asked for."""

    bundle: str
    onnx_sha256: str
    machine: dict[str, str]
    threads: int
    overhead_us: float
    rows: tuple[LatencyReport, ...]
    comparisons: tuple[Comparison, ...]
    skipped: tuple[Skipped, ...]
    budget_ms: float | None = None
    layers: tuple[LayersReport, ...] = ()

    @property
    def passed(self) -> bool:
        """Something was measured, and no end-to-end median of the first batch is over the budget."""
        if not self.rows or self.budget_ms is None:
            return bool(self.rows)
        first = self.rows[0].batch
        return all(row.median_ms <= self.budget_ms for row in self.rows if row.batch == first and row.boundary == "end-to-end")
