"""The report of a timing."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec

from edgekit.errors import InputError
from edgekit.files import read_bytes
from edgekit.reports.base import Case, Part, Report, Skipped, absent
from edgekit.reports.fresh import Fresh
from edgekit.reports.layers import LayersReport
from edgekit.reports.load import LoadReport
from edgekit.reports.page import Cell, Column, Counts, Histograms, Line, Page, Span, Table, columns, verdict
from edgekit.reports.percentile import Bound, Percentile
from edgekit.reports.samples import Blocks, SamplesFile, named, packed, read_samples, samples_path, thinned, thinned_blocks
from edgekit.reports.start import StartRow, starts_page
from edgekit.setups import Setup, shared_variant

OF_THE_MOMENT = ("load", "CPU clock", "GPU clock", "GPU temperature", "GPU power", "GPU slowed down by")
"""Facts that are read anew each time, and say nothing of which machine or runtime it is."""
WIDEST_INTERVAL = 1.5
"""A speed-up is withheld where its interval's ends are further apart than this ratio."""


class LatencyReport(Report, frozen=True):
    """One backend, batch and boundary. ``samples_ms`` holds recorded calls, one tuple per block of the interleaving.

    They are all of the ``calls``, as long as these are few: see ``Kept``, and ``thinned_blocks`` for what JSON has of them.
    ``slowest_ms`` is of all; the other figures are of what was kept. An older report has 0 in both, and all in ``samples_ms``.

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
    calls: int = 0
    slowest_ms: float = 0.0

    @property
    def count(self) -> int:
        """How many calls were recorded."""
        return self.calls or sum(map(len, self.samples_ms))

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
    """Time of ``baseline`` over time of ``backend``, per round: the median of the ratios and its 95 % bootstrap interval.

    Where either row is noisy, ``low`` to ``high`` has the middle 95 % of the rounds' ratios.
    """

    backend: str
    baseline: str
    batch: int
    boundary: str
    speedup: float
    low: float
    high: float

    @property
    def is_told(self) -> bool:
        """Whether its interval is narrow enough for the speed-up to mean something."""
        return self.high <= WIDEST_INTERVAL * self.low


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


class BenchReport(Report, frozen=True):
    """Latencies of every backend present, measured interleaved; ``layers`` where they were asked for.

    ``bundle`` and ``onnx_sha256`` are of the first of ``bundles``. ``between``: medians of fresh processes, where they were asked
    for, and ``controls``, of the reference network beside them. ``load``: what callers and requests at once got, and ``starts``:
    fresh processes until they are steady. ``budget`` is of the same calls as ``budget_ms``. ``seconds``: of calls that each
    row, and each process, was recorded for; 0 in an older report. ``seed``: of the order of processes and of arrivals; None in an
    older report.

    JSON has at most 5,000 calls of a row, evenly thinned; where it was written to a file, ``samples`` names the one beside it
    that has all that were kept, and ``read`` puts them back.
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
    load: LoadReport | None = None
    starts: tuple[StartRow, ...] = ()
    budget: Bound | None = None
    samples: SamplesFile | None = None
    seconds: float = 0.0
    seed: int | None = None
    kept_as: ClassVar[str] = "bench"

    @property
    def of_one_bundle(self) -> bool:
        """False where several were timed together: another's row would be shown as this one's."""
        return len(self.bundles) < 2

    @property
    def passed(self) -> bool:
        """Something was measured and nothing is over its budget, and every setup starts in a process of its own too."""
        under_load = self.load is None or self.load.passed
        return bool(self.rows) and self.within_budgets and under_load and not any(row.failure for row in self.starts)

    def outlasts(self, newer: Report) -> bool:
        """Whether it has timed each of the other's rows on the same machine and releases, for longer or beside more rows.

        It must be held to the same budgets, have each further part that the other has, and no noisy row that is stable there.
        """
        if not isinstance(newer, BenchReport) or self.limits != newer.limits or _lasting(self.machine) != _lasting(newer.machine):
            return False
        own, others = self._by_place(), newer._by_place()
        parts = ("layers", "between", "load", "starts")
        says_all = all(place in own and _says_as_much(own[place], row) for place, row in others.items())
        says_all &= all(getattr(self, part) or not getattr(newer, part) for part in parts)
        return says_all and (self.seconds, len(own)) > (newer.seconds, len(others))

    def _by_place(self) -> dict[tuple[str, int, str], LatencyReport]:
        """Each row by its setup, whatever other batches that takes, its batch and its boundary."""
        alone = ((msgspec.structs.replace(row.setup, batches=()), row) for row in self.rows)
        return {(str(setup), row.batch, row.boundary): row for setup, row in alone}

    @property
    def within_budgets(self) -> bool:
        """Whether the end-to-end calls of the first batch are."""
        return not any(_over(row, budget) for budget in self.limits for row in self._bounded)

    @property
    def limits(self) -> tuple[Bound, ...]:
        """What is asked of the end-to-end calls of the first batch."""
        median = () if self.budget_ms is None else (Bound("median", self.budget_ms),)
        return (*median, *((self.budget,) if self.budget else ()))

    @property
    def _bounded(self) -> tuple[LatencyReport, ...]:
        return tuple(row for row in self.rows if row.batch == self.rows[0].batch and row.boundary == "end-to-end")

    def to_json(self) -> bytes:
        """One indented JSON document with at most 5,000 calls of a row."""
        return Report.to_json(self._with_calls(thinned_blocks))

    def as_files(self, place: Path) -> dict[Path, bytes]:
        """The calls of every row in an .npz file beside the report, which names it."""
        content = packed(self._calls())
        report = msgspec.structs.replace(self, samples=named(place, content))
        return {samples_path(place): content, place: report.to_json() + b"\n"}

    @classmethod
    def read(cls, place: Path) -> BenchReport:
        """The report at ``place`` with all calls that were kept.

        Raises InputError for no report, and where the file beside it is missing or another run's.
        """
        report = cls.from_json(read_bytes(place, "report"))
        if report.samples is None:
            return report
        calls = read_samples(place, report.samples)
        if set(calls) != set(report._calls()):
            raise InputError(f"{place} has other rows than the samples beside it", "make the report again")
        load = report.load and report.load.with_samples([calls[f"load/{place}"] for place in range(len(report.load.rows))])
        rows = (msgspec.structs.replace(row, samples_ms=calls[f"rows/{place}"]) for place, row in enumerate(report.rows))
        return msgspec.structs.replace(report, rows=tuple(rows), load=load)

    def _calls(self) -> dict[str, Blocks]:
        """The calls of every row by the names that they have in a file of samples."""
        rows = {f"rows/{place}": row.samples_ms for place, row in enumerate(self.rows)}
        return rows | {f"load/{place}": row.samples_ms for place, row in enumerate(self.load.rows if self.load else ())}

    def _with_calls(self, of: Callable[[Blocks], Blocks]) -> BenchReport:
        rows = tuple(
            msgspec.structs.replace(row, samples_ms=of(row.samples_ms), warmups_ms=thinned(row.warmups_ms)) for row in self.rows
        )
        load = self.load and self.load.with_samples([of(row.samples_ms) for row in self.load.rows])
        return msgspec.structs.replace(self, rows=rows, load=load)

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
            *(self.load.page() if self.load else ()),
            *starts_page(self.starts),
            *self._drawn(),
            *(item for layers in self.layers for item in layers.page()),
            *absent(self.skipped),
        )

    def _drawn(self) -> Page:
        """The seeds, where something was drawn by them."""
        load = self.load if self.load is not None and self.load.at_a_rate else None
        own = None if load is None or load.seed == self.seed else load.seed  # in Python a Load may have its own
        drawn = ["order of processes"] if self.between or self.starts else []
        drawn += ["arrivals of requests"] if load is not None and own is None else []
        by_timing = f"{' and '.join(drawn)}: --seed {self.seed} repeats them." if drawn and self.seed is not None else ""
        by_load = "" if own is None else f"arrivals of requests: edgekit.latency.load.Load(seed={own}) repeats them."
        return tuple(map(Line, filter(None, (by_timing, by_load))))

    def figures(self) -> Page:
        """How the calls of each row are distributed, the rows of a batch size on one axis."""
        batches = dict.fromkeys(row.batch for row in self.rows)
        return tuple(_distributions(batch, [row for row in self.rows if row.batch == batch and row.count]) for batch in batches)

    def cases(self) -> tuple[Case, ...]:
        """Each row of the first batch against each budget, or whether anything was measured; load and starts."""
        held = tuple(
            Case(f"{budget.name} of {row.backend}, batch {row.batch}", not _over(row, budget), _over(row, budget))
            for budget in self.limits
            for row in self._bounded
        )
        starts = tuple(Case(f"{row.backend} starts", not row.failure, row.failure) for row in self.starts)
        return (*(held or (Case("latency measured", bool(self.rows)),)), *(self.load.cases() if self.load else ()), *starts)

    def _legend(self) -> Page:
        """What stands in the cells, of what stands in one."""
        lacking = any(point.ms is None for row in self.rows for point in row.percentiles)
        first = "row" if len(self.bundles) > 1 else "backend"
        speedup = f"speed-up: over the first {first}, median of the per-round ratios. " if self.comparisons else ""
        withheld = any(not comparison.is_told for comparison in self.comparisons)
        texts = (
            f"{speedup}{'- (n): not shown; needs at least n calls.' if lacking else ''}".strip(),
            f"- under speed-up: not shown; its interval spans more than a factor of {WIDEST_INTERVAL:g}." if withheld else "",
            "" if self.between or not self.rows else _WITHIN,
        )
        return tuple(Line(text) for text in texts if text)

    def _budget(self) -> Page:
        if not self.limits or not self.rows:
            return ()
        texts = " and ".join(f"{budget.ms:g} ms for the {budget.name}" for budget in self.limits)
        words = f"budget of {texts} of batch {self.rows[0].batch} end-to-end: "
        reasons = (_over(row, budget) for budget in self.limits for row in self._bounded)
        return (Line((words, verdict(self.within_budgets))), *(Line(Span(reason, "bad")) for reason in filter(None, reasons)))


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


def _says_as_much(row: LatencyReport, other: LatencyReport) -> bool:
    """Whether it is of the same releases as ``other``, and not noisy where that is stable."""
    return _lasting(row.facts) == _lasting(other.facts) and (row.noise == "stable" or other.noise != "stable")


def _lasting(facts: Mapping[str, str]) -> dict[str, str]:
    """The facts that are the same in every run on one machine."""
    return {name: fact for name, fact in facts.items() if name not in OF_THE_MOMENT}


def _over(row: LatencyReport, budget: Bound) -> str:
    """Why a row does not hold a budget; empty where it does."""
    point = next((point for point in row.percentiles if point.percent == budget.percent), None)
    ms = row.median_ms if budget.key == "median" else point.ms if point else None
    if ms is None:
        needed = f"takes {point.samples_needed} calls to be known, and there were {row.count}" if point else "was not measured"
        return f"{budget.name} of {row.backend} {needed}; give a longer --seconds"
    return "" if ms <= budget.ms else f"{budget.name} of {row.backend}: {ms:.3g} ms is above the budget of {budget.ms:g} ms"


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
    value = _ratio(comparison.speedup) if comparison.is_told else "-"
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
