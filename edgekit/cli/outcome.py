"""Carrying out a command: run it, print its report or its error, and exit with the code that it deserves."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

import msgspec
import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.text import Text

from edgekit.bundle.manifest import MANIFEST
from edgekit.errors import EdgekitError, InputError, Interrupted, OutputError, first_line, printable
from edgekit.files import check_outside, check_writable, destination, opened, sha256_of, write_together
from edgekit.graphs.quiet import listings
from edgekit.machine import stops
from edgekit.machine.fork import written
from edgekit.machine.launcher import Elsewhere
from edgekit.machine.records import Record, keep, records
from edgekit.progress import Advance, Progress
from edgekit.reports.base import Report
from edgekit.reports.console import draw
from edgekit.reports.page import visible, visible_json
from edgekit.version import __version__

WIDTH = 120  # of tables that go to a file or a pipe
OK, CHECK_FAILED, BAD_INPUT, UNDECIDED = 0, 1, 2, 3


Form: TypeAlias = Literal["page", "json", "jsonl"]
"""What goes to stdout: tables, one JSON document, or a line of JSON for each row."""
Drawing: TypeAlias = Callable[[Any], bytes]
"""A form that only one command has: its report as bytes."""


def carry_out(
    action: Callable[[Progress], Report],
    form: Form | Drawing,
    debug: bool,
    output: Path | None = None,
    bundle: Path | None = None,
    verbose: bool = False,
) -> NoReturn:
    """Run ``action``, print its report, and exit with the code that it deserves.

    The report goes to stdout in the ``form`` that was chosen, and as JSON to the file ``output`` too, which may not lie in the
    ``bundle`` that is read. With ``verbose`` the page has its longer lines. A report that has a name to be kept under is left in
    the state folder too, under that bundle.
    """
    console = _console(stderr=True)
    try:
        with stops.raised():
            with contextlib.redirect_stdout(sys.stderr), listings(debug):  # a user's model may print; stdout is for the document
                if output is not None:
                    check_output("--output", output, bundle)  # better before long work than after it
                before = _manifest_sha256(bundle)
                report = action(ConsoleProgress(console))
                _leave(report, bundle, before, console)
            if output is not None:
                write_together(report.as_files(output))
            document = _document(report, form, verbose)
    except Elsewhere as other:
        if other.line:
            complain(other.line)
        raise typer.Exit(other.code) from None
    except KeyboardInterrupt:
        print_error("Interrupted", f"stopped by {stops.words()}", form)
        console.print("stopped", highlight=False)
        raise typer.Exit(stops.exit_code()) from None
    except (Exception, SystemExit) as problem:  # a package may want to leave: there is no report, so that is no success
        if debug:
            console.print_exception()
        message = sentence(problem)
        print_error(type(problem).__name__, message, form)
        console.print(f"error: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(stops.exit_code() if isinstance(problem, Interrupted) else BAD_INPUT) from None
    _write(document)
    raise typer.Exit(exit_code(report))


def _manifest_sha256(bundle: Path | None) -> str:
    """What a bundle's reports are kept under; empty where there is no bundle, which opening it says better."""
    try:
        return "" if bundle is None else sha256_of(bundle / MANIFEST)
    except (OSError, ValueError):
        return ""


def _leave(report: Report, bundle: Path | None, before: str, console: Console) -> None:
    """Keep the report for ``edgekit report``, unless it is not whole, or another bundle has taken its bundle's place.

    One that is kept and says as much and more, by this release, stays.
    """
    if report.kept_as and report.of_one_bundle and not report.interrupted and before and _manifest_sha256(bundle) == before:
        kept = records(before).here.get(report.kept_as)
        if kept is not None and kept.edgekit == __version__ and _outlasts(kept, report):
            console.print(
                f"edgekit report goes on showing the longer {report.kept_as} of {kept.when}; to replace it run: {kept.words}",
                style="dim",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            return
        keep(before, report.kept_as, report.to_json(), shlex.join(["edgekit", *map(printable, sys.argv[1:])]))


def _outlasts(kept: Record, report: Report) -> bool:
    try:
        return type(report).from_json(bytes(kept.report)).outlasts(report)
    except InputError:
        return False


def exit_code(report: Report) -> int:
    """What a command exits with that has made this report."""
    if report.interrupted:
        return stops.exit_code()
    return UNDECIDED if report.undecided else OK if report.passed else CHECK_FAILED


def check_output(option: str, output: Path, bundle: Path | None, begins: bytes = b"{") -> None:
    """Raise OutputError unless a file can be written there, outside the bundle; ``option`` is the word that names it.

    A file that is there already is replaced only if it is empty or ``begins`` as a report of this kind does: a shell that expands
    a pattern may name a picture here.
    """
    if output.name == "-":
        raise OutputError(f"{option} takes a file's name, and - is none", "use --json for the report on stdout")
    place = destination(output)
    if bundle is not None:
        check_outside(place, bundle)
    if place.is_file() and _start(place, len(begins)) not in (b"", begins):
        raise OutputError(f"{option} would replace {output}, which is no such report", "give another name, or remove it first")
    check_writable(place.parent)


def _start(path: Path, count: int) -> bytes:
    try:
        with opened(path) as stream:
            return stream.read(count)
    except OSError:  # it cannot be read; whether it can be replaced is decided later
        return b""


class _Memory(io.StringIO):
    """Where tables are drawn before they are written: as stdout would show them."""

    encoding = "utf-8"


class _Lasting:
    """A stream that may go away, as a terminal whose ssh session is dropped: that must not end the work that it shows."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._until_gone():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._until_gone():
            self._stream.flush()

    @contextmanager
    def _until_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            give_up(self._stream)


class _Console(Console):
    """One that shows control characters instead of obeying them: names in a bundle are somebody else's."""

    @property
    def file(self) -> Any:
        """Where it writes; stderr may go away."""
        stream = Console.file.__get__(self)
        return _Lasting(stream) if self.stderr else stream

    @file.setter
    def file(self, stream: Any) -> None:
        Console.file.__set__(self, stream)  # type: ignore[attr-defined]  # mypy knows no property's own methods

    def render_str(self, text: str, **how: Any) -> Text:
        """Before it is measured, so that a line leaves room for it."""
        return super().render_str(visible(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape control characters in renderables, such as progress bars; rich keeps its own in separate segments."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def _console(**where: Any) -> Console:
    console = _Console(emoji=False, **where)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return _Console(emoji=False, width=WIDTH, **where)


def _document(report: Report, form: Form | Drawing, verbose: bool) -> bytes:
    if callable(form):
        return form(report)
    if form == "page":
        return _tables(report, verbose)
    return report.to_json() + b"\n" if form == "json" else report.to_jsonl()


def _tables(report: Report, verbose: bool) -> bytes:
    """The report goes to stdout, where ``less`` and ``>`` find it; progress and errors go to stderr."""
    memory = _Memory()
    memory.encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # it decides which lines a table is drawn with
    terminal = sys.stdout is not None and sys.stdout.isatty()
    draw(report.page(), _console(file=memory, force_terminal=terminal or None), verbose=verbose)
    return memory.getvalue().encode(memory.encoding, "replace")


def sentence(problem: BaseException) -> str:
    """The sentence for an error: the fault, its place and the remedy."""
    if isinstance(problem, EdgekitError):
        return " ".join(str(problem).split("\n"))
    if isinstance(problem, MemoryError):
        return "this machine's memory is not enough; use a smaller model, batch or picture"
    if isinstance(problem, OSError):
        where = f"{problem.filename}: " if problem.filename else ""
        return f"{where}{problem.strerror or problem}; check the path and its permissions"
    if isinstance(problem, SystemExit):
        return (
            f"something that was imported ended the program ({first_line(problem)}); edgekit doctor says which package is broken"
        )
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
        written()
    except BrokenPipeError:
        give_up(sys.stdout)
    except (AttributeError, OSError, ValueError) as problem:  # stdout is closed, or on a full disk
        say_unwritten(problem)
        raise typer.Exit(BAD_INPUT) from None


def say_unwritten(problem: Exception) -> None:
    """Report in one sentence on stderr that stdout could not be written."""
    reason = "it is closed" if sys.stdout is None else getattr(problem, "strerror", None) or problem
    give_up(sys.stdout)
    complain(f"error: stdout cannot be written: {reason}; send it elsewhere")


def complain(line: str) -> None:
    """Print a line on stderr, if stderr can be written."""
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        give_up(sys.stderr)


def give_up(stream: Any) -> None:
    """Discard a stream's unwritten rest, which the interpreter would try to write at exit, and then end with 120."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_error(kind: str, message: str, form: Form | Drawing = "json") -> None:
    """An error as the one JSON document, or as one line; a page has none, since stderr tells the error."""
    if form in ("json", "jsonl"):
        content = visible_json(msgspec.json.encode({"error": {"kind": kind, "message": printable(message)}}))
        print_document(msgspec.json.format(content, indent=2) if form == "json" else content)


LOGGED_EVERY = 10.0
"""Seconds between two lines about one piece of work, where there is no terminal for a bar."""


class ConsoleProgress:
    """Bars on a terminal; where there is none a plain line every ten seconds. ``clock`` is in seconds."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        """A bar that goes away when the work is done, or lines that stay."""
        if not self._console.is_terminal:
            yield self._lines(title, total)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bars(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(escape(title), total=total, note="")
            yield lambda steps, note: bars.update(task, advance=steps, note=escape(note))

    def _lines(self, title: str, total: int) -> Advance:
        done, last = 0, self._clock()

        def advance(steps: int, note: str) -> None:
            nonlocal done, last
            done += steps
            if self._clock() - last >= LOGGED_EVERY:
                last = self._clock()
                self.say(f"{title}  {done}/{total}  {note}".rstrip())

        return advance

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(escape(line), highlight=False)
