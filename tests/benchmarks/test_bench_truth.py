"""The benchmark of the bench's medians calls equivalent what is, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from bench_truth import EQUIVALENT, PAIRS, SIDES, compared, told
from truth_table import bench_lines


def medians(ms: float, slower: float, scatter: float = 0.004) -> dict[str, list[float]]:
    """Processes of a loop in C++ that takes ``ms``, and of edgekit and Python, which take ``slower`` times as long."""
    dice = np.random.default_rng(0)
    times = {side: ms * (1.0 if side == "c++" else slower) * np.exp(dice.normal(0, scatter, PAIRS)) for side in SIDES}
    return {side: [float(value) for value in values] for side, values in times.items()}


@pytest.mark.parametrize(("slower", "equivalent"), [(1.0, True), (1.015, True), (1.05, False), (0.95, False)])
def test_only_what_is_within_three_percent_on_both_sides_is_equivalent(slower: float, equivalent: bool) -> None:
    row = compared(medians(1.0, slower))
    assert row["equivalent"] is equivalent
    assert row["edgekit over c++"]["low"] < slower < row["edgekit over c++"]["high"]
    assert ("NOT equivalent" in told("a network", row)) is not equivalent


def test_what_scatters_too_much_is_not_shown_to_be_equivalent() -> None:
    assert not compared(medians(1.0, 1.0, 0.1))["equivalent"]
    assert EQUIVALENT == 0.03


def test_of_a_fast_network_it_is_told_what_is_added() -> None:
    row = compared(medians(0.02, 1.5, 0.001))
    assert row["slow_enough"] is False
    assert row["added_us"] == pytest.approx(10, rel=0.02)
    assert "adds 10.0 us" in told("a network", row)
    lines = list(bench_lines({"pairs": 12, "onnxruntime": "1", "machine": {"cpu": "x"}, "cases": {"a network": row}}))
    assert "edgekit adds 10.0 µs" in lines[-1]
