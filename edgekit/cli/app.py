"""The command line: words in, a command called, its report out. Nothing heavy is imported before a command needs it.

Exit codes: 0 all well; 1 a check failed; 2 wrong usage, bad input, or something missing here; 3 undecided; 130 stopped by Ctrl-C,
143 by SIGTERM, 129 by SIGHUP.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from edgekit.cli import checking, deploying, exporting, timing, training
from edgekit.cli.narrow import is_narrow, plain_help
from edgekit.cli.options.numbers import range_of
from edgekit.numerals import decimal

COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (training.run, "edgekit run recipes/lenet.toml"),
    (training.train, "edgekit train recipes/lenet.toml"),
    (exporting.export, "edgekit export torchvision.models:resnet18 --input-shape 1x3x224x224 --output exported/r18"),
    (exporting.quantize, "edgekit quantize exported/densenet --to int8 --budget accuracy=-0.3pt --output exported/densenet8"),
    (exporting.pack, "edgekit pack exported/lenet"),
    (exporting.unpack, "edgekit unpack lenet.zip"),
    (checking.verify, "edgekit verify exported/lenet --backend tensorrt --engine lenet.plan"),
    (checking.evaluate, "edgekit evaluate exported/lenet --data photos/ --min-accuracy 0.9"),
    (timing.bench, "edgekit bench exported/new --against exported/old --limit 5% --threads 1"),
    (timing.tune, "edgekit tune exported/edgenet --budget accuracy=-0.3pt --budget p99=5ms"),
    (deploying.build, "edgekit build exported/lenet --batch 1:8:32 --output lenet.plan"),
    (checking.inspect, "edgekit inspect exported/lenet"),
    (deploying.predict, "edgekit predict exported/lenet shirt.png photos/ --csv labels.csv"),
    (training.models, "edgekit models --json"),
    (training.runs, "edgekit runs runs/lenet runs/lenet-wide --plot curves.png"),
    (checking.doctor, "edgekit doctor --bench"),
    (checking.report, "edgekit report exported/lenet --output lenet.html"),
    (deploying.web, "edgekit web exported/lenet lenet-page"),
    (checking.diff, "edgekit diff exported/lenet lenet-of-last-week"),
)
"""Each command with its example, in the order of ``edgekit --help``."""
DATA: tuple[tuple[Callable[..., None], str], ...] = (
    (training.fetch, "edgekit data fetch fashion-mnist"),
    (training.cache, "edgekit data cache --remove"),
)
"""Those of ``edgekit data``."""

# typer brings its own copy of click, or uses the installed one: this is UsageError in either
_TyperUsageError: Any = typer.BadParameter.__bases__[0]


class _Placed:
    """A command whose wrong words are told with its own page of help: the parser does not say whose they are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words; raises click's UsageError with the context.

        So it does for an empty word, which nothing is, and for a number out of its option's range: those of typer have no open
        ends, and some of its releases let nan through.
        """
        given = list(args)  # the parser empties it
        try:
            words: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]  # of the class beside this one
            values, rest = self._as_given(ctx, given)
            self._check_no_empty_rest(ctx, rest)
            self._check_no_empty_value(ctx, values)
            self._check_numbers(ctx, values)
        except _TyperUsageError as problem:
            problem.ctx = problem.ctx or ctx
            self._check_no_empty_rest(ctx, self._as_given(ctx, given)[1])
            raise
        return words

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page of help: tables, or in a narrow window lines."""
        if is_narrow():
            formatter.write(plain_help(self, ctx))
        else:
            super().format_help(ctx, formatter)  # type: ignore[misc]  # of the class beside this one

    def _as_given(self, ctx: Any, given: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The parameters' words as they were given, and the words beside them; nothing of an option that is told as it is."""
        command: Any = self
        try:
            values, rest, _ = ({}, [], []) if ctx.resilient_parsing else command.make_parser(ctx).parse_args(args=[*given])
        except _TyperUsageError:
            return {}, []
        return values, rest

    def _check_no_empty_value(self, ctx: Any, values: dict[str, Any]) -> None:
        """Raise BadParameter for an empty word, as a shell's unset variable leaves it: as a path it would be the folder here."""
        command: Any = self
        for parameter in command.get_params(ctx):
            value = values.get(parameter.name)
            if "" in (value if isinstance(value, (list, tuple)) else [value]):
                raise typer.BadParameter(f"an empty word is no {parameter.metavar}", ctx=ctx, param=parameter)

    def _check_no_empty_rest(self, ctx: Any, rest: list[str]) -> None:
        """Raise UsageError for an empty word that is no parameter's: where a command's name stands, or one too many."""
        of_group = hasattr(self, "commands")
        if "" in (rest[:1] if of_group else rest):
            raise _TyperUsageError(f"an empty word is no {'command' if of_group else 'argument'}", ctx=ctx)

    def _check_numbers(self, ctx: Any, values: dict[str, Any]) -> None:
        """Raise BadParameter for a number that its option does not take, or in other words than edgekit's: Python takes 1_0."""
        command: Any = self
        for parameter in command.get_params(ctx):
            taken, value, word = range_of(parameter), ctx.params.get(parameter.name), values.get(parameter.name)
            if taken is None or value is None:
                continue
            if not taken.takes(value) or (isinstance(word, str) and decimal(word) is None):
                raise typer.BadParameter(f"{value} is not in the range {taken.text}", ctx=ctx, param=parameter)


class _Command(_Placed, TyperCommand):
    pass


class _Group(_Placed, TyperGroup):
    pass


app = typer.Typer(
    name="edgekit",
    cls=_Group,
    help="Train, fold, export, verify and time vision models, and ship bundles that prove themselves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: edgekit run recipes/lenet.toml",
)
data_app = typer.Typer(cls=_Group, help="Datasets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

for group, commands in ((app, COMMANDS), (data_app, DATA)):
    for command, example in commands:
        group.command(cls=_Command, epilog=f"Example: {example}")(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from edgekit.version import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def _forget_no_width() -> None:
    """Drop a ``COLUMNS`` of 0, as consoles that do not know their width set it: rich would draw nothing at all in it."""
    if not os.environ.get("COLUMNS", "").strip().strip("0"):
        os.environ.pop("COLUMNS", None)


def _print_help(text: str) -> None:
    """Print a page of help on stdout; the tables, which rich has printed by itself, are no ``text``."""
    try:
        if text and sys.stdout is not None:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
    except OSError as problem:
        from edgekit.cli.outcome import say_unwritten

        say_unwritten(problem)


def main() -> NoReturn:
    """The entry point: under ``--json`` and ``--jsonl`` wrong usage too is one JSON document."""
    _forget_no_width()
    try:
        code = app(prog_name="edgekit", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # help is written without
        elif not code:  # commands say so by themselves
            raise OSError("it is closed")
    except typer.Abort:
        sys.exit(130)
    except SystemExit as end:  # click's, where the reader of help has gone away, which is no error
        sys.exit(0 if isinstance(end.__context__, BrokenPipeError) else end.code)
    except _TyperUsageError as problem:
        from edgekit.cli.outcome import complain, print_error

        if type(problem).__name__ == "NoArgsIsHelpError":  # nothing was asked: the whole help
            _print_help(problem.format_message())
            sys.exit(2)
        from edgekit.cli.usage import usage_sentence

        sentence = usage_sentence(problem)
        if {"--json", "--jsonl"} & {*sys.argv}:
            with suppress(typer.Exit):  # stdout takes no document, which has been said
                print_error("UsageError", sentence, "json" if "--json" in sys.argv else "jsonl")
        complain(f"error: {sentence}")
        sys.exit(2)
    except OSError as problem:  # of --help and --version, and where stderr takes no sentence: commands print by themselves
        from edgekit.cli.outcome import say_unwritten

        say_unwritten(problem)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)
