"""The race against the tutorial's loop is written as it goes, goes on where it stopped, and is told with its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import results
import train_keys
import train_speed
import train_table

Race = dict[str, list[list[float]]]
RACE: Race = {
    "tutorial": [[10.0, 0.80, 900], [10.0, 0.89, 900], [10.0, 0.90, 900]],
    "edgekit": [[4.0, 0.86, 500], [4.0, 0.895, 500], [4.0, 0.85, 500]],
}
KEYS = {
    "rows": {
        "the recipe": {
            "settings": {"epochs": 8},
            "seeds": [0],
            "held_out": [0.92],
            "epoch_seconds": 5.0,
            "first_epoch_seconds": 5.1,
        },
        "pad = 0": {
            "settings": {"epochs": 8},
            "seeds": [0],
            "held_out": [0.90],
            "epoch_seconds": 4.0,
            "first_epoch_seconds": 4.1,
        },
    }
}


class Races:
    """Stands for ``raced``: counts, and dies at one of the races."""

    def __init__(self, dies_at: int = 0) -> None:
        self.dies_at = dies_at
        self.seeds: list[int] = []

    def __call__(self, model: str, seed: int, root: Path) -> Race:
        self.seeds.append(seed)
        if len(self.seeds) == self.dies_at:
            raise KeyboardInterrupt
        return RACE


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(train_speed, "RESULT", tmp_path / "train_speed.json")
    monkeypatch.setattr(train_speed, "machine_facts", lambda: {"cpu": "CPU", "cores": "2", "load": "0.1"})
    return tmp_path / "train_speed.json"


def seeds_in(file: Path) -> list[str]:
    return list(json.loads(file.read_text())["models"]["lenet"]["races"])


def test_it_writes_after_each_race_and_goes_on_with_the_seeds_that_are_missing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_speed, "raced", Races(dies_at=2))
    with pytest.raises(KeyboardInterrupt):
        train_speed.measure(["lenet"], [0, 1, 2], tmp_path)
    assert seeds_in(file) == ["0"]
    rest = Races()
    monkeypatch.setattr(train_speed, "raced", rest)
    train_speed.measure(["lenet"], [0, 1, 2], tmp_path)
    assert rest.seeds == [1, 2]
    assert seeds_in(file) == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["machine", "epochs"])
def test_races_of_another_machine_or_of_other_settings_are_not_mixed_in(
    name: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_speed, "raced", Races())
    train_speed.measure(["lenet"], [0], tmp_path)
    if name == "machine":
        monkeypatch.setattr(train_speed, "machine_facts", lambda: {"cpu": "another", "cores": "2", "load": "0.1"})
    else:
        monkeypatch.setitem(train_speed.SHORT, "lenet", 3)
    again = Races()
    monkeypatch.setattr(train_speed, "raced", again)
    train_speed.measure(["lenet"], [0], tmp_path)
    assert again.seeds == [0]


def result(race: Race, target: float = 0.887) -> dict[str, Any]:
    machine = {"cpu": "CPU", "cores": "2"}
    return {"models": {"lenet": {"target": target, "torch": "2.11", "machine": machine, "races": {"0": race, "1": race}}}}


def test_the_table_has_seconds_an_epoch_and_to_the_tutorials_accuracy() -> None:
    assert "| lenet | 10.0 | 4.0 | 1/2.5 | 0.887 | 20 | 8 | 1/2.5 |" in train_table.speed(result(RACE))
    scratch = train_table.speed(result({**RACE, "scratch": [[5.0, 0.9, 500]]}))
    assert any(line.startswith("| lenet, hand-written batch norm | 10.0 | 5.0 | 1/2.0 |") for line in scratch)


def test_where_edgekit_takes_longer_the_table_says_how_many_times() -> None:
    slower = {**RACE, "edgekit": [[15.0, 0.9, 500]]}
    assert "| lenet | 10.0 | 15.0 | 1.5 times | 0.887 | 20 | 15 | 1/1.3 |" in train_table.speed(result(slower))


def test_an_accuracy_that_a_side_does_not_reach_has_no_ratio() -> None:
    assert "| lenet | 10.0 | 4.0 | 1/2.5 | 0.899 | 30 | not reached |  |" in train_table.speed(result(RACE, 0.899))


def test_each_model_has_its_own_machine_and_seeds() -> None:
    lenet = result(RACE)["models"]["lenet"]
    elsewhere = {**lenet, "machine": {"cpu": "OTHER", "cores": "8"}, "races": {"0": RACE}}
    lines = train_table.speed({"models": {"lenet": lenet, "resnet18": elsewhere}})
    assert any(line.startswith("lenet: medians over seeds 0, 1,") and "2 cores of CPU," in line for line in lines)
    assert any(line.startswith("resnet18: seed 0,") and "8 cores of OTHER," in line for line in lines)


def test_a_profile_has_the_largest_operators_and_is_on_the_page(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_speed, "raced", Races())
    train_speed.measure(["lenet"], [0], tmp_path)
    monkeypatch.setattr(train_speed, "profiled", lambda model: [("aten::convolution", 0.613), ("aten::add", 0.011)])
    monkeypatch.setattr("sys.argv", ["train_speed.py", "--profile", "--models", "lenet"])
    train_speed.main()
    assert seeds_in(file) == ["0"]
    monkeypatch.setattr(results, "RESULTS", file.parent)
    assert "| lenet | `convolution` 61% |" in results.training_speed()


def test_the_machine_of_each_training_is_told() -> None:
    facts = {"torch": "2.11"}
    of = {name: {"machine": {"cores": "2", "cpu": cpu}, "facts": facts} for name, cpu in (("a", "X"), ("b", "Y"), ("c", "X"))}
    assert results.machines(of) == ["On 2 cores of X, torch 2.11: `a`, `c`.", "On 2 cores of Y, torch 2.11: `b`."]


def test_the_table_of_keys_has_the_change_and_the_noise() -> None:
    lines = train_table.keys(KEYS, 5000)
    assert "| the recipe | 0.9200 |  | 5.0 | 5.1 |" in lines
    assert "| `pad = 0` | 0.9000 | -2.00 | 4.0 | 4.1 |" in lines
    assert "about 0.8 points" in " ".join(lines)


def test_the_page_has_the_sections_of_the_result_files_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert (results.training_speed(), results.training_keys()) == ([], [])
    assert "has not run on a quiet" in " ".join(results.before_speed({"speedup_over_tutorial": 2.7}))
    (tmp_path / "train_speed.json").write_text(json.dumps(result(RACE)))
    (tmp_path / "train_keys.json").write_text(json.dumps(KEYS))
    assert "chosen by the accuracy on the test set" in " ".join(results.training_speed())
    assert "| `pad = 0` | 0.9000 | -2.00 | 4.0 | 4.1 |" in results.training_keys()
    assert results.before_speed({"speedup_over_tutorial": 2.7}) == []


def test_rows_of_the_keys_are_known_again(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def row(name: str, settings: Any, seeds: list[int]) -> dict[str, Any]:
        trained.append(name)
        return {"settings": train_keys.as_stored(settings), "seeds": seeds}

    monkeypatch.setattr(train_keys, "RESULT", tmp_path / "train_keys.json")
    monkeypatch.setattr(train_keys, "row", row)
    for options in ([], [], ["--epochs", "9"]):
        monkeypatch.setattr("sys.argv", ["train_keys.py", "--only", "pad = 0", *options])
        train_keys.main()
    assert trained == ["pad = 0"] * 2
