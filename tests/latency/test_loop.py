"""Candidates take turns in blocks, and every recorded call is kept."""

from __future__ import annotations

import math
from functools import partial
from itertools import groupby

import pytest

from edgekit.latency.loop import BOUNDARIES, Timing, interleave, overhead_us, time_block, time_sessions
from edgekit.latency.statistics import speedups
from tests.latency.turned_clock import Clock, candidate, fake


def test_candidates_take_turns_in_blocks(clock: Clock) -> None:
    interleave([candidate(clock, name, lambda: 1) for name in "ABC"], 1, "device", 1.0)
    turns = [name for name, _ in groupby(clock.calls)]
    assert turns == list("ABC") * 11  # one round to warm up, ten to record
    assert {len(list(calls)) for name, calls in groupby(clock.calls)} == {100, 110}


def test_short_measurements_still_take_five_rounds(clock: Clock) -> None:
    rows = interleave([candidate(clock, name, lambda: 1) for name in "AB"], 1, "device", 0.01)
    assert [len(row.samples_ms) for row in rows] == [5, 5]
    assert [name for name, _ in groupby(clock.calls)] == list("AB") * 6


def test_every_recorded_call_is_kept_and_warm_ups_are_kept_apart(clock: Clock) -> None:
    (only,) = interleave([candidate(clock, "A", lambda: 1)], 4, "device", 1.0)
    assert only.count == sum(map(len, only.samples_ms)) == 1000
    assert only.count + len(only.warmups_ms) == len(clock.calls)
    assert set(only.warmups_ms) | {sample for block in only.samples_ms for sample in block} == {1.0}
    assert (only.backend, only.batch, only.boundary, only.facts) == ("A", 4, "device", {"runtime": "A"})


def test_each_candidate_gets_the_seconds_asked_for_whatever_its_speed(clock: Clock) -> None:
    rows = interleave([candidate(clock, "fast", lambda: 1), candidate(clock, "slow", lambda: 4)], 1, "device", 2.0)
    assert [sum(map(sum, row.samples_ms)) / 1e3 for row in rows] == [2.0, 2.0]
    assert [row.count for row in rows] == [2000, 500]


def test_calls_made_slow_by_the_other_candidates_turn_are_not_recorded(clock: Clock) -> None:
    def cold(name: str) -> float:
        return 9 if clock.calls[-2:-1] != [name] else 1

    rows = interleave([candidate(clock, name, partial(cold, name)) for name in "AB"], 1, "device", 1.0)
    for row in rows:
        assert 9 in row.warmups_ms
        assert {sample for block in row.samples_ms for sample in block} == {1.0}


def test_a_drift_of_the_machine_hits_both_alike_and_leaves_the_ratio(clock: Clock) -> None:
    def slower() -> float:
        return 1 + clock.now / 4e9

    rows = interleave([candidate(clock, "A", lambda: 2 * slower()), candidate(clock, "B", slower)], 1, "device", 1.0)
    assert all(row.noise.startswith("noisy: drift, the last third takes ") for row in rows)
    assert rows[0].median_ms > 2 * 1.1  # the numbers themselves moved
    (found,) = speedups(rows)
    assert found.speedup == pytest.approx(2, abs=0.1)


def test_nothing_is_clipped(clock: Clock) -> None:
    def spiky() -> float:
        return 80 if len(clock.calls) % 100 == 0 else 1

    (only,) = interleave([candidate(clock, "A", spiky)], 1, "device", 2.0)
    assert max(map(max, only.samples_ms)) == 80
    assert only.cov > 1


def test_a_block_makes_at_least_one_call_and_at_most_a_thousand(clock: Clock) -> None:
    assert time_block(clock.work("A", lambda: 50), 0.01) == (50.0,)
    assert len(time_block(clock.work("A", lambda: 1e-6), 10)) == 1000


def test_every_batch_and_boundary_is_timed_for_every_runtime_with_that_batch(clock: Clock) -> None:
    seen: list[int] = []
    rows, comparisons = time_sessions([fake("A", clock, 2, seen), fake("B", clock, 1, seen)], Timing((1, 8), seconds=0.05))
    expected = [(batch, boundary, name) for batch in (1, 8) for boundary in BOUNDARIES for name in "AB"]
    assert [(row.batch, row.boundary, row.backend) for row in rows] == expected
    assert set(BOUNDARIES) == {"device", "end-to-end"}
    assert [row.facts for row in rows[:2]] == [{"made of": "A"}, {"made of": "B"}]
    assert [batch for batch, _ in groupby(seen)] == [1, 8]
    assert [(comparison.batch, comparison.boundary, comparison.speedup) for comparison in comparisons] == [
        (batch, boundary, 2.0) for batch in (1, 8) for boundary in BOUNDARIES
    ]


def test_the_device_boundary_times_the_bound_call_and_end_to_end_the_run(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = fake("A", clock, 1, [])
    monkeypatch.setattr(opened.session, "bind", lambda feed: clock.work("bound", lambda: 1))
    monkeypatch.setattr(opened.session, "run", lambda feed: clock.work("run", lambda: 1)())
    time_sessions([opened], Timing((1,), seconds=0.05))
    assert [name for name, _ in groupby(clock.calls)] == ["bound", "run"]


def test_the_loop_measures_its_own_overhead() -> None:
    assert 0 < overhead_us() < math.inf
