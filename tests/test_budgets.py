"""A budget bounds one quantity, in one grammar for every command."""

from __future__ import annotations

import math

import pytest

from edgekit.budgets import LOSSES, QUANTITIES, Budget, parse_budget, parse_budgets
from edgekit.errors import UsageError


@pytest.mark.parametrize(
    ("text", "key", "limit"),
    [
        ("accuracy=-0.3pt", "accuracy", 0.3),
        ("accuracy=-0pt", "accuracy", 0),
        (" SNR=30db ", "snr", 30),
        ("p99=5ms", "p99", 5),
        ("p99 = 5 ms", "p99", 5),
        ("median=250us", "median", 0.25),
        ("first=1.5s", "first", 1500),
        ("throughput=200/s", "throughput", 200),
        ("memory=200MB", "memory", 2e8),
        ("memory=200MiB", "memory", 200 * 2**20),
        ("size=1gb", "size", 1e9),
    ],
)
def test_a_budget_has_a_key_a_number_and_a_unit(text: str, key: str, limit: float) -> None:
    assert parse_budget(text, QUANTITIES) == Budget(key, limit, text.strip())


@pytest.mark.parametrize("key", QUANTITIES)
def test_the_example_of_each_key_is_a_budget_that_its_own_limit_holds(key: str) -> None:
    budget = parse_budget(QUANTITIES[key].example, [key])
    better = 2 if QUANTITIES[key].more_is_better else 0.5
    assert budget.holds(budget.limit)
    assert budget.holds(better * budget.limit)
    assert not budget.holds(budget.limit / better)
    assert not budget.holds(math.nan)


@pytest.mark.parametrize("text", ["accuracy=0.3pt", "accuracy=-0.3", "accuracy=-3%", f"accuracy=-{'9' * 400}pt"])
def test_a_value_of_another_form_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no budget; write it like accuracy=-0\.3pt$"):
        parse_budget(text, LOSSES)


def test_a_unit_of_other_letters_that_fold_to_ours_is_refused() -> None:
    with pytest.raises(UsageError, match="write it like p99=5ms"):
        parse_budget("p99=5m\u017f", ("p99",))


@pytest.mark.parametrize("text", ["", "3dB", "p99=5ms", "=-0.3pt"])
def test_another_key_is_refused_with_an_example_of_each_that_is_taken(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no budget; write it like accuracy=-0\.3pt or snr=30dB"):
        parse_budget(text, LOSSES)


@pytest.mark.parametrize("text", ["snr=-3dB", "snr=30", "snr=nandB", "snr=1e3dB", "snr=1_0dB", "snr=٣dB"])
def test_only_plain_numbers_with_a_unit_are_read(text: str) -> None:
    with pytest.raises(UsageError, match="write it like snr=30dB"):
        parse_budget(text, LOSSES)


def test_two_budgets_of_one_key_are_refused() -> None:
    assert [budget.key for budget in parse_budgets(["p99=5ms", "memory=1GB"], QUANTITIES)] == ["p99", "memory"]
    with pytest.raises(UsageError, match="--budget p99=5ms and P99=6ms bound the same; give one of them"):
        parse_budgets(["p99=5ms", "P99=6ms"], QUANTITIES)
