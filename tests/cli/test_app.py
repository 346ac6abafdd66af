"""Help, version and wrong usage of every command."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from math import inf, isfinite, nan
from operator import ge, gt, le, lt
from typing import Any, get_type_hints

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

import edgekit
from edgekit.backends.tensorrt.options import LARGEST_WORKSPACE
from edgekit.cli.app import app
from edgekit.cli.options.numbers import Range, range_of
from edgekit.latency.loop import MOST_PROCESSES, Timing
from edgekit.latency.prediction import FEWEST_PROCESSES
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
        (("verify", "b", "--rtol", "-1"), "--rtol: give a number of 0 or more, below 1; see edgekit verify --help"),
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
        (("",), "an empty word is no command; see edgekit --help"),
        (("data", ""), "an empty word is no command; see edgekit data --help"),
        (("doctor", ""), "an empty word is no argument; see edgekit doctor --help"),
        (("verify", "b", ""), "an empty word is no argument; see edgekit verify --help"),
        (("", "--nothing"), "an empty word is no command; see edgekit --help"),
        (("bench", "b", "--processes", "2"), "--processes: give a whole number from 3 to 100, or 0; see edgekit bench --help"),
        (("bench", "b", "--seconds", "0"), "--seconds: give a number above 0, up to 3600; see edgekit bench --help"),
        (("bench", "b", "--budget-ms", "0"), "--budget-ms: give a number above 0; see edgekit bench --help"),
        (("verify", "b", "--rtol", "1"), "--rtol: give a number of 0 or more, below 1; see edgekit verify --help"),
    ],
    ids=" ".join,
)
def test_wrong_usage_says_what_to_give(run: Command, args: tuple[str, ...], sentence: str) -> None:
    assert run(*args).err == f"error: {sentence}\n"


def numbers_of(path: tuple[str, ...], place: int) -> tuple[type, Range | None] | None:
    """Which numbers a parameter takes: their type and range; None for a parameter of other values."""
    parameter = command_of(path).params[place]
    kind = next((kind for kind in (int, float) if re.search(rf"\b{kind.__name__}\b", annotation_of(path, parameter.name))), None)
    return None if kind is None else (kind, range_of(parameter))


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
    kind, taken = numbers
    assert taken is not None, "it takes any number"
    low, high = (next((end for end in ends if end is not None), None) for ends in (taken[:3:2], taken[1:4:2]))
    assert low is not None
    outside = [low if taken.above is not None else low - 1, *([] if high is None else [high + (taken.below is None)])]
    arguments = ["x" for each in command_of(path).params if each.param_type_name == "argument"]
    for word in (
        "nan",
        "much",
        "-inf",
        "inf",
        "1e999",
        "9" * 5000 + "x",
        "",
        "1_0",
        "٣",
        *map(str, outside),
        *["1.5"] * (kind is int),
    ):
        name = command_of(path).params[place].opts[0]
        expected = f"{name}: give a {'whole ' * (kind is int)}number {taken.sentence}; see edgekit {' '.join(path)} --help"
        assert run(*path, *arguments, f"{name}={word}").err == f"error: {expected}\n"


def test_the_ranges_are_those_of_what_takes_the_numbers() -> None:
    bench, tune, build = ({each.name: each for each in command_of((name,)).params} for name in ("bench", "tune", "build"))
    ranges = [range_of(each) for each in (bench["pairs"], bench["processes"], tune["batch"], build["workspace"])]
    assert [taken and taken.most for taken in ranges] == [MOST_PAIRS, MOST_PROCESSES, LARGEST_BATCH, LARGEST_WORKSPACE]
    assert ranges[1] is not None
    assert (ranges[1].least, ranges[1].also) == (FEWEST_PROCESSES, Timing().processes)


@given(st.builds(Range, *[st.none() | st.integers(-3, 3)] * 5), st.sampled_from([-3.5, -1, 0, 0.5, 2, 3.0, inf, -inf, nan]))
def test_a_range_takes_what_it_says(taken: Range, number: float) -> None:
    ends = [(taken.least, ge), (taken.most, le), (taken.above, gt), (taken.below, lt)]
    inside = isfinite(number) and all(end is None or compare(number, end) for end, compare in ends)
    assert taken.takes(number) == (inside or number == taken.also)


@pytest.mark.parametrize(
    ("taken", "text", "sentence"),
    [
        (Range(1, 20), "1<=x<=20", "from 1 to 20"),
        (Range(0), "x>=0", "of 0 or more"),
        (Range(above=0), "x>0", "above 0"),
        (Range(0, below=1), "0<=x<1", "of 0 or more, below 1"),
        (Range(above=0, most=60), "0<x<=60", "above 0, up to 60"),
        (Range(3, 9, also=0), "0, 3<=x<=9", "from 3 to 9, or 0"),
    ],
)
def test_a_range_is_shown_and_told(taken: Range, text: str, sentence: str) -> None:
    assert (taken.text, taken.sentence) == (text, sentence)


def test_help_shows_the_range_that_is_checked(run: Command) -> None:
    for path, place in NUMERIC:
        taken = range_of(command_of(path).params[place])
        assert taken is not None
        assert f"[{taken.text}]" in " ".join(re.sub(r"[│╭╰─╮╯]", " ", run(*path, "--help").out).split())


def test_an_empty_word_does_not_hide_the_help(run: Command) -> None:
    assert run("verify", "", "--help") == run("verify", "--help")


def test_a_group_without_a_command_shows_its_help_and_fails(run: Command) -> None:
    for args in ((), ("data",)):
        result = run(*args)
        assert result.code == 2
        assert "Usage: edgekit" in result.err + result.out
