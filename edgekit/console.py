"""Carrying out a command: run it, print its report or its error, and exit with the code that it deserves."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console

from edgekit.errors import EdgekitError, Interrupted
from edgekit.progress import Progress
from edgekit.render import ConsoleProgress, render
from edgekit.reports import Report

WIDTH = 120  # of tables that go to a file or a pipe
OK, CHECK_FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


def carry_out(action: Callable[[Progress], Report], json: bool, debug: bool) -> NoReturn:
    """Run ``action``, print its report, and exit with the code that it deserves."""
    console = _console(stderr=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a user's model may print; stdout is for the document
            report = action(ConsoleProgress(console))
    except KeyboardInterrupt:
        if json:
            print_error("Interrupted", "stopped by Ctrl-C")
        console.print("stopped", highlight=False)
        raise typer.Exit(STOPPED) from None
    except Exception as problem:
        if debug:
            console.print_exception()
        message = sentence(problem)
        if json:
            print_error(type(problem).__name__, message)
        console.print(f"error: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(STOPPED if isinstance(problem, Interrupted) else BAD_INPUT) from None
    if json:
        print_document(report.to_json())
    else:
        _print_tables(report)
    raise typer.Exit(OK if report.passed else CHECK_FAILED)


class _Memory(io.StringIO):
    """Where tables are drawn before they are written: as stdout would show them."""

    encoding = "utf-8"


def _console(**where: Any) -> Console:
    console = Console(emoji=False, **where)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(emoji=False, width=WIDTH, **where)


def _print_tables(report: Report) -> None:
    """The report goes to stdout, where ``less`` and ``>`` find it; progress and errors go to stderr."""
    memory = _Memory()
    memory.encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # it decides which lines a table is drawn with
    terminal = sys.stdout is not None and sys.stdout.isatty()
    render(report, _console(file=memory, force_terminal=terminal or None))
    _write(memory.getvalue().encode(memory.encoding, "replace"))


def sentence(problem: Exception) -> str:
    """What to tell the user: what was wrong, where, and what to do."""
    if isinstance(problem, EdgekitError):
        return " ".join(str(problem).split("\n"))
    if isinstance(problem, MemoryError):
        return "this machine's memory is not enough; use a smaller model, batch or picture"
    if isinstance(problem, OSError):
        where = f"{problem.filename}: " if problem.filename else ""
        return f"{where}{problem.strerror or problem}; check the path and its permissions"
    reason = " ".join(str(problem).split())
    return f"unexpected {type(problem).__name__}: {reason}; run again with --debug and report it"


def print_document(document: bytes) -> None:
    """One document on stdout."""
    _write(document + b"\n")


def _write(content: bytes) -> None:
    """To stdout; a reader that has gone away is no error."""
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # keep the interpreter from complaining about it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AttributeError, OSError, ValueError) as problem:  # stdout is closed, or on a full disk
        say_unwritten(problem)
        raise typer.Exit(BAD_INPUT) from None


def say_unwritten(problem: Exception) -> None:
    """What was for stdout is lost: one sentence, where stderr still takes it."""
    reason = "it is closed" if sys.stdout is None else getattr(problem, "strerror", None) or problem
    with contextlib.suppress(OSError):
        print(f"error: stdout cannot be written: {reason}; send it elsewhere", file=sys.stderr)  # noqa: T201


def print_error(kind: str, message: str) -> None:
    """An error as the one JSON document."""
    message = message.encode("utf-8", "backslashreplace").decode()  # a file name may be no valid text
    print_document(msgspec.json.format(msgspec.json.encode({"error": {"kind": kind, "message": message}}), indent=2))
