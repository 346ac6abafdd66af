"""The benchmark of the gate counts false verdicts as they are, and goes on where it was stopped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import gate_truth
import numpy as np
import pytest
from gate_truth import (
    DRAWS_ALIKE,
    DRAWS_PLANTED,
    Comparison,
    Record,
    decide,
    load,
    missed,
    outcomes,
    record_live,
    record_medians,
    save,
)

from edgekit.latency.turns import Thing
from edgekit.reports.fresh import Fresh


def medians(scatter: float, count: int = 300) -> list[float]:
    return [float(ms) for ms in np.exp(np.random.default_rng(0).normal(0, scatter, count))]


def recorded(quiet: float, loaded: float) -> Record:
    return Record({}, {"quiet": medians(quiet), "loaded": medians(loaded)}, [])


def test_a_quiet_machine_reaches_the_goals_and_a_loaded_one_decides_nothing_wrong() -> None:
    decided = decide(recorded(0.01, 0.2))
    assert missed(decided) == []
    assert decided["quiet, 8 % slower"]["slower"] >= 95
    assert decided["loaded, alike"]["undecided"] == DRAWS_ALIKE


def test_what_is_planted_is_not_found_in_noise_and_that_misses_a_goal() -> None:
    goals = missed(decide(recorded(0.1, 0.1)))
    assert len(goals) == 1
    assert goals[0].startswith("quiet, 8 % slower: found in ")


def test_a_gate_that_calls_alike_things_slower_misses_a_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcomes(medians(0.01), 1.2, DRAWS_PLANTED, 1) == Counter({"slower": DRAWS_PLANTED})
    monkeypatch.setattr(gate_truth, "outcomes", lambda medians, slower, draws, seed: Counter({"slower": draws}))
    goals = missed(decide(recorded(0.01, 0.01)))
    assert goals == [
        "quiet, alike: 200 false verdicts, 2 allowed",
        "loaded, alike: 200 false verdicts, 0 allowed",
    ]


def test_a_live_comparison_that_misses_what_was_planted_is_false() -> None:
    record = recorded(0.01, 0.01)
    planted = Comparison("loaded", gate_truth.PLANTED, "not slower", 1.0, 0.01)
    record.live = [planted, Comparison("quiet", 1.0, "slower", 1.0, 0.01)]
    assert missed(decide(record)) == [
        "quiet, alike, live: 1 false verdicts, 0 allowed",
        "loaded, 8 % slower, live: 1 false verdicts, 0 allowed",
    ]


def test_recording_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def timed(thing: Thing, seconds: float) -> Fresh:
        asked.append(thing.label)
        if len(asked) == 45:
            raise KeyboardInterrupt
        return Fresh(1, "end-to-end", 1.0, 1, (1.0,), 1.0, (1.0,), 1, None, "stable", {})

    monkeypatch.setattr(gate_truth, "timed", timed)
    file = tmp_path / "record.json"
    with pytest.raises(KeyboardInterrupt):
        record_medians(load(file), "quiet", file)
    record = load(file)
    assert len(record.medians["quiet"]) == 40
    record_medians(record, "quiet", file)
    assert len(load(file).medians["quiet"]) == gate_truth.PROCESSES
    assert len(asked) == 45 + gate_truth.PROCESSES - 40


def test_live_comparisons_take_turns_between_states_and_what_is_planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Fresh(1, "end-to-end", 1.0, 1, (1.0,), 1.0, (1.0,), 1, None, "stable", {})
    monkeypatch.setattr(gate_truth, "time_fresh", lambda *given: fresh)
    monkeypatch.setattr(gate_truth, "burn", lambda: None)
    record = Record({}, {}, [])
    record_live(record, tmp_path / "record.json")
    assert len(record.live) == gate_truth.LIVE
    assert Counter((one.state, one.slower, one.verdict) for one in record.live) == {
        ("quiet", 1.0, "not slower"): 5,
        ("loaded", 1.0, "not slower"): 5,
        ("quiet", 1.08, "slower"): 5,
        ("loaded", 1.08, "slower"): 5,
    }


def test_a_record_of_another_machine_is_not_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    save(Record({"cpu": "another"}, {}, []), file)
    with pytest.raises(SystemExit, match="another machine"):
        load(file)


def test_a_record_of_another_release_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text('{"machine": 1}')
    with pytest.raises(SystemExit, match=r"record\.json is no result of this release: .+; give another --file, or remove it"):
        load(file)
