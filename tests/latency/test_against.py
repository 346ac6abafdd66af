"""Pairs of processes and the verdict on them, with processes that take what a test says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import Interrupted, MissingError
from edgekit.latency.against import FIRST_ALPHA, PAIRS, PAIRS_OF_SEVERAL, Duel, Look, duels, looks, orders, usual_pairs
from edgekit.latency.signflip import ALPHA, MOST_PAIRS, fewest_pairs
from edgekit.latency.turns import WARM_SECONDS, Thing, Turns, in_turns
from edgekit.latency.verdict import CONTROLLED_ALPHA, evidence_of, judge
from edgekit.machine.child import Failure
from edgekit.reports.against import AgainstReport, Control, Judged, Stored, Verdict
from edgekit.reports.fresh import Fresh
from edgekit.reports.markdown import markdown
from edgekit.setups import Setup

LIMIT = 0.05
SETUP = Setup("ort-cpu", threads=1)


def process(ms: float, facts: dict[str, str] | None = None) -> Fresh:
    return Fresh(1, "end-to-end", ms, 3, (ms,) * 3, 5.0, (ms,), 1 << 20, None, "stable", facts or {})


class Machine:
    """Processes of the bundles ``takes``, in ms, times what the machine does to the n-th of them."""

    def __init__(self, takes: dict[str, float], slowed: Callable[[int], float] = lambda place: 1.0) -> None:
        self.takes, self.slowed = takes, slowed
        self.ran: list[str] = []
        self.seconds: list[float] = []

    def __call__(self, bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float) -> Fresh:
        ms = self.takes[bundle.name] * self.slowed(len(self.ran))
        self.ran.append(bundle.name)
        self.seconds.append(seconds)
        return process(ms)


def duel(name: str = "row", first: str = "A", second: str = "B") -> Duel:
    return Duel(name, *(Thing(bundle, Path(bundle), SETUP, 1, "end-to-end") for bundle in (first, second)))


def shaken(scatter: float, seed: int = 0) -> Callable[[int], float]:
    rng = np.random.default_rng(seed)
    return lambda place: math.exp(rng.normal(0, scatter))


def verdict(first: list[float], second: list[float], limit: float = LIMIT) -> Judged:
    ((_, judged),) = judge([evidence_of(first, second)], limit)
    return judged


def test_of_many_processes_a_few_hundred_calls_of_each_are_kept() -> None:
    def time(bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float) -> Fresh:
        return msgspec.structs.replace(process(1.0), samples_ms=tuple(map(float, range(5000))), calls=9000)

    (processes,) = in_turns([duel().first], Turns(3), time=time)
    assert [(one.calls, one.samples_ms) for one in processes] == [(9000, tuple(map(float, range(0, 5000, 10))))] * 3


@pytest.mark.parametrize("rows", [1, 2, 4, 10, 30])
def test_the_first_look_can_find_any_number_of_rows_slower(rows: int) -> None:
    pairs = usual_pairs(rows)
    first = looks(pairs)[0]
    evidence = [evidence_of([1.2] * pairs, [1.0] * pairs, first.alpha)] * rows
    assert {judged for _, judged in judge(evidence, LIMIT, first.alpha)} == {Judged("slower")}
    assert pairs == {1: PAIRS, 2: PAIRS_OF_SEVERAL, 4: PAIRS_OF_SEVERAL, 10: 12, 30: 13}[rows]


# the verdict


@pytest.mark.parametrize(
    ("slower", "expected"), [(1.2, "slower"), (1.08, "slower"), (1.0, "not slower"), (0.8, "not slower"), (1.02, "not slower")]
)
def test_a_planted_difference_is_told_through_scatter_and_drift(slower: float, expected: Verdict) -> None:
    shake = shaken(0.005)
    machine = Machine({"A": slower, "B": 1.0}, lambda place: shake(place) * (1 + place / 100))
    (row,) = duels([duel()], Turns(8, seed=0), LIMIT, time=machine)
    assert row.judged.verdict == expected
    assert row.evidence.ratio == pytest.approx(slower, rel=0.02)
    assert row.evidence.low <= slower <= (row.evidence.high or 0)
    assert row.evidence.floor < 0.02


def test_a_difference_is_not_a_verdict_before_it_is_beyond_the_limit() -> None:
    first, second = [1.03 + step / 1000 for step in range(8)], [1.0] * 8
    assert verdict(first, second) == Judged("not slower")
    assert verdict(first, second, 0.02) == Judged("slower")


def test_alike_things_are_seldom_called_slower_and_slower_things_never_alike() -> None:
    rng = np.random.default_rng(0)
    verdicts = {slower: [verdict(*_pairs(rng, slower, 0.02)).verdict for _ in range(400)] for slower in (1.0, 1.08)}
    assert verdicts[1.0].count("slower") <= ALPHA * 400 / 2
    assert verdicts[1.08].count("not slower") <= ALPHA * 400 / 2
    assert verdicts[1.0].count("not slower") > 360
    assert verdicts[1.08].count("slower") > 360


def _pairs(rng: np.random.Generator, slower: float, scatter: float) -> tuple[list[float], list[float]]:
    first, second = np.exp(rng.normal(0, scatter, (2, 8)))
    return list(slower * first), list(second)


def test_where_chance_reaches_the_limit_there_is_no_verdict() -> None:
    rng = np.random.default_rng(1)
    outcomes = [verdict(*_pairs(rng, 1.2, 0.12)) for _ in range(50)]
    assert {outcome.verdict for outcome in outcomes} == {"undecided"}
    assert all("by chance, more than the limit" in outcome.reason for outcome in outcomes)
    assert verdict(*_pairs(rng, 1.2, 0.01)).verdict == "slower"


def test_more_pairs_are_asked_for_where_they_decide() -> None:
    """Scatter that widens the bounds beyond the limit; of twice the pairs with the same scatter it does not."""
    logs = np.array([0.045, -0.035, 0.04, -0.03, 0.05, -0.04, 0.01, -0.02])
    outcome = verdict(list(np.exp(logs)), [1.0] * 8, 0.045)
    assert outcome.verdict == "undecided"
    assert outcome.more_pairs is not None
    more = np.tile(logs, 2)[: 8 + outcome.more_pairs + 2]  # about: two more
    assert verdict(list(np.exp(more)), [1.0] * len(more), 0.045).verdict == "not slower"


def test_what_no_number_of_pairs_decides_is_not_promised() -> None:
    logs = math.log1p(LIMIT) - 0.001 + np.array([0.03, -0.03] * 4)
    outcome = verdict(list(np.exp(logs)), [1.0] * 8)
    assert (outcome.verdict, outcome.more_pairs) == ("undecided", None)
    assert "doctor --bench" in outcome.reason


def test_fewer_pairs_than_can_decide_say_so() -> None:
    assert verdict([2.0] * 6, [1.0] * 6) == Judged("undecided", "6 pairs can decide nothing", 1)
    fewest = fewest_pairs()
    assert verdict([2.0] * fewest, [1.0] * fewest).verdict == "slower"


@pytest.mark.parametrize("pairs", range(2, fewest_pairs()))
@pytest.mark.parametrize("slower", [0.5, 1.0, 2.0])
def test_so_few_pairs_never_decide(pairs: int, slower: float) -> None:
    assert verdict([slower] * pairs, [1.0] * pairs).verdict == "undecided"


def test_several_rows_share_the_risk_and_the_worst_is_the_reports() -> None:
    rng = np.random.default_rng(2)
    fine, slow = evidence_of(*_pairs(rng, 1.0, 0.005)), evidence_of(*_pairs(rng, 1.1, 0.005))
    assert slow.p == 1 / 256
    assert [judged.verdict for _, judged in judge([slow], LIMIT)] == ["slower"]
    assert [judged.verdict for _, judged in judge([fine, slow], LIMIT)] == ["not slower", "slower"]  # 2/256 < 0.01
    assert [judged.verdict for _, judged in judge([fine, fine, slow], LIMIT)][2] == "undecided"  # 3/256: eight pairs are too few
    assert judge([fine, slow], LIMIT)[1][0].p == 2 / 256


@given(st.lists(st.floats(0.5, 2.0), min_size=16, max_size=16), st.floats(0.1, 10.0))
@settings(deadline=None)
def test_no_unit_changes_a_verdict_and_a_verdict_is_never_both(medians: list[float], unit: float) -> None:
    first, second = medians[:8], medians[8:]
    told, other = evidence_of(first, second), evidence_of([unit * ms for ms in first], [unit * ms for ms in second])
    assert (told.ratio, told.low, told.high) == pytest.approx((other.ratio, other.low, other.high))
    turned = {verdict(first, second).verdict, verdict(second, first).verdict}
    assert turned != {"slower"}
    assert told.low <= told.ratio <= (told.high or 0)


def test_what_a_control_may_have_moved_widens_the_bounds_and_is_no_fault() -> None:
    """Bounds of the control, 0.98 to 1.03: a ratio of 1.02 says nothing, and one of 1.05 is 1.02 to 1.07 without it."""
    control = Control(SETUP, (process(1.0),), (process(1.0),), 1.01, 0.98, 1.03, moved=False)
    alone, held = (evidence_of([1.05] * 8, [1.0] * 8, CONTROLLED_ALPHA, given) for given in (None, control))
    assert (alone.low, alone.high) == pytest.approx((1.05, 1.05))
    assert (held.ratio, held.low, held.high) == pytest.approx((1.05 / 1.01, 1.05 / 1.03, 1.05 / 0.98))
    assert held.p == pytest.approx(2 / 256)  # the control's bounds have the other half of the risk
    assert evidence_of([1.02] * 8, [1.0] * 8, CONTROLLED_ALPHA, control).p == 1.0
    assert evidence_of([1.02] * 8, [1.0] * 8, CONTROLLED_ALPHA).p == pytest.approx(2 / 256)


# the looks


@pytest.mark.parametrize("pairs", range(2, MOST_PAIRS + 1))
def test_the_looks_share_the_risk_and_each_can_decide_and_adds_to_the_one_before(pairs: int) -> None:
    every = looks(pairs)
    assert sum(look.alpha for look in every) == pytest.approx(ALPHA)
    assert every[-1].pairs in {pairs, min(2 * pairs, MOST_PAIRS)}
    for look in every:
        alike = [evidence_of([slower] * look.pairs, [1.0] * look.pairs, look.alpha) for slower in (1.0, 1.2)]
        verdicts = [judge([evidence], LIMIT, look.alpha)[0][1].verdict for evidence in alike]
        assert verdicts == (["not slower", "slower"] if look.pairs >= fewest_pairs() else ["undecided"] * 2)
    if len(every) == 2:
        assert every[0] == (pairs, FIRST_ALPHA)
        assert every[1].pairs >= 1.25 * pairs


@pytest.mark.parametrize(
    ("pairs", "expected"), [(2, [4]), (7, [14]), (8, [8, 16]), (16, [16, 20]), (17, [17]), (19, [19]), (MOST_PAIRS, [MOST_PAIRS])]
)
def test_a_look_that_decides_nothing_or_adds_little_is_left_out(pairs: int, expected: list[int]) -> None:
    assert [look.pairs for look in looks(pairs)] == expected


def unsteady(pairs: int, scatter: float) -> Callable[[int], float]:
    """The first ``pairs`` pairs scatter so that nothing can be decided; later ones do not."""
    return lambda place: math.exp(scatter * (place % 3 - 1)) if place < 2 + 2 * pairs else 1.0


@pytest.mark.parametrize(("slower", "scatter", "expected"), [(1.12, 0.09, "slower"), (1.0, 0.04, "not slower")])
def test_what_the_first_look_leaves_undecided_gets_as_many_pairs_again(slower: float, scatter: float, expected: Verdict) -> None:
    (steady,) = duels([duel()], Turns(8, seed=0), LIMIT, time=Machine({"A": slower, "B": 1.0}))
    (row,) = duels([duel()], Turns(8, seed=0), LIMIT, time=Machine({"A": slower, "B": 1.0}, unsteady(8, scatter)))
    assert (steady.evidence.pairs, steady.judged.verdict) == (8, expected)
    assert (row.evidence.pairs, row.judged.verdict) == (16, expected)
    assert len(row.first) == len(row.second) == len(row.order) == 16


def test_only_undecided_rows_run_on_and_the_others_keep_their_verdicts() -> None:
    shake = shaken(0.06)

    class OneIsUnsteady(Machine):
        def __call__(self, bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float) -> Fresh:
            fresh = super().__call__(bundle, setup, batch, boundary, seconds)
            return process(fresh.median_ms * (shake(0) if bundle.name in "EF" else 1.0))

    machine = OneIsUnsteady({"A": 1.0, "B": 1.0, "C": 1.2, "D": 1.0, "E": 1.06, "F": 1.0})
    rows = duels([duel("fine"), duel("slow", "C", "D"), duel("unsteady", "E", "F")], Turns(10, seed=0), LIMIT, time=machine)
    assert [row.judged.verdict for row in rows[:2]] == ["not slower", "slower"]
    assert [row.evidence.pairs for row in rows] == [10, 10, 20]


RUNS = 400


def most_wrong() -> int:
    """Of ``RUNS`` right comparisons more are wrong with a probability of less than 0.001: the exact binomial distribution."""
    chances = [math.comb(RUNS, wrong) * ALPHA**wrong * (1 - ALPHA) ** (RUNS - wrong) for wrong in range(RUNS)]
    return next(most for most in range(RUNS) if 1 - sum(chances[: most + 1]) < 0.001)


def counted(wrong: Verdict, slower: float, limit: float, slowed: Callable[[int], float]) -> int:
    """How many of ``RUNS`` comparisons, one after the other on one machine, give the verdict ``wrong``."""
    begun = 0

    def since(place: int) -> float:
        return slowed(begun + place)

    count = 0
    for seed in range(RUNS):
        machine = Machine({"A": slower, "B": 1.0}, since)
        (row,) = duels([duel()], Turns(8, seed=seed), limit, time=machine)
        begun += len(machine.ran)
        count += row.judged.verdict == wrong
    return count


def each_look_spends_all(pairs: int) -> tuple[Look, ...]:
    return tuple(Look(look.pairs, 5 * ALPHA) for look in looks(pairs))


@pytest.mark.parametrize(("wrong", "slower", "limit"), [("slower", 1.0, 1e-9), ("not slower", 1 + LIMIT, LIMIT)])
def test_two_looks_are_wrong_no_oftener_than_one_may_be(
    monkeypatch: pytest.MonkeyPatch, wrong: Verdict, slower: float, limit: float
) -> None:
    """What is alike is seldom called slower, and what is slower by the limit "not slower", also without the floor."""
    monkeypatch.setattr("edgekit.latency.verdict.by_chance", lambda logs: 0.0)
    assert 0 < counted(wrong, slower, limit, shaken(0.03)) <= most_wrong()
    monkeypatch.setattr("edgekit.latency.against.looks", each_look_spends_all)
    assert counted(wrong, slower, limit, shaken(0.03)) > most_wrong()


def in_blocks(pairs: int, seed: int) -> list[str]:
    """Balanced: A B B A or B A A B."""
    coins = np.random.default_rng(seed).integers(2, size=pairs)
    return [("AB", "BA")[(coins[place // 2] + place) % 2] for place in range(pairs)]


@pytest.mark.parametrize("period", [3, 4, 8])
def test_a_disturbance_that_comes_back_takes_no_side(monkeypatch: pytest.MonkeyPatch, period: int) -> None:
    """Other work that comes back after so many processes slows half of them down."""

    def slowed(place: int) -> float:
        return 1.08 if (place + 1) % period < period / 2 else 1.0

    assert counted("slower", 1.0, LIMIT, slowed) <= most_wrong()
    if period == 4:
        monkeypatch.setattr("edgekit.latency.against.orders", in_blocks)
        assert counted("slower", 1.0, LIMIT, slowed) > most_wrong()


# the processes


def test_every_pattern_of_orders_that_the_test_counts_is_drawn_and_as_often() -> None:
    """A coin for each pair: 32 patterns of five pairs, where blocks of two pairs have eight."""
    drawn = [tuple(orders(5, seed)) for seed in range(3200)]
    counts = Counter(drawn)
    assert len(counts) == 32
    assert {order for pattern in counts for order in pattern} == {"AB", "BA"}
    assert 60 < min(counts.values()) <= max(counts.values()) < 140  # 4 standard deviations of the binomial distribution
    assert drawn[7] == tuple(orders(5, 7))


def test_processes_take_turns_as_drawn_after_one_short_one_each() -> None:
    machine = Machine({"A": 1.0, "B": 2.0, "C": 3.0, "D": 4.0})
    rows = duels([duel("one"), duel("two", "C", "D")], Turns(4, 2.0, 5), time=machine)
    letters = {"one": "AB", "two": "CD"}
    expected = [*"ABCD"]
    for order in orders(8, 5):
        expected += [letters[name]["AB".index(letter)] for name in ("one", "two") for letter in order]
    assert machine.ran == expected
    assert machine.seconds == [WARM_SECONDS] * 4 + [2.0] * 32
    assert [row.order for row in rows] == [tuple(orders(8, 5))] * 2
    assert [(len(row.first), {one.median_ms for one in row.first}) for row in rows] == [(8, {1.0}), (8, {3.0})]
    assert [{one.median_ms for one in row.second} for row in rows] == [{2.0}, {4.0}]


def test_processes_of_several_things_run_in_rounds() -> None:
    machine = Machine({"A": 1.0, "B": 2.0, "C": 3.0})
    things = [Thing(name, Path(name), SETUP, 1, "device") for name in "ABC"]
    processes = in_turns(things, Turns(5, seed=1), time=machine)
    assert [[one.median_ms for one in own] for own in processes] == [[1.0] * 5, [2.0] * 5, [3.0] * 5]
    rounds = [machine.ran[place : place + 3] for place in range(0, 18, 3)]
    assert all(sorted(names) == [*"ABC"] for names in rounds)
    assert len(set(map(tuple, rounds))) > 1  # their order is drawn


def test_a_process_that_fails_ends_the_comparison_with_its_sentence() -> None:
    def crash(bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float) -> Failure:
        return Failure("signal", "crashes with signal 11")

    with pytest.raises(MissingError, match=r"^A cannot be timed: its process crashes with signal 11$"):
        duels([duel()], Turns(8, seed=0), time=crash)


def test_a_comparison_of_several_batch_sizes_that_is_stopped_tells_the_ratio_of_each() -> None:
    rows = [duel(), duel("row", "C", "D")]
    eight = Duel(rows[1].backend, *(thing._replace(batch=8) for thing in rows[1][1:]))
    machine = Machine({"A": 1.25, "B": 1.0, "C": 1.5, "D": 1.0})

    def stopped(*what: Any) -> Fresh:
        if len(machine.ran) == 4 + 8:  # a short process of each, and two pairs of each row
            raise KeyboardInterrupt
        return machine(*what)

    with pytest.raises(Interrupted) as caught:
        duels([rows[0], eight], Turns(8, seed=0), LIMIT, time=stopped)
    for place in ("1.250 times B's time on row batch 1 end-to-end", "1.500 times B's time on row batch 8 end-to-end"):
        assert place in caught.value.reason


# the report


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (None, "a new comparison with --pairs 20 will probably decide it"),
        (Stored("b.json", {}, ()), "a stored report with --processes 20 will probably decide it"),
    ],
)
def test_what_more_pairs_would_decide_is_told_as_what_to_give(stored: Stored | None, told: str) -> None:
    report = against_report(1.0)
    short = msgspec.structs.replace(report.rows[0], judged=Judged("undecided", "the bounds leave both open", 12))
    report = msgspec.structs.replace(report, rows=(short,), stored=stored)
    assert f"the bounds leave both open; {told}" in markdown(report.page(), "A")
    never = msgspec.structs.replace(short, judged=Judged("undecided", "the bounds leave both open"))
    assert "probably" not in markdown(msgspec.structs.replace(report, rows=(never,)).page(), "A")


def against_report(slower: float, scatter: float = 0.005, undecided_passes: bool = False) -> AgainstReport:
    rows = duels([duel()], Turns(8, seed=0), LIMIT, time=Machine({"A": slower, "B": 1.0}, shaken(scatter)))
    return AgainstReport("A", "0", "B", "1", {}, LIMIT, 1.0, 0, rows, undecided_passes)


@pytest.mark.parametrize(
    ("slower", "scatter", "passes", "expected"),
    [
        (1.2, 0.005, False, (False, False)),
        (1.0, 0.005, False, (True, False)),
        (1.0, 0.2, False, (False, True)),
        (1.0, 0.2, True, (True, False)),
    ],
)
def test_a_verdict_passes_fails_or_is_none(slower: float, scatter: float, passes: bool, expected: tuple[bool, bool]) -> None:
    report = against_report(slower, scatter, passes)
    assert (report.passed, report.undecided) == expected
    again = AgainstReport.from_json(report.to_json())
    assert again == report
    assert msgspec.json.decode(report.to_json())["passed"] is expected[0]
