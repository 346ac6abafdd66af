"""``--help`` of every command at 80 columns and in a narrow window: whole words, options in groups, nothing cut."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edgekit.cli.app import app

ROOT: Any = typer.main.get_command(app)


def paths(command: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group."""
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from paths(child, (*path, name))


def command_of(path: tuple[str, ...]) -> Any:
    command = ROOT
    for name in path:
        command = command.commands[name]
    return command


def help_of(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)  # first: the module reads the variable when it is imported
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERMINAL_WIDTH", str(width))
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    return result.stdout.splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("path", list(paths()), ids=" ".join)
def test_help_shows_every_name_and_every_word_whole(path: tuple[str, ...], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = help_of(path, monkeypatch, width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    words = {word for line in lines for word in re.split(r"[\s│,]+", line)}
    for parameter in command_of(path).params:
        for text in (*parameter.opts, *parameter.secondary_opts) if parameter.param_type_name == "option" else ():
            assert text in words
        for word in re.split(r"[\s,]+", getattr(parameter, "help", None) or ""):
            assert word in words


@pytest.mark.parametrize("path", [path for path in paths() if path], ids=" ".join)
def test_a_help_text_has_room_for_some_words_a_line(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """An option takes at most four lines."""
    run = longest = 0
    for line in help_of(path, monkeypatch, 80):
        run = run + 1 if re.match(r"│ {8}", line) else 0
        longest = max(longest, run)
    assert longest <= 3


def test_options_stand_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = [match[1] for line in help_of(("export",), monkeypatch, 80) if (match := re.match(r"╭─ ([\w ]+) ─", line))]
    assert titles == ["Arguments", "Options", "What is written", "The model", "Whose it is", "In other formats too", "The report"]
    shown = help_of(("bench",), monkeypatch, 80)
    titles = [match[1] for line in shown if (match := re.match(r"╭─ ([\w ]+) ─", line))]
    assert titles == ["Arguments", "Options", "What runs it", "Under load", "Against another", "The report"]


@pytest.mark.parametrize("columns", ["40", "80"])
@pytest.mark.parametrize("words", [(), ("data",)])
def test_help_that_nothing_was_asked_for_is_on_stdout(words: tuple[str, ...], columns: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "edgekit", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": columns},
    )
    assert (result.returncode, result.stderr.strip()) == (2, "")
    assert "Usage: edgekit" in result.stdout
