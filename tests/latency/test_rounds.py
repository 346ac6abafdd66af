"""What drops out of the short rounds was slower in every one; what is close, or was disturbed, stays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import pytest

from edgekit.latency.loop import Candidate
from edgekit.latency.rounds import AT_ONCE, CHECKS, Open, Pace, race

LAST = CHECKS[-1][0]


def run(times: dict[str, float], noise: float = 0.0, disturbed: dict[str, int] | None = None) -> dict[str, Pace]:
    """A race of ways that take ``times`` ms, by ``noise``; those ``disturbed`` are as fast as the fastest in one round."""
    rng, rounds, opened = np.random.default_rng(0), dict.fromkeys(times, 0), set[str]()

    def opener(name: str) -> Open:
        def enter(stack: ExitStack) -> Candidate:
            opened.add(name)
            stack.callback(opened.remove, name)
            assert len(opened) <= AT_ONCE + 1
            return Candidate(name, lambda: None, {})

        return enter

    def block(candidate: Candidate, seconds: float) -> Sequence[float]:
        if seconds < 0.02:
            return (0.0,)  # warming up
        assert candidate.name in opened
        rounds[candidate.name] += 1
        fast = (disturbed or {}).get(candidate.name) == rounds[candidate.name]
        scale = min(times.values()) if fast else times[candidate.name]
        return tuple(scale * np.exp(noise * rng.standard_normal(5)))

    paces = race(list(times), [opener(name) for name in times], block)
    assert not opened
    return paces


def test_a_way_much_slower_drops_out_after_few_rounds_and_says_by_how_much() -> None:
    paces = run({"fast": 1.0, "slow": 4.0, "close": 1.05})
    assert len(paces["slow"].block_ms) == CHECKS[0][0]
    assert paces["slow"].slower == pytest.approx(4.0)
    assert paces["slow"].than == "fast"
    assert [paces[name].slower for name in ("fast", "close")] == [0, 0]
    assert len(paces["fast"].block_ms) == LAST


@pytest.mark.parametrize("ratio", [1.02, 1.05, 1.1])
def test_a_way_as_close_as_two_processes_of_one_setup_never_drops_out(ratio: float) -> None:
    assert not run({"fast": 1.0, "close": ratio}, noise=0.005)["close"].slower


def test_a_way_that_was_as_fast_in_one_round_stays() -> None:
    assert run({"fast": 1.0, "slow": 2.0}, disturbed={"slow": 2})["slow"].slower == 0
    assert run({"fast": 1.0, "slow": 2.0})["slow"].slower > 0


def test_many_ways_run_in_groups_and_each_against_the_fastest_so_far() -> None:
    times = {f"way {place}": 10.0 for place in range(2 * AT_ONCE)} | {"late": 1.0}
    paces = run(times)
    assert {name for name, pace in paces.items() if not pace.slower} >= {"late"}
    assert paces["way 0"].slower == pytest.approx(10)  # the fastest of the first groups, until the last had a faster one
    first = {"early": 1.0} | {f"way {place}": 10.0 for place in range(2 * AT_ONCE)}
    assert [name for name, pace in run(first).items() if not pace.slower] == ["early"]


def test_the_pace_is_of_the_rounds() -> None:
    pace = run({"only": 3.0})["only"]
    assert pace.median_ms == pytest.approx(3.0)
    assert pace.mean_ms == pytest.approx(3.0)


def test_where_tails_count_only_what_is_beyond_the_fastest_ones_tail_drops_out() -> None:
    """One call in five of the fastest takes eight times as long: a way of three times its median has the better tail."""
    times = {"fast": (1.0, 1.0, 1.0, 1.0, 8.0), "even": (3.0,) * 5, "slow": (30.0,) * 5}

    def opener(name: str) -> Open:
        return lambda stack: Candidate(name, lambda: None, {})

    def paces(*, tail: bool) -> dict[str, Pace]:
        return race([*times], [opener(name) for name in times], lambda candidate, seconds: times[candidate.name], tail=tail)

    assert [name for name, pace in paces(tail=False).items() if pace.slower] == ["even", "slow"]
    assert [name for name, pace in paces(tail=True).items() if pace.slower] == ["slow"]


def test_a_way_that_cannot_be_opened_takes_no_part() -> None:
    def open_one(stack: ExitStack) -> Candidate:
        return Candidate("one", lambda: None, {})

    def block(candidate: Candidate, seconds: float) -> Sequence[float]:
        return (1.0,)

    assert list(race(["one", "none"], [open_one, lambda stack: None], block)) == ["one"]
    assert race(["none"], [lambda stack: None], block) == {}
