"""A budget of accuracy is held to the hundredth of a point that it allows, and the first layer to half of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.budgets import LOSSES, parse_budget
from edgekit.variants.int8_search import Judge


def judge(lost: float, snr_db: float = 60.0) -> Judge:
    """A judge whose every file loses so many points of accuracy, and has so much SNR."""
    held: Any = SimpleNamespace(change=lambda content: SimpleNamespace(before=0.9, after=0.9 - lost / 100))
    network: Any = SimpleNamespace(snr_db=lambda content: snr_db)
    bundle: Any = None
    return Judge(network, parse_budget("accuracy=-0.3pt", LOSSES), bundle, held)


@pytest.mark.parametrize(("lost", "holds"), [(-0.2, True), (0.29, True), (0.31, False)])
def test_a_file_holds_a_budget_of_accuracy_up_to_what_it_allows(lost: float, holds: bool) -> None:
    assert judge(lost).holds(b"") == holds


@pytest.mark.parametrize(
    ("lost", "snr_db", "holds"), [(0.14, 60, True), (0.16, 60, False), (0.0, 22.1, True), (0.0, 21.9, False)]
)
def test_a_first_layer_leaves_half_of_it_and_twice_the_margin_of_every_file(lost: float, snr_db: float, holds: bool) -> None:
    assert judge(lost, snr_db).holds_with_room(b"") == holds
