"""Load: what several callers get at once, and what requests get that come at a rate, busy or not.

The closed loop: each caller, a thread, asks again as soon as it has its answer. A model that stalls is then asked less, so that
the stall is one slow call of many (coordinated omission). The open loop: the moments at which requests begin are drawn before
anything runs; latency counts from these, so that whoever waits behind a stall is counted with all of the wait. Usually they are
a Poisson process with its count given, as of many independent users: times drawn evenly from the window (Kingman, Poisson
Processes, 1993, 2.4), which gives exactly the rate asked for. ``constant`` is a camera.

A caller is a thread of this process, as in a Python server: what Python takes is in the numbers.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import msgspec
import numpy as np

from edgekit.budgets import Budget
from edgekit.errors import UsageError
from edgekit.latency.loop import REWAKE_SECONDS, Candidate, drawn_seed, wake
from edgekit.latency.statistics import Vector, median_interval, noise, samples_needed
from edgekit.machine.cpu import CpuTime
from edgekit.numerals import decimal
from edgekit.progress import SILENT, Advance, Progress
from edgekit.reports.load import Arrivals, LoadReport, LoadRow, RateSearch, Sessions
from edgekit.reports.percentile import BOUNDED, Percentile
from edgekit.reports.samples import Kept
from edgekit.setups import Setup
from edgekit.tensors import whole_numbers

Moments: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"
Body: TypeAlias = "Callable[[Callable[[], bool]], None]"
"""What a thread does; it asks now and then whether it is to stop."""
MOST_CALLERS = 256
MOST_REQUESTS = 1 << 20
"""Requests of one open loop: their times are kept."""
FEWEST_ROUNDS, BLOCK_SECONDS = 5, 0.5
LEAD_SECONDS, SPIN_NS = 0.005, 200_000
PATIENCE_SECONDS = 1.0
"""How long after the last request was due a caller still begins one that waits."""
WARM_CALLS = 3
MOST_WINDOW_SECONDS = 60.0
"""The longest that one rate is tried for, so that its percentile has the requests that it takes."""
STEPS, RESOLUTION, ABOVE = 10, 1.05, 1.05
"""A search tries so many rates, until the lowest that fails is so near to the best; it begins so far above the closed loop."""
CHUNKS = 10


class Window(NamedTuple):
    """Requests at ``rate`` a second for ``seconds``; ``draw`` is one of many draws of their moments."""

    rate: float
    seconds: float
    draw: int = 0


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How sessions are called: by how many callers at once, each number in turn, and whether these share one session.

    ``rate``: requests a second of the open loop; ``auto``: the highest that holds ``budget``. ``seed`` draws the arrivals;
    None: the timing's does, or chance; the report says it.
    """

    callers: tuple[int, ...] = (1,)
    sessions: Sessions = "shared"
    rate: float | Literal["auto"] | None = None
    arrivals: Arrivals = "poisson"
    budget: Budget | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for what is no number of callers, no rate, or no bound under load."""
        if not self.callers or not all(1 <= callers <= MOST_CALLERS for callers in self.callers):
            raise UsageError(f"{self.callers} are no numbers of callers", f"give whole numbers from 1 to {MOST_CALLERS}")
        if isinstance(self.rate, float) and not 0 < self.rate <= 1e6:
            raise UsageError(f"{self.rate:g} is no rate", "give requests a second like 200/s, or auto")
        if self.budget is not None and self.budget.key not in BOUNDED:
            raise UsageError(f"--budget {self.budget.text} says nothing under load", f"bound {' or '.join(BOUNDED)}")

    def check(self) -> None:
        """Raise UsageError for a search for a rate that holds nothing."""
        if self.rate == "auto" and self.budget is None:
            raise UsageError("--rate auto has no budget to hold", "add one like --budget p99=5ms")

    @property
    def percent(self) -> float | None:
        """The percentile that the budget bounds."""
        return BOUNDED[self.budget.key] if self.budget else None

    def window(self, rate: float, seconds: float, draw: int = 0) -> Window:
        """As long as ``rate`` takes to bring what the budget's percentile needs: at least ``seconds``, at most a minute."""
        needed = 0.0 if self.percent is None else (samples_needed(self.percent) + 0.5) / rate
        return Window(rate, max(seconds, min(needed, MOST_WINDOW_SECONDS)), draw)


class Served(NamedTuple):
    """A session, or several, under load: ``calls`` has a function for each caller."""

    name: str
    setup: Setup
    calls: tuple[Callable[[], object], ...]
    one_at_a_time: bool = False
    on_gpu: bool = False


class Clock(Protocol):
    """Time, in nanoseconds, and waiting for a moment."""

    def now(self) -> int:
        """The moment it is."""
        ...

    def until(self, moment: int) -> None:
        """Return at ``moment``, or at once where it has passed."""
        ...


class RealClock:
    """The machine's. A sleep ends up to a tenth of a millisecond late: the end of a wait only gives way to others."""

    def now(self) -> int:
        """``perf_counter_ns``."""
        return time.perf_counter_ns()

    def until(self, moment: int) -> None:
        """Sleep, and look at the clock in the end."""
        while (left := moment - time.perf_counter_ns()) > 0:
            time.sleep(max(0, left - SPIN_NS) / 1e9)


REAL: Clock = RealClock()


def served(name: str, setup: Setup, sessions: Sequence[Callable[[], object]], callers: int, many: bool, on_gpu: bool) -> Served:
    """``sessions`` are calls of one session for all callers, or of one for each; ``many``: one takes several callers at once."""
    if len(sessions) > 1:
        return Served(name, setup, tuple(sessions), False, on_gpu)
    call = sessions[0] if many else _in_turn(sessions[0])
    return Served(name, setup, (call,) * callers, not many, on_gpu)


def _in_turn(call: Callable[[], object]) -> Callable[[], object]:
    """``call``, one caller at a time."""
    lock = threading.Lock()

    def once() -> object:
        with lock:
            return call()

    return once


def under_load(
    things: Sequence[Served], load: Load, batch: int, seconds: float, progress: Progress = SILENT, clock: Clock = REAL
) -> LoadReport:
    """Closed loops of every thing and number of callers, in turns; then open loops, or the search for the highest rate."""
    load.check()
    load = msgspec.structs.replace(load, seed=drawn_seed(load.seed))
    rounds = max(FEWEST_ROUNDS, round(seconds / BLOCK_SECONDS))
    places = [(thing, callers) for thing in things for callers in load.callers]
    for thing in things:
        for call in dict.fromkeys(thing.calls):
            for _ in range(WARM_CALLS):
                call()
    with progress.task("load", len(places) * (rounds + (load.rate is not None))) as advance:
        rows = closed_loops(places, load, (batch, seconds / rounds, rounds), advance, clock)
        searches: list[RateSearch] = []
        opened: list[LoadRow] = []
        for (thing, callers), closed in zip(places, rows, strict=True):
            if load.rate == "auto":
                searches.append(search(thing, load, closed, seconds, clock))
            elif load.rate is not None:
                opened.append(open_loop(thing, load, (batch, callers), load.window(load.rate, seconds), clock))
            if load.rate is not None:
                advance(1, thing.name)
    return LoadReport((*rows, *opened), tuple(searches), load.budget.text if load.budget else "", load.seed)


def closed_loops(
    places: Sequence[tuple[Served, int]], load: Load, size: tuple[int, float, int], advance: Advance, clock: Clock = REAL
) -> list[LoadRow]:
    """A row for each thing and number of callers, which take turns; ``size``: batch, seconds of a block, blocks."""
    batch, block_seconds, rounds = size
    kept, rates = [Kept() for _ in places], [array("d") for _ in places]
    before = CpuTime.now()
    for _ in range(rounds):
        for (thing, callers), own, rate in zip(places, kept, rates, strict=True):
            _wake(thing)
            calls_ms, per_second = closed_block(thing.calls[:callers], block_seconds, clock)
            own.add(calls_ms)
            rate.append(per_second)
            advance(1, thing.name)
    stolen = before.stolen_until(CpuTime.now())
    return [
        _closed_row(thing, load, (batch, callers, block_seconds * rounds), own, np.asarray(rate), stolen)
        for (thing, callers), own, rate in zip(places, kept, rates, strict=True)
    ]


def closed_block(calls: Sequence[Callable[[], object]], seconds: float, clock: Clock = REAL) -> tuple[array[float], float]:
    """Every caller asks again and again for ``seconds``: milliseconds of each call, and calls a second of all together.

    The seconds are those to the end of the last call, of a caller too that the machine has let begin late.
    """
    own = [array("d") for _ in calls]
    ends = [0 for _ in calls]
    begin = clock.now() + round(LEAD_SECONDS * 1e9)
    end = begin + round(seconds * 1e9)

    def caller(place: int, stopped: Callable[[], bool]) -> None:
        call, samples = calls[place], own[place]
        clock.until(begin)
        before = clock.now()
        while not samples or (before < end and not stopped()):
            call()
            after = clock.now()
            samples.append((after - before) / 1e6)
            before = after
        ends[place] = before

    _together([partial(caller, place) for place in range(len(calls))])
    calls_ms = array("d", [sample for samples in own for sample in samples])
    return calls_ms, len(calls_ms) / (max(ends) - begin) * 1e9


def due_ns(load: Load, window: Window) -> Moments:
    """When each request of a window is due, ascending, in nanoseconds after the beginning.

    Raises UsageError for no request, or for more than are kept.
    """
    rate, seconds, draw = window
    requests = round(rate * seconds)
    if requests < 1:
        raise UsageError(f"{rate:g}/s brings no request in {seconds:g} s", "give a longer --seconds")
    if requests > MOST_REQUESTS:
        raise UsageError(f"{rate:g}/s for {seconds:g} s are more than {MOST_REQUESTS:,} requests", "give a shorter --seconds")
    if load.arrivals == "constant":
        return np.asarray(np.rint(np.arange(requests) * (1e9 / rate)), np.int64)
    drawn = np.random.default_rng((load.seed or 0, draw)).uniform(0, seconds * 1e9, requests)
    return np.sort(drawn).astype(np.int64)


class Requests:
    """The requests of an open loop: when each was due, begun and done, in nanoseconds; callers take the next one in turn.

    ``idle``: a caller was free when it was due. ``served``: a caller has finished it.

    ``bound_ns``: a latency above this is over the budget; once more than ``may_be_over`` are, the rest is not served and it is
    ``lost``.
    """

    def __init__(self, due: Moments, bound_ns: float, may_be_over: int) -> None:
        self.due = due
        self.begun, self.done = np.zeros_like(due), np.zeros_like(due)
        self.idle, self.served = np.zeros(len(due), np.bool_), np.zeros(len(due), np.bool_)
        self._next, self._bound_ns, self._may_be_over = count(), bound_ns, may_be_over
        self._over = count()
        self.lost = False

    def serve(self, call: Callable[[], object], begin: int, clock: Clock, stopped: Callable[[], bool]) -> None:
        """What one caller does: the next request, when it is due or at once, until there is none or it would be too late."""
        last = begin + int(self.due[-1]) + round(PATIENCE_SECONDS * 1e9)
        for place in self._next:  # itertools.count gives each number to one thread
            if place >= len(self.due):
                return
            due = begin + int(self.due[place])
            self.idle[place] = clock.now() <= due
            clock.until(due)
            start = clock.now()
            if start > last or self.lost or stopped():
                return
            call()
            after = clock.now()
            self.begun[place], self.done[place], self.served[place] = start - begin, after - begin, True
            if after - due > self._bound_ns and next(self._over) >= self._may_be_over:
                self.lost = True


def open_loop(thing: Served, load: Load, size: tuple[int, int], window: Window, clock: Clock = REAL) -> LoadRow:
    """Requests in a window, latency from the moment each was due; ``size``: batch and callers.

    In a search the rest is not served once the budget cannot hold any more.
    """
    batch, callers = size
    due = due_ns(load, window)
    bound_ns = load.budget.limit * 1e6 if load.budget and load.rate == "auto" else float("inf")
    may_be_over = int(len(due) * (1 - (load.percent or 0.0) / 100) + 1e-9)
    requests = Requests(due, bound_ns, may_be_over)
    _wake(thing)
    before, begin = CpuTime.now(), clock.now() + round(LEAD_SECONDS * 1e9)
    _together([partial(requests.serve, call, begin, clock) for call in thing.calls[:callers]])
    stolen = before.stolen_until(CpuTime.now())
    return _open_row(thing, load, (batch, callers), window, (requests, stolen))


def search(thing: Served, load: Load, closed: LoadRow, seconds: float, clock: Clock = REAL) -> RateSearch:
    """The highest rate that holds the budget, between what a minute supports and what the closed loop reaches."""
    assert load.budget is not None
    assert load.percent is not None
    tried: list[LoadRow] = []
    ceiling, lowest = closed.throughput, samples_needed(load.percent) / MOST_WINDOW_SECONDS

    def holds(rate: float, draw: int) -> bool:
        row = open_loop(thing, load, (closed.batch, closed.callers), load.window(rate, seconds, draw), clock)
        tried.append(msgspec.structs.replace(row, samples_ms=()))
        return row.held is True

    rate = highest_rate(holds, ceiling, lowest)
    why = "" if rate is not None else _why_none(load.budget, ceiling, lowest, tried)
    return RateSearch(thing.name, closed.callers, load.budget.text, ceiling, rate, tuple(tried), why)


def highest_rate(holds: Callable[[float, int], bool], ceiling: float, lowest: float) -> float | None:
    """Bisect for the highest rate that ``holds(rate, draw)``, to within 5 %: one that holds once more with other arrivals.

    None where no rate between ``lowest`` and ``ceiling``, in requests a second, does.
    """
    best, high = 0.0, ceiling * ABOVE
    held: list[float] = []
    for _ in range(STEPS):
        rate = (best + high) / 2
        if rate < lowest or high <= best * RESOLUTION:
            break
        if holds(rate, 0):
            best = rate
            held.append(rate)
        else:
            high = rate
    return next((rate for rate in reversed(held) if holds(rate, 1)), None)


def _why_none(budget: Budget, ceiling: float, lowest: float, tried: Sequence[LoadRow]) -> str:
    if not tried:
        return (
            f"{budget.key} takes at least {lowest:.3g} requests a second to be known in a minute, and the closed loop reaches "
            f"{ceiling:.3g}; bound one that takes fewer, like median"
        )
    least = min(tried, key=lambda row: row.rate or 0.0)
    return f"already at {least.rate:.3g}/s {least.over or 0:.1%} of the requests are slower"


def _together(bodies: Sequence[Body]) -> None:
    """A thread for each body, which asks now and then whether it is to stop: where one fails, or at Ctrl-C, all are."""
    stop = threading.Event()

    def guarded(body: Body) -> None:
        try:
            body(stop.is_set)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(len(bodies)) as threads:
        futures = [threads.submit(guarded, body) for body in bodies]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            raise


def _wake(thing: Served) -> None:
    wake(Candidate(thing.name, thing.calls[0], {}, thing.on_gpu), REWAKE_SECONDS)


def nearest_ranks(ascending: Vector, requests: int) -> tuple[Percentile, ...]:
    """The median, P90 and P99 of ``requests``, of which those that are not among ``ascending`` were never served.

    By nearest rank: the smallest latency that at least so many percent are no slower than, so that a bound on a percentile
    holds exactly where no more than the rest is slower.
    """
    points = []
    for percent in BOUNDED.values():
        needed = samples_needed(percent)
        rank = int(np.ceil(requests * percent / 100 - 1e-9))
        ms = float(ascending[rank - 1]) if requests >= needed and 1 <= rank <= len(ascending) else None
        points.append(Percentile(percent, ms, needed))
    return tuple(points)


def _of_either_loop(
    thing: Served, load: Load, size: tuple[int, int, float], latency_ms: Vector, counts: tuple[int, int]
) -> dict[str, Any]:
    """What a row of both loops has: who was called by whom, and whether that holds the budget.

    ``size``: batch, callers, seconds. ``counts``: requests, and how many of them were not served, which are over any budget.
    """
    (batch, callers, seconds), (requests, unserved) = size, counts
    over = None
    if load.budget is not None:
        over = (int((latency_ms > load.budget.limit).sum()) + unserved) / (len(latency_ms) + unserved)
    return {
        "backend": thing.name,
        "setup": thing.setup,
        "batch": batch,
        "callers": callers,
        "sessions": load.sessions,
        "one_at_a_time": thing.one_at_a_time,
        "seconds": seconds,
        "requests": requests,
        "unserved": unserved,
        "over": over,
        "held": None if load.percent is None or over is None else _holds(over, load.percent, requests),
    }


def _closed_row(thing: Served, load: Load, size: tuple[int, int, float], own: Kept, rates: Vector, stolen: float) -> LoadRow:
    """A closed loop: nobody waits, and the rate is what came out, block by block."""
    samples = np.sort(np.asarray(own.flat))
    low, high = median_interval(rates)
    medians = np.asarray([np.median(block) for block in own.blocks])
    return LoadRow(
        **_of_either_loop(thing, load, size, samples, (own.calls, 0)),
        rate=None,
        arrivals=None,
        waited=0.0,
        throughput=float(np.median(rates)),
        throughput_low=low,
        throughput_high=high,
        latency=nearest_ranks(samples, len(samples)),
        slowest_ms=own.slowest_ms,
        service_ms=float(np.median(samples)),
        woke_late_us=None,
        noise=noise(medians, stolen),
        samples_ms=own.blocks,
    )


def _open_row(thing: Served, load: Load, size: tuple[int, int], window: Window, outcome: tuple[Requests, float]) -> LoadRow:
    """An open loop: latency counts from when a request was due, and who was not served is counted as slower than all."""
    requests, stolen = outcome
    finished = requests.served
    latency_ms = (requests.done - requests.due)[finished] / 1e6
    late_us = (requests.begun - requests.due)[finished & requests.idle] / 1e3
    counts = len(finished), int((~finished).sum())
    span = max(float(requests.done.max()) / 1e9, window.seconds)
    return LoadRow(
        **_of_either_loop(thing, load, (*size, window.seconds), latency_ms, counts),
        rate=window.rate,
        arrivals=load.arrivals,
        waited=float((~requests.idle[finished]).mean()) if finished.any() else 1.0,
        throughput=int(finished.sum()) / span,
        throughput_low=None,
        throughput_high=None,
        latency=nearest_ranks(np.sort(latency_ms) if not requests.lost else np.zeros(0), len(finished)),
        slowest_ms=float(latency_ms.max()) if len(latency_ms) else 0.0,
        service_ms=float(np.median((requests.done - requests.begun)[finished])) / 1e6 if finished.any() else 0.0,
        woke_late_us=float(np.median(late_us)) if len(late_us) else None,
        noise=_steadiness(latency_ms, stolen),
        samples_ms=(tuple(latency_ms.tolist()),),
        lost=requests.lost,
    )


def _holds(over: float, percent: float, requests: int) -> bool:
    """Whether no more than the rest is slower, of enough requests for the percentile."""
    return requests >= samples_needed(percent) and over <= 1 - percent / 100 + 1e-12


def _steadiness(latency_ms: Vector, stolen: float) -> str:
    """A queue that grows shows as a drift of the latencies, in the order in which the requests were due."""
    if len(latency_ms) < 3 * CHUNKS:
        return noise(np.ones(1), stolen)
    return noise(np.asarray([np.median(chunk) for chunk in np.array_split(latency_ms, CHUNKS)]), stolen)


def parse_callers(text: str) -> tuple[int, ...]:
    """``1,2,4``; raises UsageError for anything else."""
    callers = whole_numbers(text.split(","))
    if callers is None or not all(1 <= number <= MOST_CALLERS for number in callers):
        raise UsageError(f"--concurrency {text!r} is no list of callers", f"give numbers from 1 to {MOST_CALLERS} like 1,2,4")
    return tuple(dict.fromkeys(callers))


def parse_rate(text: str) -> float | Literal["auto"]:
    """``200/s``, ``200`` or ``auto``; raises UsageError for anything else."""
    if text.strip().lower() == "auto":
        return "auto"
    rate = decimal(text.strip().removesuffix("/s"))
    if rate is None:
        raise UsageError(f"--rate {text!r} is no rate", "write it like 200/s, or auto")
    if not 0 < rate <= 1e6:
        raise UsageError(f"--rate {text!r} is no rate", "give requests a second above 0, up to 1000000")
    return rate
