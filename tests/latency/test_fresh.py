"""One setup in a process of its own: what is measured, by which calls, and what becomes of a process that fails."""

from __future__ import annotations

import mmap
import os
import statistics
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekit.latency.fresh
from edgekit.backends.contract import Opened
from edgekit.errors import ModelError
from edgekit.latency.fresh import (
    FIRST_CALLS,
    FIRST_SECONDS,
    LOAD_SECONDS,
    TIMES,
    Fresh,
    Order,
    carry_out,
    first_calls,
    main,
    thinned,
    time_fresh,
)
from edgekit.machine.child import Failure, Limits
from edgekit.machine.memory import forget_peak, peak_memory, resident_memory
from edgekit.setups import Setup
from tests.latency.turned_clock import Clock, candidate, fake
from tests.ways import way

MIB = 1 << 20


def test_a_setup_is_timed_in_a_process_of_its_own(bundle: Path) -> None:
    timed = time_fresh(bundle, way("ort-cpu", threads=1), 3, "end-to-end", 0.01)
    assert isinstance(timed, Fresh)
    assert (timed.batch, timed.boundary, timed.facts["threads"]) == (3, "end-to-end", "1")
    assert timed.calls >= 5
    assert timed.median_ms == statistics.median(timed.samples_ms)
    full = sum(timed.first_calls_ms) >= FIRST_SECONDS * 1e3  # where other work holds the cores for so long
    assert len(timed.first_calls_ms) == FIRST_CALLS or full
    assert timed.first_ms == timed.first_calls_ms[0] > 0
    assert timed.load_ms > 0
    assert timed.memory_load_bytes > MIB  # the runtime's libraries, which the child had to load
    assert timed.memory_peak_bytes is None or timed.memory_peak_bytes > timed.memory_load_bytes
    assert msgspec.convert(msgspec.to_builtins(timed), Fresh) == timed


def test_the_child_takes_its_calls_by_the_loop_of_bench(bundle: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow first calls are kept apart and reach no median."""
    seen: list[int] = []
    opened = fake("A", clock, 2, seen)
    monkeypatch.setattr(edgekit.latency.fresh, "open_named", lambda name, setup, bundle: opened)
    work = clock.work("run", lambda: 2 if len(clock.calls) > FIRST_CALLS else 30)
    monkeypatch.setattr(opened.session, "run", lambda feed: work())
    timed = carry_out(Order(str(bundle), Setup("A"), 1, "end-to-end", 0.5, os.getcwd()))
    assert timed.first_calls_ms == (30.0,) * FIRST_CALLS
    assert (timed.median_ms, set(timed.samples_ms), timed.noise) == (2.0, {2.0}, "stable")
    assert timed.calls == 250  # half a second of calls of 2 ms
    assert timed.facts == {"made of": "A"}


def test_the_first_calls_are_as_many_as_a_second_has_room_for(clock: Clock) -> None:
    assert first_calls(candidate(clock, "fast", lambda: 1)) == (1.0,) * FIRST_CALLS
    assert first_calls(candidate(clock, "slow", lambda: 400)) == (400.0,) * 3
    assert first_calls(candidate(clock, "slowest", lambda: 5000)) == (5000.0,)


@given(st.integers(0, 2000), st.integers(1, 50))
def test_thinned_samples_are_few_and_lie_evenly_in_what_they_are_of(count: int, most: int) -> None:
    samples = tuple(map(float, range(count)))
    kept = thinned(samples, most)
    assert len(kept) <= most
    assert kept[:1] == samples[:1]
    assert len(set(np.diff(kept))) <= 1
    assert kept == samples or 2 * len(kept) + 2 > most  # no more are left out than have to be


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        (Setup("ort-cpu", variant="half"), "half"),
        (Setup("ort-cpu", options={"optimisation": "none"}), "use one of off, basic, extended, all"),
        (Setup("nowhere"), "no backend 'nowhere'; use one of torch"),
    ],
)
def test_a_setup_that_cannot_run_is_the_childs_own_sentence(bundle: Path, setup: Setup, expected: str) -> None:
    failure = time_fresh(bundle, setup, 1, "end-to-end", 0.01)
    assert isinstance(failure, Failure)
    assert failure.kind == "exit"
    assert expected in failure.sentence()
    assert "Error" not in failure.sentence()


def test_a_process_over_its_limit_is_a_failure(bundle: Path) -> None:
    failure = time_fresh(bundle, way("ort-cpu"), 1, "end-to-end", 0.01, Limits(0.001))
    assert isinstance(failure, Failure)
    assert failure.reason("ort-cpu") == "ort-cpu takes longer than 0.001 s"
    assert failure.remedy == "set EDGEKIT_SECONDS to the seconds that it may take"


def test_the_user_may_lengthen_the_limit_of_a_process_and_not_shorten_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds that are fewer are meant for the check of a file."""
    granted = []

    def run_child(module: str, words: tuple[str, ...], limits: Limits, key: str) -> Failure:
        granted.append(limits.seconds)
        return Failure("time", f"takes longer than {limits.seconds:g} s")

    monkeypatch.setattr(edgekit.latency.fresh, "run_child", run_child)
    for seconds in ("1", "5000"):
        monkeypatch.setenv("EDGEKIT_SECONDS", seconds)
        assert isinstance(time_fresh(bundle, way("ort-cpu"), 1, "end-to-end", 2.0), Failure)
    assert granted == [LOAD_SECONDS + 2 * TIMES, 5000]


def test_relative_paths_are_meant_from_the_callers_folder(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    timed = time_fresh(Path(bundle.name), way("ort-cpu", threads=1), 1, "device", 0.01)
    assert isinstance(timed, Fresh), timed.sentence()
    assert timed.boundary == "device"


def test_an_error_of_edgekits_is_one_line_and_a_fault_of_ours_is_a_traceback(tmp_path: Path) -> None:
    order = msgspec.json.encode(Order("b", Setup("x"), 1, "device", 1.0, str(tmp_path))).decode()

    def refuse(wanted: Order) -> Fresh:
        raise ModelError(f"{wanted.bundle} is\nno bundle", "give one")

    def break_down(wanted: Order) -> Fresh:
        raise ZeroDivisionError

    here = os.getcwd()
    try:
        with pytest.raises(SystemExit, match=r"^b is no bundle; give one$"):
            main(order, refuse)
        with pytest.raises(ZeroDivisionError):
            main(order, break_down)
    finally:
        os.chdir(here)


def hold_for_a_moment(size: int) -> None:
    """Take and give back `size` bytes past the allocator, which may keep what it is given (as it does after a training)."""
    with mmap.mmap(-1, size) as held:
        for page in range(0, size, mmap.PAGESIZE):
            held[page] = 1


def test_the_peak_of_memory_is_what_was_taken_since_it_was_forgotten() -> None:
    if peak_memory() is None:
        pytest.skip("this system tells no peak")
    hold_for_a_moment(64 * MIB)
    forget_peak()
    before = peak_memory() or 0
    if before > resident_memory() + 8 * MIB:
        pytest.skip("this system forgets no peak")
    hold_for_a_moment(256 * MIB)
    assert (peak_memory() or 0) - before > 200 * MIB
    assert resident_memory() < (peak_memory() or 0) - 200 * MIB


def test_a_closed_session_is_closed_where_the_timing_fails(bundle: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    opened = fake("A", clock, 1, [])
    monkeypatch.setattr(Opened, "__exit__", lambda self, *rest: closed.append(self.name))
    monkeypatch.setattr(opened.session, "run", lambda feed: 1 / 0)
    monkeypatch.setattr(edgekit.latency.fresh, "open_named", lambda name, setup, bundle: opened)
    with pytest.raises(ZeroDivisionError):
        carry_out(Order(str(bundle), Setup("A"), 1, "end-to-end", 0.05, os.getcwd()))
    assert closed == ["A"]
