"""Help, version and wrong usage of every command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

import edgekit
from edgekit.cli.app import app
from tests.command_line import Command


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = list(commands(typer.main.get_command(app)))


def test_the_commands_are_those_of_the_documentation() -> None:
    names = {" ".join(path) for path in COMMANDS}
    assert names == {
        "run", "train", "export", "verify", "bench", "build", "evaluate", "quantize", "inspect", "predict", "models", "runs",
        "data fetch", "data cache", "doctor", "report", "diff", "tune", "web", "pack", "unpack",
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_a_description_an_example_and_the_common_options(run: Command, path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.code == 0
    assert f"Example: edgekit {' '.join(path)}" in result.out
    assert not re.search(r"\w \.", result.out)  # rich swallows what stands in square brackets
    assert "--json" in result.out
    assert "--debug" in result.out
    assert result.err == ""


def test_help_of_the_whole_names_every_command(run: Command) -> None:
    result = run("--help")
    assert result.code == 0
    assert all(path[0] in result.out for path in COMMANDS)
    assert run("-h").out == result.out


def test_the_version_is_printed_alone(run: Command) -> None:
    assert run("--version") == (0, f"{edgekit.__version__}\n", "")


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["console", "json"])
@pytest.mark.parametrize(
    "args",
    [
        ("frobnicate",),
        ("verify",),
        ("verify", "bundle", "--frobnicate"),
        ("verify", "bundle", "--atol", "much"),
        ("verify", "bundle", "--atol", "-1"),
        ("bench", "bundle", "--threads", "0"),
        ("export", "lenet", "--opset", "9"),
        ("predict", "bundle"),
        ("data", "frobnicate"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2_and_under_json_a_document(run: Command, args: tuple[str, ...], options: tuple[str, ...]) -> None:
    result = run(*args, *options)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert re.fullmatch(r"error: \S.*; .*see edgekit.* --help", line)
    assert "Input should" not in line
    if options:
        assert result.document["error"]["kind"] == "UsageError"
        assert result.document["error"]["message"]
    else:
        assert result.out == ""


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("verify", "b", "--rtol", "-1"), "--rtol: give 0 or more; see edgekit verify --help"),
        (("verify", "b", "--atol", "abc"), "--atol: give a number; see edgekit verify --help"),
        (("evaluate", "b", "--min-accuracy", "90"), "--min-accuracy 90 is not a share; give a share like 0.9 for 90 %"),
        (("data", "fetch"), "missing argument 'NAME'; see edgekit data fetch --help"),
        (
            ("verify", "b", "--threads", "1"),
            "no such option: --threads; --backend 'ort-cpu threads=...' sets it for a backend, or see edgekit verify --help",
        ),
        (
            ("verify", "b", "--optimisation", "off"),
            "no such option: --optimisation; --backend 'ort-cpu optimisation=...' sets it for a backend, "
            "or see edgekit verify --help",
        ),
        (("train", "b", "--threads", "1"), "no such option: --threads; see edgekit train --help"),
        (("bench", "b", "--layers=1"), "option '--layers' does not take a value; see edgekit bench --help"),
        (("data", "cache", "--help=1"), "option '--help' does not take a value; see edgekit data cache --help"),
        (("data", "--help=1"), "option '--help' does not take a value; see edgekit data --help"),
        (("--version=1",), "option '--version' does not take a value; see edgekit --help"),
        (("pack", "b", "--output"), "option '--output' requires an argument; see edgekit pack --help"),
    ],
    ids=" ".join,
)
def test_wrong_usage_says_what_to_give(run: Command, args: tuple[str, ...], sentence: str) -> None:
    assert run(*args).err == f"error: {sentence}\n"


def test_a_group_without_a_command_shows_its_help_and_fails(run: Command) -> None:
    for args in ((), ("data",)):
        result = run(*args)
        assert result.code == 2
        assert "Usage: edgekit" in result.err + result.out
