"""The ledger of a tuning: budgets take ways out, with the reason and the figure; the rest is ranked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from edgekit.budgets import QUANTITIES, parse_budgets
from edgekit.bundle.folder import open_bundle
from edgekit.latency.ledger import Ledger
from edgekit.reports.tune import AccuracyDifference
from edgekit.setups import Setup

ONE, TWO = (Setup("ort-cpu", "float32", count) for count in (1, 2))


@pytest.fixture
def ledger(bundle: Path) -> Ledger:
    budgets = parse_budgets(["p99=5ms", "memory=200MB", "throughput=100/s", "accuracy=-0.3pt", "size=1kB"], QUANTITIES)
    return Ledger(open_bundle(bundle), [ONE, TWO], budgets)


@pytest.mark.parametrize(
    ("key", "within", "beyond", "told"),
    [("p99", 5.0, 5.1, "5.1 ms"), ("memory", 2e8, 2.5e8, "250 MB"), ("throughput", 100.0, 99.0, "99/s"),
     ("accuracy", 0.3, 0.31, "0.31 points lost")],
)  # fmt: skip
def test_what_is_over_a_budget_is_out_with_its_figure(ledger: Ledger, key: str, within: float, beyond: float, told: str) -> None:
    values = {ONE: within, TWO: beyond}
    ledger.hold(key, lambda row: values[row.setup])
    assert ledger.running() == (ONE,)
    row = ledger.rows[TWO]
    assert (row.standing, row.reason, row.figure) == ("over budget", ledger.budgets[key].text, told)


def test_what_a_budget_cannot_be_told_of_is_out_too(ledger: Ledger) -> None:
    ledger.hold("p99", lambda row: None, [ONE])
    assert ledger.rows[ONE].reason == "p99=5ms cannot be told here"
    assert ledger.running() == (TWO,)


def test_a_quantity_without_a_budget_takes_nothing_out(ledger: Ledger) -> None:
    ledger.hold("first", lambda row: math.inf)
    assert ledger.running() == (ONE, TWO)


def test_the_size_is_the_files(ledger: Ledger, bundle: Path) -> None:
    assert ledger.rows[ONE].size_bytes == (bundle / "model.onnx").stat().st_size


def accuracy(difference: float, half: float) -> AccuracyDifference:
    return AccuracyDifference(0.9, difference, difference - half, difference + half, 10_000, "the original")


def test_an_interval_that_reaches_beyond_the_budget_says_how_many_pictures_decide(ledger: Ledger) -> None:
    for setup in (ONE, TWO):
        ledger.add(setup, accuracy=accuracy(-0.002, 0.002))  # 0.1 points of room, 0.2 of interval: four times the pictures
    assert list(ledger.undecided_accuracies()) == [
        "ort-cpu variant=float32 loses 0.20 points, at most 0.40; about 40,000 pictures would decide whether that is within "
        "accuracy=-0.3pt, 10,000 were seen"
    ]
    ledger.add(ONE, accuracy=accuracy(-0.001, 0.001))
    ledger.out(TWO, "failed", "crash")
    assert not list(ledger.undecided_accuracies())


def test_rows_are_ranked_by_the_metric_and_those_not_timed_are_last(ledger: Ledger) -> None:
    ledger.add(ONE, median_ms=2.0, p99_ms=3.0, throughput=400.0, parity=True)
    ledger.add(TWO, median_ms=1.0, p99_ms=9.0, throughput=900.0, parity=True)
    assert [row.setup for row in ledger.ranked("median")] == [TWO, ONE]
    assert [row.setup for row in ledger.ranked("p99")] == [ONE, TWO]
    assert [row.setup for row in ledger.ranked("throughput")] == [TWO, ONE]
    ledger.add(ONE, standing="chosen")
    assert [row.setup for row in ledger.ranked("median")] == [ONE, TWO]


def test_the_front_is_of_speed_accuracy_and_memory_and_never_of_what_fails_parity(ledger: Ledger) -> None:
    ledger.add(ONE, median_ms=2.0, memory_peak_bytes=100, parity=True)
    ledger.add(TWO, median_ms=1.0, memory_peak_bytes=200, parity=True)
    assert [row.on_front for row in ledger.ranked("median")] == [True, True]
    ledger.add(TWO, memory_peak_bytes=100)
    assert {row.setup for row in ledger.ranked("median") if row.on_front} == {TWO}
    ledger.add(TWO, parity=False)
    assert {row.setup for row in ledger.ranked("median") if row.on_front} == {ONE}
