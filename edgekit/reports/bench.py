"""The report of a timing."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar

import msgspec

from edgekit.reports.base import Case, Part, Report, Skipped, absent
from edgekit.reports.fresh import Fresh
from edgekit.reports.page import Cell, Column, Counts, Histograms, Line, Page, Span, Table, columns, verdict
from edgekit.setups import Setup, shared_variant

MOST_LAYERS = 15
"""The most layers that the table shows for a backend; the JSON has all."""
WIDEST_INTERVAL = 1.5
"""A speed-up is withheld where its interval's ends are further apart than this ratio."""


class Percentile(Part, frozen=True):
    """A percentile of the samples in milliseconds; None with the number of samples it takes when there are fewer."""

    percent: float
    ms: float | None
    samples_needed: int


class LatencyReport(Report, frozen=True):
    """One backend, batch and boundary. ``samples_ms`` holds every recorded call, one tuple per block of the interleaving.

    ``backend`` is the row's name in this report: the setup's backend, with what tells it from its namesakes where one backend
    stands there twice (``edgekit.setups.labels``), behind the bundle's short name, ``bundle``, where there are several.
    ``median_low_ms`` and ``median_high_ms`` hold for this process: another run's median may lie outside (see ``Between``).
    Boundary ``device``: inputs resident, work complete. Boundary ``end-to-end``: host array in, host array out.
    ``device_ms`` is what the GPU's own clock says of further calls, made after these; empty where a backend does not ask it.
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
    percentiles: Annotated[tuple[Percentile, ...], msgspec.Meta(min_length=2, max_length=2)]
    cov: float
    noise: str
    facts: dict[str, str]
    setup: Setup
    device_ms: tuple[float, ...] = ()
    launch_bound: bool = False
    bundle: str = ""

    @property
    def count(self) -> int:
        """How many calls were recorded."""
        return sum(map(len, self.samples_ms))

    @property
    def own_clock_ms(self) -> float | None:
        """The median by the GPU's own clock; where that is only an upper bound, no more than the host has measured itself."""
        if not self.device_ms:
            return None
        own = statistics.median(self.device_ms)
        return min(own, self.median_ms) if self.launch_bound else own

    def page(self) -> Page:
        """Its row, and why it is noisy."""
        return _latencies("latency in ms", (self,), ())


class Comparison(Part, frozen=True):
    """Time of ``baseline`` over time of ``backend``, per round: the median of the ratios and its 95 % bootstrap interval."""

    backend: str
    baseline: str
    batch: int
    boundary: str
    speedup: float
    low: float
    high: float


class Between(Part, frozen=True):
    """Medians of several fresh processes of one row, which ``backend`` names; ``low_ms`` to ``high_ms`` is where the next falls.

    It is the 95 % prediction interval for the median of one more run on this machine in its present state.
    """

    backend: str
    setup: Setup
    batch: int
    boundary: str
    low_ms: float
    high_ms: float
    processes: Annotated[tuple[Fresh, ...], msgspec.Meta(min_length=1)]

    @property
    def medians_ms(self) -> tuple[float, ...]:
        """The median of each process, in the order in which they ran."""
        return tuple(process.median_ms for process in self.processes)


class NamedBundle(Part, frozen=True):
    """A bundle of a report: its short name there, its folder, and the sha256 of its manifest.json."""

    label: str
    path: str
    sha256: str


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

    ``total_ms`` is the median sum of a call. Profiling slows calls down: the time of a whole call is in the rows, under the same
    ``backend``.
    """

    backend: str
    batch: int
    calls: int
    total_ms: float
    layers: tuple[LayerLatency, ...]
    setup: Setup

    def page(self) -> Page:
        """A row for each of the slowest layers, and what all take."""
        numbers = ("median ms", "share")
        slowest = sorted(self.layers, key=lambda layer: -layer.median_ms)[:MOST_LAYERS]
        rows = tuple(
            (layer.name, layer.operator, ", ".join(layer.nodes), f"{layer.median_ms:.3g}", f"{layer.share:.1%}")
            for layer in slowest
        )
        names = ("layer", "operator", "ONNX nodes", *numbers)
        headings = columns(*names, numbers=numbers, prose=("layer", "ONNX nodes"), ranks={"operator": 1})
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
        )


class BenchReport(Report, frozen=True):
    """Latencies of every backend present, measured interleaved; ``layers`` where they were asked for.

    ``bundle`` and ``onnx_sha256`` are of the first of ``bundles``. ``between``: medians of fresh processes, where they were asked
    for, and ``controls``, of the reference network beside them.
    """

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
    bundles: tuple[NamedBundle, ...] = ()
    between: tuple[Between, ...] = ()
    controls: tuple[Between, ...] = ()
    kept_as: ClassVar[str] = "bench"

    @property
    def of_one_bundle(self) -> bool:
        """False where several were timed together: another's row would be shown as this one's."""
        return len(self.bundles) < 2

    @property
    def passed(self) -> bool:
        """Something was measured, and no end-to-end median of the first batch is over the budget."""
        if not self.rows or self.budget_ms is None:
            return bool(self.rows)
        first = self.rows[0].batch
        return all(row.median_ms <= self.budget_ms for row in self.rows if row.batch == first and row.boundary == "end-to-end")

    def page(self) -> Page:
        """A row for each latency, what the columns mean, the budget's check, and who did not take part."""
        counts = {row.setup.threads for row in self.rows}
        threads = f"{self.threads} thread(s)" if len(counts) < 2 else "threads as named"
        variant = shared_variant(row.setup for row in self.rows)
        names = ", ".join(bundle.label for bundle in self.bundles) if len(self.bundles) > 1 else self.bundle
        return (
            *_latencies(f"latency of {names}{variant} in ms, {threads}, interleaved", self.rows, self.comparisons),
            *map(Line, _own_clock(self.rows)),
            Line("device: inputs resident, work complete. end-to-end: host array in, host array out."),
            *self._legend(),
            Line(
                f"{self.machine.get('cpu', 'unknown CPU')}, {self.machine.get('cores', '?')} core(s); "
                f"the timing loop itself costs {self.overhead_us:.2f} us a call."
            ),
            *self._budget(),
            *_between(self.between),
            *(item for layers in self.layers for item in layers.page()),
            *absent(self.skipped),
        )

    def figures(self) -> Page:
        """How the calls of each row are distributed, the rows of a batch size on one axis."""
        batches = dict.fromkeys(row.batch for row in self.rows)
        return tuple(_distributions(batch, [row for row in self.rows if row.batch == batch and row.count]) for batch in batches)

    def cases(self) -> tuple[Case, ...]:
        """Each end-to-end median of the first batch against the budget, or whether anything was measured."""
        if self.budget_ms is None or not self.rows:
            return (Case("latency measured", self.passed),)
        return tuple(
            Case(f"latency of {row.backend}, batch {row.batch}", row.median_ms <= self.budget_ms, _over(row, self.budget_ms))
            for row in self.rows
            if row.batch == self.rows[0].batch and row.boundary == "end-to-end"
        )

    def _legend(self) -> Page:
        """What stands in the cells, of what stands in one."""
        lacking = any(point.ms is None for row in self.rows for point in row.percentiles)
        first = "row" if len(self.bundles) > 1 else "backend"
        speedup = f"speed-up: over the first {first}, median of the per-round ratios. " if self.comparisons else ""
        texts = (
            f"{speedup}{'- (n): not shown; needs at least n calls.' if lacking else ''}".strip(),
            "" if self.between or not self.rows else _WITHIN,
        )
        return tuple(Line(text) for text in texts if text)

    def _budget(self) -> Page:
        if self.budget_ms is None or not self.rows:
            return ()
        words = f"budget of {self.budget_ms:g} ms for batch {self.rows[0].batch} end-to-end: "
        return (Line((words, verdict(self.passed))),)


BINS = 48


def _distributions(batch: int, rows: Sequence[LatencyReport]) -> Histograms:
    """The calls of each row between bounds of equal ratio, from the fastest call of all to the slowest."""
    calls = [[sample for block in row.samples_ms for sample in block] for row in rows]
    first, last = min(map(min, calls), default=1.0), max(map(max, calls), default=1.0)
    first = max(first, LEAST_MS)
    ratio = max(last / first, 1.01) ** (1 / BINS)
    bounds = tuple(first * ratio**step for step in range(BINS + 1))
    counts = [Counter(bisect_right(bounds, sample) for sample in samples) for samples in calls]
    return Histograms(
        f"calls by their latency, batch {batch}",
        "ms",
        bounds,
        tuple(
            Counts(f"{row.backend}, {row.boundary}", tuple(count[place] for place in range(BINS + 2)), _marks(row))
            for row, count in zip(rows, counts, strict=True)
        ),
    )


LEAST_MS = 1e-6
"""No call is told to be shorter, so that it has a place on a logarithmic axis."""


def _marks(row: LatencyReport) -> tuple[tuple[str, float], ...]:
    percentiles = ((f"P{point.percent:g}", point.ms) for point in row.percentiles)
    return (("median", row.median_ms), *((name, ms) for name, ms in percentiles if ms is not None))


def _over(row: LatencyReport, budget_ms: float) -> str:
    return "" if row.median_ms <= budget_ms else f"{row.median_ms:.3g} ms is above the budget of {budget_ms:g} ms"


_LATENCY = (
    Column("batch", number=True),
    Column("boundary"),
    Column("backend"),
    Column("median", number=True),
    Column("in this run", number=True, rank=1),
    Column("P90", number=True, rank=4),
    Column("P99", number=True, rank=2),
    Column("calls", number=True, rank=5),
    Column("speed-up", number=True),
    Column("speed-up (95 %)", number=True, rank=3),
    Column(""),
)


_WITHIN = "in this run: 95 % interval from this process alone; --processes N tells where the next run's median falls."


def _latencies(title: str, rows: Sequence[LatencyReport], comparisons: Sequence[Comparison]) -> Page:
    """Noise is told below the table, under the number that a noisy row bears."""
    speedups = {(speedup.backend, speedup.batch, speedup.boundary): _speedup(speedup) for speedup in comparisons}
    cells: list[tuple[Cell, ...]] = []
    marks: dict[str, str] = {}
    for row in rows:
        mark = ""
        if row.noise != "stable":
            mark = marks.setdefault(row.noise, f"[{len(marks) + 1}]")
        cells.append(
            (
                str(row.batch),
                row.boundary,
                row.backend,
                f"{row.median_ms:.3g}",
                f"({row.median_low_ms:.3g} .. {row.median_high_ms:.3g})",
                *(f"- ({point.samples_needed})" if point.ms is None else f"{point.ms:.3g}" for point in row.percentiles),
                str(row.count),
                *speedups.get((row.backend, row.batch, row.boundary), ("1", "")),
                Span(mark, "warn"),
            )
        )
    table = Table(title, _LATENCY, tuple(cells)) if comparisons else _without_speedups(title, cells)
    return (table, *(Line(Span(f"{mark} {noise}", "warn")) for noise, mark in marks.items()))


def _without_speedups(title: str, cells: Sequence[tuple[Cell, ...]]) -> Table:
    """The table of rows that nothing is compared with."""
    kept = [place for place, column in enumerate(_LATENCY) if not column.heading.startswith("speed-up")]
    rows = tuple(tuple(row[place] for place in kept) for row in cells)
    return Table(title, tuple(_LATENCY[place] for place in kept), rows)


def _speedup(comparison: Comparison) -> tuple[str, str]:
    """Withheld when its interval is too wide to mean anything."""
    value = _ratio(comparison.speedup) if comparison.high <= WIDEST_INTERVAL * comparison.low else "-"
    return value, f"({_ratio(comparison.low)} .. {_ratio(comparison.high)})"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


_BETWEEN = columns(
    "batch", "boundary", "backend", "median", "processes", "next run (95 %)", numbers=("batch", "median", "processes")
)


def _between(rows: Sequence[Between]) -> Page:
    """Where the next run's median falls, of rows that were timed in several processes."""
    if not rows:
        return ()
    cells = tuple(
        (
            str(row.batch),
            row.boundary,
            row.backend,
            f"{statistics.median(row.medians_ms):.3g}",
            str(len(row.processes)),
            f"({row.low_ms:.3g} .. {row.high_ms:.3g})",
        )
        for row in rows
    )
    return (
        Table("medians of fresh processes in ms", _BETWEEN, cells),
        Line("next run: 95 % prediction interval for the median of one more run on this machine as it is now."),
    )


def _own_clock(rows: Sequence[LatencyReport]) -> Iterator[str]:
    for row in rows:
        if row.own_clock_ms is not None:
            sign = "≤ " * row.launch_bound
            yield f"{row.backend}, batch {row.batch}: {sign}{row.own_clock_ms:.3g} ms by the GPU's own clock."
    if any(row.launch_bound for row in rows):
        yield "≤: the GPU waited for the host to queue the calls; it takes no longer than that."
