"""The finals: turns in an order by chance, each way's metric by processes, and what they decide."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.latency.finals import MOST_SECONDS, SECONDS, TURNS, Final, finals, middle, seconds_for, turns_for, versus
from edgekit.latency.signflip import ALPHA
from edgekit.latency.turns import WARM_SECONDS, Thing
from edgekit.machine.child import Failure
from edgekit.reports.fresh import Fresh
from edgekit.setups import Setup

FAST, SLOW = Setup("ort-cpu", threads=1), Setup("ort-cpu", threads=2)


def fresh(*samples: float) -> Fresh:
    return Fresh(1, "end-to-end", float(np.median(samples)), len(samples), samples, 5.0, samples[:1], 1, None, "stable", {})


def test_a_way_says_how_many_of_its_processes_were_noisy_and_why() -> None:
    stable, noisy = fresh(1.0), msgspec.structs.replace(fresh(1.0), noise="noisy: blocks scatter by 20%")
    assert Final((stable, stable)).noise == ""
    assert Final((stable, noisy, noisy)).noise == "2 of 3 fresh processes were noisy: blocks scatter by 20%"


def things(*setups: Setup) -> list[Thing]:
    return [Thing(str(setup), Path("bundle"), setup, 1, "end-to-end") for setup in setups]


def test_every_way_takes_as_many_turns_in_an_order_by_chance_after_one_that_does_not_count() -> None:
    ran: list[tuple[Setup, float]] = []

    def time(bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float) -> Fresh:
        ran.append((setup, seconds))
        return fresh(float(len(ran)))

    played = finals(things(FAST, SLOW), [0.4, 0.4], time=time)
    assert ran[:2] == [(FAST, WARM_SECONDS), (SLOW, WARM_SECONDS)]
    assert {seconds for _, seconds in ran[2:]} == {0.4}
    turns = [ran[place : place + 2] for place in range(2, len(ran), 2)]
    assert all({setup for setup, _ in turn} == {FAST, SLOW} for turn in turns)
    assert {turn[0][0] for turn in turns} == {FAST, SLOW}
    assert [len(final.fresh) for final in played.values()] == [TURNS, TURNS]
    assert min(value for final in played.values() for value in final.values("median")) == 3.0


def test_a_way_that_fails_takes_no_more_turns_and_the_others_go_on() -> None:
    counts: dict[Setup, int] = {FAST: 0, SLOW: 0}

    def time(bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float) -> Fresh | Failure:
        counts[setup] += 1
        return Failure("signal", "was ended by SIGSEGV") if setup == SLOW and counts[setup] == 3 else fresh(1.0)

    played = finals(things(FAST, SLOW), [0.1, 0.1], time=time)
    assert counts == {FAST: 1 + TURNS, SLOW: 3}
    assert played[SLOW].failure == "it was ended by SIGSEGV"
    assert not played[FAST].failure


def test_all_calls_of_a_process_count_for_its_tail() -> None:
    played = finals(things(FAST), [0.1], time=lambda *asked: fresh(*[1.0] * 3000))
    assert len(played[FAST].fresh[0].samples_ms) == 3000


def test_a_metric_is_read_from_each_process_by_itself() -> None:
    final = Final((fresh(1.0, 2.0, 9.0), fresh(3.0, 4.0, 5.0)))
    assert final.values("median") == (2.0, 4.0)
    assert final.values("throughput") == (4.0, 4.0)
    assert final.values("p99") == pytest.approx((8.86, 4.98))
    assert middle(final.values("median")) == 3.0


def test_a_percentile_is_of_all_calls_and_withheld_while_they_are_too_few() -> None:
    few = Final((fresh(*[1.0] * 600),))
    assert few.percentile(99) is None
    assert Final((*few.fresh, fresh(*[1.0] * 100))).percentile(99) == 1.0


def test_a_tail_is_timed_long_enough_for_its_percentile() -> None:
    assert seconds_for(1.0, tail=False) == SECONDS
    assert TURNS * seconds_for(30.0, tail=True) * 1e3 / 30.0 > 662
    assert seconds_for(1e6, tail=True) == MOST_SECONDS


def test_each_way_is_timed_for_its_own_seconds() -> None:
    """A slow way needs seconds for a tail that a fast one has in a fraction of one."""
    ran: list[tuple[Setup, float]] = []

    def time(bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float) -> Fresh:
        ran.append((setup, seconds))
        return fresh(1.0)

    finals(things(FAST, SLOW), [0.4, 9.0], time=time)
    assert {*ran[2:]} == {(FAST, 0.4), (SLOW, 9.0)}
    assert ran[:2] == [(FAST, WARM_SECONDS), (SLOW, WARM_SECONDS)]


@pytest.mark.parametrize(("ways", "turns"), [(1, TURNS), (2, TURNS), (3, 10)])
def test_so_many_turns_that_any_number_of_ways_can_be_told_apart(ways: int, turns: int) -> None:
    assert turns_for(ways) == turns
    played = finals(
        things(*[Setup("ort-cpu", threads=1 + way) for way in range(ways)]), [0.1] * ways, time=lambda *asked: fresh(1.0)
    )
    assert [len(final.fresh) for final in played.values()] == [turns] * ways
    assert versus([1.0] * turns, [1.1] * turns, ways).decided
    assert not versus([1.0] * (turns - 1), [1.1] * (turns - 1), ways).decided


def wrongly_decided(ways: int, by: int, turns: int, draws: int = 1500) -> int:
    """How often one of alike ways, by tests for ``by`` of them, is said to be faster than another."""
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(draws):
        values = np.exp(0.03 * rng.standard_normal((ways, turns)))
        best = min(range(ways), key=lambda way: middle(values[way].tolist()))
        wrong += any(versus(values[best].tolist(), values[way].tolist(), by).decided for way in range(ways) if way != best)
    return wrong


def test_of_three_alike_ways_none_is_called_faster_than_another_oftener_than_of_two() -> None:
    most = 27  # of 1500 at 0.01 more with a probability of 0.001: the binomial distribution
    assert 0 < wrongly_decided(3, 3, turns_for(3)) <= most
    assert wrongly_decided(8, 2, turns_for(8)) > most  # without the correction of eight ways it shows


def takes(ms: float, scatter: float, seed: int) -> tuple[float, ...]:
    return tuple(ms * np.exp(scatter * np.random.default_rng(seed).standard_normal(TURNS)))


def test_a_clear_difference_is_decided_and_its_bounds_hold_it() -> None:
    outcome = versus(takes(1.0, 0.01, 0), takes(1.1, 0.01, 1))
    assert outcome.decided
    assert outcome.more == 0
    assert outcome.low < 1.1 < outcome.high
    assert outcome.low > 1


def test_alike_ways_are_not_told_apart_whatever_they_are_called() -> None:
    decided = []
    for signs in product((-1, 1), repeat=TURNS):  # equally likely where they are alike
        pair = [1.0] * TURNS, [math.exp(sign * 0.01 * place) for place, sign in enumerate(signs, 1)]
        best, other = sorted(pair, key=middle)  # the winner is picked by these very processes
        outcome = versus(best, other)
        assert outcome.decided == (outcome.low > 1)
        decided.append(outcome.decided)
    assert 0 < sum(decided) <= ALPHA * len(decided)


def test_a_difference_within_the_scatter_says_how_many_more_processes_it_takes() -> None:
    outcome = versus(takes(1.0, 0.03, 4), takes(1.02, 0.03, 5))
    assert not outcome.decided
    assert outcome.more is None or outcome.more >= 1
    assert versus([1.0] * TURNS, [1.0] * TURNS).more is None
