"""Who is not present is one line; ``-v`` tells why, and the JSON has it all either way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgekit.backends import row_of
from edgekit.cli.app import app
from edgekit.setups import Absence, Setup


@pytest.mark.parametrize("command", [("verify",), ("bench", "--batch", "1", "--seconds", "0.01")], ids=lambda words: words[0])
def test_why_backends_are_not_present_is_told_on_request(
    command: tuple[str, ...], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absence(setup: Setup, files: object) -> Absence | None:
        if setup.backend == "ort-cpu":
            return None
        return Absence("it crashes", "", broken=True) if setup.backend == "torch" else Absence("no driver", "install one")

    monkeypatch.setattr("edgekit.backends.choose.absence", absence)
    monkeypatch.setattr("edgekit.backends.choose.checked", lambda setup: setup)
    monkeypatch.setattr("edgekit.backends.choose.table", lambda: dict.fromkeys(("torch", "ort-cpu", "a", "b"), row_of("ort-cpu")))

    def shown(*more: str) -> str:
        result = CliRunner().invoke(app, [command[0], str(bundle), *command[1:], *more])
        assert result.exit_code == 0
        return result.stdout

    def told(*more: str) -> list[str]:
        return [line for line in shown(*more).splitlines() if line.startswith("not present")]

    assert told() == ["not present: torch (broken), a, b (-v tells why)"]
    for word in ("-v", "--verbose"):
        assert told(word) == ["not present: torch: it crashes", "not present: a, b: no driver; install one"]
    for more in ((), ("-v",)):
        skipped = json.loads(shown("--json", *more))["skipped"]
        assert [(row["backend"], row["reason"], row["remedy"]) for row in skipped] == [
            ("torch", "it crashes", ""), ("a", "no driver", "install one"), ("b", "no driver", "install one"),
        ]  # fmt: skip
