"""Callers at once, and requests at a rate: on time that the tests turn, so that a stall is a stall on any machine."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
from rich.console import Console

import edgekit.latency.load
from edgekit.budgets import Budget, parse_budget
from edgekit.errors import ModelError, UsageError
from edgekit.latency.load import (
    Load,
    Served,
    Window,
    closed_block,
    due_ns,
    highest_rate,
    nearest_ranks,
    open_loop,
    parse_callers,
    parse_rate,
    served,
    under_load,
)
from edgekit.machine.cpu import CpuTime
from edgekit.reports.console import draw
from edgekit.reports.load import LoadReport, LoadRow
from edgekit.reports.percentile import BOUNDED
from edgekit.setups import Setup
from tests.latency.virtual_time import MS, VirtualTime

STALLS_AT, STALL = 400 * MS, 300


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    virtual = VirtualTime()
    monkeypatch.setattr(edgekit.latency.load, "_together", partial(virtual.together, edgekit.latency.load._together))
    monkeypatch.setattr(CpuTime, "now", lambda: CpuTime(0.0, 0.0, 0.0))
    return virtual


def budget(text: str) -> Budget:
    return parse_budget(text, BOUNDED)


def thing(call: Callable[[], object], callers: int = 1) -> Served:
    return Served("A", Setup("A"), (call,) * callers)


def stalling(clock: VirtualTime) -> Callable[[], None]:
    """Half a millisecond a call, and once 300 ms."""
    stalled: list[bool] = []
    stalls_at = clock.now() + STALLS_AT

    def ms() -> float:
        if clock.now() < stalls_at or stalled:
            return 0.5
        stalled.append(True)
        return STALL

    return clock.work(ms)


def p99(row: LoadRow) -> float:
    return {point.percent: point.ms for point in row.latency}[99.0] or 0.0


def test_the_open_loop_counts_the_wait_behind_a_stall_and_a_closed_one_omits_it(clock: VirtualTime) -> None:
    """A server that stalls for 0.3 s of one: three requests in ten come meanwhile, and nobody asks in the closed loop."""
    opened = open_loop(thing(stalling(clock)), Load(arrivals="constant"), (1, 1), Window(1000.0, 1.0), clock)
    assert p99(opened) > 0.9 * STALL
    assert opened.waited > 0.3
    assert opened.service_ms == 0.5
    calls_ms, _ = closed_block([stalling(clock)], 1.0, clock)
    assert p99_of(calls_ms) == 0.5
    assert max(calls_ms) == STALL


def p99_of(calls_ms: Any) -> float:
    points = {point.percent: point.ms for point in nearest_ranks(np.sort(np.asarray(calls_ms)), len(calls_ms))}
    return points[99.0] or 0.0


def test_each_caller_asks_again_when_it_has_its_answer(clock: VirtualTime) -> None:
    """Calls that do not hinder each other: four callers get four times as many, each as fast as before."""
    for callers in (1, 4):
        calls_ms, per_second = closed_block([clock.work(lambda: 2)] * callers, 1.0, clock)
        assert (len(calls_ms), set(calls_ms)) == (500 * callers, {2.0})
        assert per_second == pytest.approx(500 * callers)


def test_callers_of_what_serves_one_at_a_time_wait_for_each_other(clock: VirtualTime) -> None:
    calls_ms, per_second = closed_block([clock.server(lambda: 2)] * 4, 1.0, clock)
    assert per_second == pytest.approx(500, rel=0.01)
    assert np.median(calls_ms) == 8.0


def test_a_row_for_each_number_of_callers_in_turns(clock: VirtualTime) -> None:
    names: list[str] = []

    def named(name: str, ms: float) -> Served:
        work = clock.work(lambda: ms)

        def call() -> None:
            names.append(name)
            work()

        return Served(name, Setup(name), (call, call))

    report = under_load([named("A", 1), named("B", 4)], Load((1, 2)), 3, 1.0, clock=clock)
    assert [(row.backend, row.callers, round(row.throughput)) for row in report.rows] == [
        ("A", 1, 1000), ("A", 2, 2000), ("B", 1, 250), ("B", 2, 500),
    ]  # fmt: skip
    assert {(row.batch, row.rate, row.held, row.unserved) for row in report.rows} == {(3, None, None, 0)}
    assert [row.requests for row in report.rows] == [sum(map(len, row.samples_ms)) for row in report.rows]
    assert {len(row.samples_ms) for row in report.rows} == {5}  # rounds
    turns = "".join(name for place, name in enumerate(names[6:]) if place == 0 or names[6:][place - 1] != name)
    assert turns == "AB" * 5
    assert report.passed
    assert list(report.cases()) == []


def test_requests_are_due_at_drawn_moments_of_which_there_are_exactly_as_many_as_the_rate_says() -> None:
    due = due_ns(Load(), Window(200.0, 5.0, 0))
    assert len(due) == 1000
    assert (np.diff(due) >= 0).all()
    assert due[0] >= 0
    assert due[-1] < 5e9
    assert np.std(np.diff(due)) == pytest.approx(np.mean(np.diff(due)), rel=0.2)  # exponential gaps
    np.testing.assert_array_equal(due, due_ns(Load(), Window(200.0, 5.0, 0)))
    assert (due != due_ns(Load(), Window(200.0, 5.0, 1))).any()
    constant = due_ns(Load(arrivals="constant"), Window(200.0, 5.0, 0))
    assert (len(constant), set(np.diff(constant))) == (1000, {5 * MS})
    assert np.std(np.diff(constant)) < 0.2 * np.mean(np.diff(constant))


@pytest.mark.parametrize(("rate", "seconds", "said"), [(0.1, 1.0, "no request"), (1e6, 60.0, "more than 1,048,576 requests")])
def test_a_rate_that_brings_none_or_too_many_is_refused(rate: float, seconds: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        due_ns(Load(), Window(rate, seconds, 0))


def test_with_room_to_spare_a_request_takes_what_its_call_takes(clock: VirtualTime) -> None:
    row = open_loop(thing(clock.work(lambda: 2)), Load(arrivals="constant"), (1, 1), Window(100.0, 1.0), clock)
    assert (row.requests, row.unserved, row.waited, row.slowest_ms, row.service_ms, row.woke_late_us) == (100, 0, 0, 2, 2, 0)
    assert [point.ms for point in row.latency] == [2.0, 2.0, None]  # a hundred are too few for P99
    assert row.throughput == pytest.approx(100, rel=0.01)
    assert row.noise == "stable"


def test_a_second_caller_halves_the_wait(clock: VirtualTime) -> None:
    def waited(callers: int) -> float:
        own = thing(clock.work(lambda: 8), callers)
        return open_loop(own, Load(), (1, callers), Window(100.0, 10.0), clock).waited

    assert waited(1) > 1.5 * waited(2) > 0


def test_more_than_it_can_serve_shows_as_unserved_and_a_growing_queue(clock: VirtualTime) -> None:
    row = open_loop(thing(clock.work(lambda: 10)), Load(arrivals="constant"), (1, 1), Window(1000.0, 2.0), clock)
    assert row.requests == 2000
    assert row.unserved == pytest.approx(2000 - 300, abs=5)  # a hundred a second, for the window and a second of patience
    assert [point.ms for point in row.latency] == [None] * 3
    assert row.noise.startswith("noisy: drift")
    assert row.throughput == pytest.approx(100, rel=0.02)


def test_percentiles_are_by_nearest_rank_of_all_requests_those_never_served_too() -> None:
    def of(served: int, requests: int) -> list[float | None]:
        return [point.ms for point in nearest_ranks(np.arange(1.0, served + 1), requests)]

    assert of(1000, 1000) == [500, 900, 990]
    assert of(990, 1000) == [500, 900, 990]
    assert of(989, 1000) == [500, 900, None]
    assert of(300, 1000) == [None, None, None]
    assert of(100, 100) == [50, 90, None]


def test_a_budget_holds_exactly_where_its_percentile_is_within_it(clock: VirtualTime) -> None:
    """Ten calls in a thousand may be slower than P99's bound; with eleven it no longer holds."""

    def row(slow: int) -> LoadRow:
        numbers = iter(range(10_000))
        call = clock.work(lambda: 9 if next(numbers) in range(0, 10 * slow, 10) else 1)
        return open_loop(thing(call), Load(arrivals="constant", budget=budget("p99=5ms")), (1, 1), Window(100.0, 10.0), clock)

    ten, eleven = row(10), row(11)
    assert (ten.over, ten.held, p99(ten)) == (0.01, True, 1.0)
    assert (eleven.held, eleven.over is not None and eleven.over > 0.01) == (False, True)
    assert LoadReport((ten,), (), "p99=5ms").passed
    assert not LoadReport((ten, eleven), (), "p99=5ms").passed


def test_too_few_requests_hold_no_percentile(clock: VirtualTime) -> None:
    load = Load(arrivals="constant", budget=budget("p99=5ms"))
    assert open_loop(thing(clock.work(lambda: 1)), load, (1, 1), Window(100.0, 1.0), clock).held is False
    assert load.window(100.0, 1.0).seconds == pytest.approx(6.62, abs=0.01)
    assert load.window(1000.0, 1.0) == Window(1000.0, 1.0)
    assert load.window(0.1, 1.0).seconds == 60
    assert Load().window(100.0, 1.0).seconds == 1.0


def test_in_a_search_a_rate_that_has_lost_is_not_served_to_its_end(clock: VirtualTime) -> None:
    def row(rate: Literal["auto"] | float) -> LoadRow:
        load = Load(arrivals="constant", budget=budget("p99=5ms"), rate=rate)
        return open_loop(thing(clock.work(lambda: 20)), load, (1, 1), Window(100.0, 10.0), clock)

    searched, asked_for = row("auto"), row(100.0)
    assert (searched.held, searched.lost, searched.requests - searched.unserved) == (False, True, 11)  # one in a hundred may be
    assert [point.ms for point in searched.latency] == [None] * 3  # those served say nothing of the others
    assert (asked_for.held, asked_for.lost, asked_for.requests - asked_for.unserved) == (False, False, 550)


def test_the_search_ends_near_the_highest_rate_that_holds() -> None:
    asked: list[float] = []

    def holds(rate: float, draw: int) -> bool:
        asked.append(rate)
        return rate <= 730

    found = highest_rate(holds, 1000.0, 1.0)
    assert found is not None
    assert 730 / 1.05 <= found <= 730
    assert len(asked) <= 8
    assert asked[-1] == found  # once more, with other arrivals


def test_a_rate_that_holds_by_luck_once_gives_way_to_the_next_lower() -> None:
    found = highest_rate(lambda rate, draw: rate <= (900, 600)[draw], 1000.0, 1.0)
    assert found is not None
    assert found <= 600


def test_where_no_rate_holds_there_is_none_and_rates_that_tell_nothing_are_not_tried() -> None:
    asked: list[float] = []

    def holds(rate: float, draw: int) -> bool:
        asked.append(rate)
        return rate < 20

    assert highest_rate(holds, 1000.0, 30.0) is None
    assert min(asked) >= 30
    assert highest_rate(holds, 10.0, 30.0) is None
    assert min(asked) >= 30


def test_the_search_finds_what_a_server_of_known_speed_holds(clock: VirtualTime) -> None:
    """A millisecond a request at constant arrivals: a thousand a second, and not one more."""
    load = Load(rate="auto", arrivals="constant", budget=budget("p99=1.5ms"))
    report = under_load([thing(clock.server(lambda: 1))], load, 1, 1.0, clock=clock)
    (found,) = report.searches
    assert found.ceiling == pytest.approx(1000)
    assert found.rate is not None
    assert 950 <= found.rate <= 1000
    assert report.passed
    assert {row.held for row in found.tried} == {True, False}
    assert not any(row.samples_ms for row in found.tried)
    (case,) = report.cases()
    assert case.passed


def test_a_budget_below_the_call_itself_fails_and_says_by_how_much(clock: VirtualTime) -> None:
    load = Load(rate="auto", arrivals="constant", budget=budget("p99=0.5ms"))
    report = under_load([thing(clock.server(lambda: 1))], load, 1, 1.0, clock=clock)
    assert not report.passed
    assert report.searches[0].why.endswith("of the requests are slower")
    slow = under_load([thing(clock.server(lambda: 500))], load, 1, 1.0, clock=clock)
    assert "bound one that takes fewer, like median" in slow.searches[0].why


def test_a_row_that_is_searched_from_is_not_judged_itself(clock: VirtualTime) -> None:
    """Four callers of one server wait four times as long in the closed loop; a lower rate holds all the same."""
    load = Load((4,), rate="auto", arrivals="constant", budget=budget("p99=2ms"))
    report = under_load([thing(clock.server(lambda: 1), 4)], load, 1, 1.0, clock=clock)
    assert report.rows[0].held is False
    assert report.passed


# on real threads


def test_a_session_for_one_caller_at_a_time_is_given_a_lock() -> None:
    inside, most = [0], [0]

    def call() -> None:
        inside[0] += 1
        most[0] = max(most)
        most.append(inside[0])
        inside[0] -= 1

    locked = served("A", Setup("A"), [call], 4, many=False, on_gpu=False)
    assert locked.one_at_a_time
    closed_block(locked.calls, 0.02)
    assert max(most) == 1


def test_callers_of_a_session_for_many_are_inside_at_once_and_the_lock_would_have_shown() -> None:
    together = threading.Barrier(2, timeout=600)
    free = served("A", Setup("A"), [together.wait], 2, many=True, on_gpu=False)
    assert not free.one_at_a_time
    calls_ms, _ = closed_block(free.calls, 1e-9)
    assert len(calls_ms) == 2
    held = threading.Barrier(2, timeout=0.01)
    with pytest.raises(threading.BrokenBarrierError):
        closed_block(served("A", Setup("A"), [held.wait], 2, many=False, on_gpu=False).calls, 1e-9)


def test_each_caller_has_a_session_of_its_own_where_there_are_several() -> None:
    seen: list[str] = []
    own = served("A", Setup("A"), [partial(seen.append, "first"), partial(seen.append, "second")], 2, many=False, on_gpu=False)
    assert not own.one_at_a_time
    closed_block(own.calls, 1e-9)
    assert set(seen) == {"first", "second"}


@pytest.mark.parametrize("rate", [None, 50.0])
def test_an_error_of_one_caller_ends_all_and_is_the_error(rate: float | None) -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        if len(calls) > 5:
            raise ModelError("the fifth call fails", "mend it")

    def loop() -> object:
        if rate is None:
            return closed_block((call, call), 3600.0)
        return open_loop(thing(call, 2), Load(arrivals="constant"), (1, 2), Window(rate, 3600.0))

    with pytest.raises(ModelError, match="the fifth call fails"):
        loop()


def test_the_machines_clock_returns_when_the_moment_has_come() -> None:
    clock = edgekit.latency.load.REAL
    moment = clock.now() + MS
    clock.until(moment)
    assert clock.now() >= moment
    clock.until(0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Load(()), "numbers of callers"),
        (lambda: Load((0,)), "numbers of callers"),
        (lambda: Load((257,)), "whole numbers from 1 to 256"),
        (lambda: Load(rate="auto").check(), "add one like --budget p99=5ms"),
        (lambda: Load(rate=0.0), "no rate"),
        (lambda: Load(budget=parse_budget("size=5MB", ["size"])), "bound median or p90 or p99"),
        (lambda: parse_callers("1,two"), "give numbers from 1 to 256 like 1,2,4"),
        (lambda: parse_callers("0"), "is no list of callers"),
        (lambda: parse_callers("1,257"), "is no list of callers"),
        (lambda: parse_callers("٣"), "is no list of callers"),
        (lambda: parse_rate("1_0/s"), "no rate"),
        (lambda: parse_rate("٣/s"), "no rate"),
        (lambda: parse_callers(""), "is no list of callers"),
        (lambda: parse_rate("fast"), "write it like 200/s, or auto"),
        (lambda: parse_rate("-3/s"), "no rate"),
        (lambda: parse_rate("nan"), "no rate"),
    ],
)
def test_what_is_no_load_is_one_sentence(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


def test_rates_and_callers_are_read() -> None:
    assert parse_callers("1, 2,4,2") == (1, 2, 4)
    assert [parse_rate(text) for text in ("200/s", "0.5", " AUTO ")] == [200.0, 0.5, "auto"]


# what a reader sees


def drawn(report: LoadReport, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    draw(report.page(), console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]  # the console writes into a StringIO


def test_the_page_tells_closed_and_open_loops_apart_and_what_the_numbers_mean(clock: VirtualTime) -> None:
    load = Load((1, 2), rate=200.0, budget=budget("p99=30ms"))
    text = drawn(under_load([thing(clock.server(lambda: 2), 2)], load, 1, 1.0, clock=clock))
    assert "closed loop, batch 1, one session for all callers, end-to-end, in ms" in text
    assert "open loop, poisson arrivals, batch 1" in text
    assert "200/s" in text
    assert "budget of p99=30ms under load: pass" in text
    assert text.count("pass") == 3  # the open loop is judged, and not the closed one
    assert "latency counts from the moment one was due" in " ".join(text.split())


def test_the_page_of_an_overload_says_never_and_that_of_a_search_which_rates_were_stopped(clock: VirtualTime) -> None:
    own = thing(clock.server(lambda: 10))
    text = drawn(under_load([own], Load(rate=1000.0, arrivals="constant", sessions="own"), 1, 2.0, clock=clock))
    assert "never: so many requests were not served" in text
    assert "85." in text  # percent of them
    assert "a session for each caller" in text
    assert "[1] noisy: drift" in text
    search = under_load([own], Load(rate="auto", arrivals="constant", budget=budget("median=15ms")), 1, 2.0, clock=clock)
    assert "stopped: when more were slower than the budget than may be" in drawn(search)
    assert "A, 1 caller, median=15ms holds up to: " in drawn(search)
    assert "of the closed loop's" in drawn(search)
    nothing = under_load([own], Load(rate="auto", arrivals="constant", budget=budget("median=5ms")), 1, 2.0, clock=clock)
    assert "holds up to: none; already at" in drawn(nothing)


def test_a_session_for_one_caller_is_said_to_be_one_and_every_table_fits_80_columns(clock: VirtualTime) -> None:
    alone = thing(clock.server(lambda: 2), 2)._replace(one_at_a_time=True)
    report = under_load([alone], Load((1, 2), rate="auto", budget=budget("p90=30ms")), 1, 1.0, clock=clock)
    text = drawn(report, width=80)
    assert "A takes one caller at a time" in text
    assert max(map(len, text.splitlines())) <= 80
    free = under_load([alone._replace(one_at_a_time=False)], Load((1, 2)), 1, 1.0, clock=clock)
    assert "A takes one caller" not in drawn(free)
