"""Help, version and wrong usage of every command."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
import typer.main

import edgekit
from edgekit.cli.app import app
from edgekit.latency.loop import MOST_PROCESSES
from edgekit.latency.signflip import MOST_PAIRS
from edgekit.tensors import LARGEST_BATCH
from tests.command_line import Command


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


ROOT: Any = typer.main.get_command(app)
COMMANDS = list(commands(ROOT))


def command_of(path: tuple[str, ...]) -> Any:
    command = ROOT
    for name in path:
        command = command.commands[name]
    return command


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
        (("verify", "b", "--rtol", "-1"), "--rtol: give a number from 0 to 1; see edgekit verify --help"),
        (("verify", "b", "--atol", "abc"), "--atol: give a number of 0 or more; see edgekit verify --help"),
        (("evaluate", "b", "--min-accuracy", "90"), "--min-accuracy: give a number from 0 to 1; see edgekit evaluate --help"),
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
        (("verify", ""), "BUNDLE: an empty word is no BUNDLE; see edgekit verify --help"),
        (("predict", "b", "a.png", ""), "IMAGE: an empty word is no IMAGE; see edgekit predict --help"),
        (("verify", "b", "--output="), "--output: an empty word is no FILE; see edgekit verify --help"),
    ],
    ids=" ".join,
)
def test_wrong_usage_says_what_to_give(run: Command, args: tuple[str, ...], sentence: str) -> None:
    assert run(*args).err == f"error: {sentence}\n"


def numbers_of(path: tuple[str, ...], place: int) -> tuple[type, float | None, float | None] | None:
    """Which numbers a parameter takes: their type, the least and the most; None for a parameter of other values."""
    parameter = command_of(path).params[place]
    kind = next((kind for kind in (int, float) if re.search(rf"\b{kind.__name__}\b", annotation_of(path, parameter.name))), None)
    return None if kind is None else (kind, parameter.min, parameter.max)


def annotation_of(path: tuple[str, ...], name: str) -> str:
    """The type of a parameter, as the command's function has it."""
    return str(get_type_hints(inspect.unwrap(command_of(path).callback))[name])


VALUED = [
    (path, place)
    for path in COMMANDS
    for place, parameter in enumerate(command_of(path).params)
    if not getattr(parameter, "is_flag", False)
]
"""The commands with the places of those parameters that take a value."""


@pytest.mark.parametrize(("path", "place"), VALUED, ids=lambda part: " ".join(part) if isinstance(part, tuple) else str(part))
def test_no_value_is_an_empty_word(run: Command, path: tuple[str, ...], place: int) -> None:
    parameter = command_of(path).params[place]
    arguments = [each for each in command_of(path).params if each.param_type_name == "argument"]
    words = ["" if each is parameter else "x" for each in arguments]
    if parameter.param_type_name == "option":
        words += [parameter.opts[0], ""]
    result = run(*path, *words, "--json")
    assert result.code == 2
    name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
    assert result.err.startswith(f"error: {name}: ")
    assert result.document["error"]["kind"] == "UsageError"


NUMERIC = [(path, place) for path, place in VALUED if numbers_of(path, place) is not None]


@pytest.mark.parametrize(("path", "place"), NUMERIC, ids=lambda part: " ".join(part) if isinstance(part, tuple) else str(part))
def test_what_is_no_number_of_an_option_is_told_with_its_range(run: Command, path: tuple[str, ...], place: int) -> None:
    numbers = numbers_of(path, place)
    assert numbers is not None
    kind, least, most = numbers
    assert least is not None, "it takes any number"
    allowed = f"from {least} to {most}" if most is not None else f"of {least} or more"
    arguments = ["x" for each in command_of(path).params if each.param_type_name == "argument"]
    below, above = str(least - 1), [] if most is None else [str(most + 1), "inf", "1e999"][: 3 if kind is float else 1]
    for word in ("nan", "much", "-inf", "9" * 5000 + "x", "", below, *above, *(["1.5", "inf"] if kind is int else [])):
        name = command_of(path).params[place].opts[0]
        expected = f"{name}: give a {'whole ' * (kind is int)}number {allowed}; see edgekit {' '.join(path)} --help"
        assert run(*path, *arguments, f"{name}={word}").err == f"error: {expected}\n"


def test_the_ranges_are_those_of_what_takes_the_numbers() -> None:
    bench, tune = ({each.name: each for each in command_of((name,)).params} for name in ("bench", "tune"))
    assert (bench["pairs"].max, bench["processes"].max, tune["batch"].max) == (MOST_PAIRS, MOST_PROCESSES, LARGEST_BATCH)


def test_an_empty_word_does_not_hide_the_help(run: Command) -> None:
    assert run("verify", "", "--help") == run("verify", "--help")


def test_a_group_without_a_command_shows_its_help_and_fails(run: Command) -> None:
    for args in ((), ("data",)):
        result = run(*args)
        assert result.code == 2
        assert "Usage: edgekit" in result.err + result.out
