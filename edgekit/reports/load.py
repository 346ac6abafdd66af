"""What callers get of a session that several of them use at once, or that requests reach at a rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgekit.reports.base import Case, Part
from edgekit.reports.page import Cell, Column, Line, Page, Span, Table, spans, verdict
from edgekit.reports.percentile import Percentile
from edgekit.reports.samples import Blocks
from edgekit.setups import Setup

Sessions: TypeAlias = Literal["shared", "own"]
"""Whether all callers use one session, or each has its own."""
Arrivals: TypeAlias = Literal["poisson", "constant"]


class LoadRow(Part, frozen=True):
    """``callers`` threads that call ``run`` end to end: host array in, host array out.

    ``rate`` None is the closed loop: a caller asks again as soon as it has its answer. Else it is the open loop: ``requests``
    begin at so many a second, by ``arrivals``, whether or not a caller is free, and their latency counts from that moment.

    ``latency``: the median and percentiles by nearest rank of all requests, those never served counted as the slowest; without
    ``ms`` where they are too few, or where it is one that was never served. ``slowest_ms``: of those served. ``service_ms``: the
    median time inside a call. ``throughput``: requests served a second; ``throughput_low`` and ``throughput_high`` are its 95 %
    interval over the rounds of this process. ``waited``: the share of those served that found every caller busy. ``unserved``:
    requests that no caller had begun on one second after the last was due.
    ``woke_late_us``: how late the harness itself is, the median by which an idle caller begins after the moment meant.

    ``one_at_a_time``: the backend takes one caller at a time, so that callers of a shared session wait for each other.
    ``over``: the share of requests slower than the budget; ``held``: whether the budget holds. Both None without a budget.
    ``lost``: in a search it ended when more were slower than may be, so that latencies are not told.
    ``samples_ms``: latencies of served requests, of the closed loop a block for each round; none of rates that a search tried.
    """

    backend: str
    setup: Setup
    batch: int
    callers: int
    sessions: Sessions
    one_at_a_time: bool
    rate: float | None
    arrivals: Arrivals | None
    seconds: float
    requests: int
    unserved: int
    waited: float
    throughput: float
    throughput_low: float | None
    throughput_high: float | None
    latency: tuple[Percentile, ...]
    slowest_ms: float
    service_ms: float
    woke_late_us: float | None
    noise: str
    samples_ms: tuple[tuple[float, ...], ...]
    over: float | None = None
    held: bool | None = None
    lost: bool = False

    def supports(self, point: Percentile) -> bool:
        """Whether there were enough requests for a percentile."""
        return self.requests >= point.samples_needed

    @property
    def why_not(self) -> str:
        """Why the budget does not hold."""
        if self.lost or all(map(self.supports, self.latency)):
            return f"{self.over or 0:.1%} of the requests are slower"
        return f"{self.requests} requests are too few to know; give a longer --seconds"

    @property
    def name(self) -> str:
        """What the row is of, for a CI server."""
        loop = "closed loop" if self.rate is None else f"{self.rate:.4g}/s"
        return f"{self.backend}, {self.callers} caller{'s' * (self.callers > 1)}, {loop}"


class RateSearch(Part, frozen=True):
    """The highest rate at which ``budget`` held, twice with different arrivals; None with the reason ``why`` where none did.

    ``ceiling``: requests a second in the closed loop of as many callers. ``tried``: every rate, in the order of trying.
    """

    backend: str
    callers: int
    budget: str
    ceiling: float
    rate: float | None
    tried: tuple[LoadRow, ...]
    why: str = ""


class LoadReport(Part, frozen=True):
    """Closed loops, open loops and searches for a rate, of every backend; ``seed`` drew the arrivals, None in an older report."""

    rows: Annotated[tuple[LoadRow, ...], Meta(min_length=1)]
    searches: tuple[RateSearch, ...] = ()
    budget: str = ""
    seed: int | None = None

    @property
    def at_a_rate(self) -> bool:
        """Whether requests came at a rate, so that ``seed`` drew when."""
        return bool(self.searches) or any(row.rate is not None for row in self.rows)

    @property
    def judged(self) -> tuple[LoadRow, ...]:
        """The rows that the budget is about: of the open loop where there is one; none where a rate was searched for."""
        if self.searches:
            return ()
        return tuple(row for row in self.rows if row.rate is not None) or self.rows

    @property
    def passed(self) -> bool:
        """Every judged row holds the budget, and every search found a rate."""
        return all(row.held is not False for row in self.judged) and all(search.rate is not None for search in self.searches)

    def cases(self) -> Iterable[Case]:
        """Each judged row and each search."""
        for row in self.judged if self.budget else ():
            yield Case(row.name, row.held is not False, "" if row.held else row.why_not)
        for search in self.searches:
            name = f"{search.backend}, {search.callers} caller{'s' * (search.callers > 1)}: a rate that holds {search.budget}"
            yield Case(name, search.rate is not None, search.why)

    def with_samples(self, samples: Sequence[Blocks]) -> LoadReport:
        """The report whose rows have these samples."""
        rows = (msgspec.structs.replace(row, samples_ms=own) for row, own in zip(self.rows, samples, strict=True))
        return msgspec.structs.replace(self, rows=tuple(rows))

    def page(self) -> Page:
        """A table of the closed loops, one of the open ones, and what each search found."""
        closed = [row for row in self.rows if row.rate is None]
        opened = [row for row in self.rows if row.rate is not None]
        return (
            *_table("closed loop", _CLOSED, closed, judged=self.judged),
            Line("closed loop: a caller asks again when it has its answer; requests that would come meanwhile are not seen."),
            *(_table(f"open loop, {opened[0].arrivals} arrivals", _OPEN, opened, judged=self.judged) if opened else ()),
            *(item for search in self.searches for item in _search(search)),
            *_notes([*self.rows, *(row for search in self.searches for row in search.tried)]),
            *self._verdict(),
        )

    def _verdict(self) -> Page:
        if not self.budget or self.searches:
            return ()
        return (Line((f"budget of {self.budget} under load: ", verdict(self.passed))),)


STABLE = "stable"
NEVER, STOPPED = "never", "stopped"
"""Stand for the latency of a request that was not served, and for requests that were not served because the budget was lost."""
_LATENCY = (Column("median", number=True), Column("P90", number=True, rank=3), Column("P99", number=True, rank=1))
_FIRST, _LAST = (Column("backend"), Column("callers", number=True)), (Column(""),)
_CLOSED = (
    Column("requests/s", number=True), Column("(95 %)", number=True, rank=2), *_LATENCY, Column("slowest", number=True, rank=4),
)  # fmt: skip
_OPEN = (
    Column("rate", number=True), *_LATENCY, Column("in the call", number=True, rank=4), Column("waited", number=True, rank=2),
    Column("unserved", number=True),
)  # fmt: skip


def _table(title: str, headings: Sequence[Column], rows: Sequence[LoadRow], judged: Sequence[LoadRow]) -> Page:
    """Noise is told below the table, under the number that a noisy row bears."""
    first = rows[0]
    sessions = "one session for all callers" if first.sessions == "shared" else "a session for each caller"
    numbers = {
        text: f"[{place + 1}]" for place, text in enumerate(dict.fromkeys(row.noise for row in rows if row.noise != STABLE))
    }
    cells = tuple(
        (
            row.backend,
            str(row.callers),
            *(_closed(row) if row.rate is None else _open(row)),
            (verdict(row.held) if row in judged and row.held is not None else "", Span(f" {numbers.get(row.noise, '')}", "warn")),
        )
        for row in rows
    )
    return (
        Table(f"{title}, batch {first.batch}, {sessions}, end-to-end, in ms", (*_FIRST, *headings, *_LAST), cells),
        *(Line(Span(f"{number} {text}", "warn")) for text, number in numbers.items()),
    )


def _closed(row: LoadRow) -> tuple[Cell, ...]:
    interval = "" if row.throughput_low is None else f"({row.throughput_low:.4g} .. {row.throughput_high:.4g})"
    return (f"{row.throughput:.4g}", interval, *_percentiles(row), f"{row.slowest_ms:.3g}")


def _open(row: LoadRow) -> tuple[Cell, ...]:
    unserved = STOPPED if row.lost else f"{row.unserved / row.requests:.1%}"
    return (f"{row.rate:.4g}/s", *_percentiles(row), f"{row.service_ms:.3g}", f"{row.waited:.1%}", unserved)


def _percentiles(row: LoadRow) -> Iterator[str]:
    for point in row.latency:
        missing = "-" if row.lost else NEVER if row.supports(point) else f"- ({point.samples_needed})"
        yield missing if point.ms is None else f"{point.ms:.3g}"


def _search(search: RateSearch) -> Page:
    """Every rate that was tried, in ascending order, and the highest that held."""
    callers = f"{search.callers} caller{'s' * (search.callers > 1)}"
    tried = sorted(search.tried, key=lambda row: row.rate or 0.0)
    if search.rate is None:
        found: Cell = (Span("none", "bad"), f"; {search.why}")
    else:
        found = (Span(f"{search.rate:.4g}/s", "good"), f", {search.rate / search.ceiling:.0%} of the closed loop's")
    rate = Line((f"{search.backend}, {callers}, {search.budget} holds up to: ", *spans(found)))
    return (*(_table(f"open loop, rates tried, {tried[0].arrivals} arrivals", _OPEN, tried, judged=tried) if tried else ()), rate)


def _notes(rows: Sequence[LoadRow]) -> Page:
    """What a reader must know of the numbers, each once."""
    cells = {cell for row in rows for cell in _percentiles(row)}
    late = [row.woke_late_us for row in rows if row.woke_late_us is not None and not row.lost]
    alone = dict.fromkeys(row.backend for row in rows if row.one_at_a_time and row.sessions == "shared")
    texts = {
        "open loop: requests come at the rate, whether or not a caller is free; latency counts from the moment one was due.": any(
            row.rate is not None for row in rows
        ),
        f"{NEVER}: so many requests were not served that there is no such latency.": NEVER in cells,
        f"{STOPPED}: when more were slower than the budget than may be.": any(row.lost for row in rows),
        "- (n): not shown; needs at least n requests.": any(cell.startswith("- (") for cell in cells),
        f"callers are threads of this process; an idle one begins up to {max(late, default=0):.0f} us late, by the median.": bool(
            late
        ),
    }
    return (
        *(Line(text) for text, holds in texts.items() if holds),
        *(Line(f"{backend} takes one caller at a time: callers of its session wait for each other.") for backend in alone),
    )
