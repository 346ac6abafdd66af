"""The benchmark of the bench's medians calls equivalent what is, and nothing else, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import bench_truth
import numpy as np
import onnxruntime as ort
import pytest
import results
from bench_truth import CASES, OTHERS, ROUNDS, SIDES, Case, Record, Round, compared, measure, missed, noisy, table

import edgekit
from edgekit.machine.cpu import machine_facts

NETWORKS = [Case(name, Path(name), 1, Path(), ()) for name in ("a", "b")]


def record(seconds: float = 0.1) -> Record:
    return Record("1", "1", "g++", seconds, {"cpu": "x", "load": "0.1"})


def rounds(ms: float, slower: float, scatter: float = 0.004, noise: str = "stable") -> list[Round]:
    """Processes of both loops that take ``ms``, and of edgekit, which takes ``slower`` times as long."""
    dice = np.random.default_rng(0)
    times = {side: ms * (slower if side == "edgekit" else 1.0) * np.exp(dice.normal(0, scatter, ROUNDS)) for side in SIDES}
    return [Round({side: float(times[side][number]) for side in SIDES}, noise) for number in range(ROUNDS)]


class Clock:
    """Stands for the processes: each takes a millisecond, and one of them may never come back."""

    def __init__(self, dies_at: int = 0) -> None:
        self.dies_at, self.calls = dies_at, 0

    def __call__(self, case: Case, seconds: float) -> tuple[float, str]:
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        return 1.0, "stable"


@pytest.mark.parametrize(("slower", "equivalent"), [(1.0, True), (1.015, True), (1.05, False), (0.95, False)])
def test_only_what_is_within_three_percent_on_both_sides_is_equivalent(slower: float, equivalent: bool) -> None:
    row = compared(rounds(1.0, slower))
    for side in OTHERS:
        assert row[side]["equivalent"] is equivalent
        assert row[side]["ratio"]["low"] < slower < row[side]["ratio"]["high"]
    assert missed({"net": row}) == (
        [] if equivalent else [f"net: edgekit is not shown to be within 3% of {side}" for side in ("C++", "Python")]
    )


def test_what_scatters_too_much_is_not_shown_to_be_equivalent() -> None:
    assert len(missed({"net": compared(rounds(1.0, 1.0, 0.1))})) == 2


def test_of_a_fast_network_it_is_told_what_is_added_and_nothing_is_missed() -> None:
    row = compared(rounds(0.02, 1.5, 0.001))
    added = row["C++"]["added_us"]
    assert added["low"] < 10 < added["high"]
    assert added["median"] == pytest.approx(10, rel=0.02)
    assert missed({"net": row}) == []
    assert " us " in list(table({"net": row}))[1]


@pytest.mark.parametrize("scatter", [0.001, 3.0])
@pytest.mark.parametrize(("ms", "slower"), [(0.01, 1.2), (0.199, 3.0), (1.0, 1.0), (800.0, 20.0)])
def test_the_table_has_80_columns_whatever_was_measured(ms: float, slower: float, scatter: float) -> None:
    rows = {f"{name}, {batch}": compared(rounds(ms, slower, scatter)) for name, batch in CASES}
    assert {len(line) for line in table(rows)} == {80}


def test_a_measurement_that_was_stopped_goes_on_where_it_was() -> None:
    half, saved = record(), []
    with pytest.raises(KeyboardInterrupt):
        measure(half, NETWORKS, dict.fromkeys(SIDES, Clock(dies_at=6 + 3 * 3 + 2)), 5, lambda: saved.append(1))
    assert sum(map(len, half.rounds.values())) == len(saved) == 3  # what was begun and not done does not count
    rest = Clock()
    measure(half, NETWORKS, dict.fromkeys(SIDES, rest), 5, lambda: saved.append(1))
    assert {name: len(own) for name, own in half.rounds.items()} == {"a": 5, "b": 5}
    assert rest.calls == 6 + 3 * 7  # a short one of each before it, and then what was missing
    done = Clock()
    measure(half, NETWORKS, dict.fromkeys(SIDES, done), 5, lambda: saved.append(1))
    assert done.calls == 0


def test_each_side_is_once_first_and_the_order_of_a_round_does_not_depend_on_where_it_began() -> None:
    orders = [list(bench_truth.orders(NETWORKS, number)) for number in range(20)]
    assert {order[0] for one in orders for _, order in one} == set(SIDES)
    assert orders[7] == list(bench_truth.orders(NETWORKS, 7))


def test_a_record_of_other_seconds_is_not_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "truth.json"
    bench_truth.save(record(0.1), file)
    busier = record(0.1)
    busier.machine["load"] = "9.0"
    assert bench_truth.loaded(file, busier).seconds == 0.1
    with pytest.raises(SystemExit, match="another seconds; give another --file, or remove it"):
        bench_truth.loaded(file, record(0.4))


@pytest.mark.parametrize("content", ['{"edgekit": "0.1", "rounds": [1]}', "{", ""])
def test_a_file_of_another_release_is_one_sentence(tmp_path: Path, content: str) -> None:
    file = tmp_path / "truth.json"
    file.write_text(content)
    with pytest.raises(SystemExit, match=r"truth\.json is no result of this release: .+; give another --file, or remove it"):
        bench_truth.loaded(file, record(0.1))
    assert file.read_text() == content


def test_what_is_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_truth, "answer", lambda *words: "g++ 1\nof somebody\n")
    done = Record(edgekit.__version__, ort.__version__, "g++ 1", bench_truth.SECONDS, machine_facts())
    done.rounds = {bench_truth.case_name(*case): rounds(1.0, 1.05) for case in CASES}
    bench_truth.save(done, tmp_path / "truth.json")
    assert bench_truth.main(["--file", str(tmp_path / "truth.json")]) == 1
    shown = capsys.readouterr()
    assert "remove it to measure anew" in shown.err
    assert shown.out.count("not shown to be within 3%") == 2 * len(CASES)
    assert json.loads((tmp_path / "truth.json").read_text())["full"] is True


def test_a_side_that_fails_is_one_sentence() -> None:
    with pytest.raises(SystemExit, match="fails: no network"):
        bench_truth.answer("sh", "-c", "echo no network >&2; exit 3")


def test_the_page_says_what_is_not_measured_what_was_too_short_and_where_it_was_noisy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    (tmp_path / "gate_truth.json").write_text(json.dumps({"machine": {"cpu": "x", "cores": "2"}, "decided": {}}))
    assert "Not measured on a quiet machine yet" in results.comparing_numbers()
    done = record()
    done.rounds = {"fast": rounds(0.02, 1.5, 0.001), "slow": rounds(1.0, 1.0), "off": rounds(1.0, 1.05, noise="noisy: drift")}
    done.compared = {name: compared(own) for name, own in done.rounds.items()}
    bench_truth.save(done, tmp_path / "bench_truth.json")
    page = results.comparing_numbers()
    assert "Not measured" not in page
    assert "A trial" in page
    assert f"noisy in {ROUNDS} of its {3 * ROUNDS}" in page
    assert noisy(done)
    assert "+10.0 µs" in page
    assert page.count("not shown to be within 3 %") == 2
    done.full = True
    bench_truth.save(done, tmp_path / "bench_truth.json")
    assert "A trial" not in results.comparing_numbers()
