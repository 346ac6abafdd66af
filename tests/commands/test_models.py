"""``edgekit models`` lists the shipped models."""

from __future__ import annotations

from tests.command_line import Command


def test_models_are_listed_with_their_inputs(run: Command) -> None:
    rows = run("models", "--json").document["models"]
    assert {row["name"]: row["input"] for row in rows} == {
        "lenet": "1x28x28", "lenet-scratch": "1x28x28", "edgenet": "1x4x4", "resnet18": "1x28x28", "densenet": "1x32x32",
    }  # fmt: skip
