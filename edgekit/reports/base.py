"""Every report: a frozen struct that goes to JSON and back, and draws itself as a page.

``passed`` is what the exit code says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec

from edgekit.errors import InputError, printable
from edgekit.reports.page import Line, Page, Span, Tone, visible_json
from edgekit.setups import Absence

Kind = TypeVar("Kind", bound="Report")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of a report."""


class Case(NamedTuple):
    """One check of a report, for a CI server: ``text`` says why it failed, or why it was not made (``passed`` None)."""

    name: str
    passed: bool | None
    text: str = ""


class Report(Part, frozen=True):
    """What a verb found.

    ``kept_as``: the name under which the command line leaves it in the state folder, for ``edgekit report``; empty: nowhere.
    """

    kept_as: ClassVar[str] = ""

    @property
    def of_one_bundle(self) -> bool:
        """Whether all of it is about the bundle that it would be kept under."""
        return True

    def outlasts(self, newer: Report) -> bool:
        """Whether it says all that a ``newer`` one of its kind says and stands on more, so that it stays where it is kept."""
        return False

    @property
    def passed(self) -> bool:
        """False when a check failed: exit code 1."""
        return True

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the work, and the report holds what was known by then: exit code 128 + its number."""
        return False

    @property
    def undecided(self) -> bool:
        """True where what was measured decides nothing, and that is no pass: exit code 3."""
        return False

    def page(self) -> Page:
        """What a reader sees of it; every report says this for itself."""
        return ()

    def figures(self) -> Page:
        """Charts and pictures that a document shows beside the page."""
        return ()

    def cases(self) -> tuple[Case, ...]:
        """Its checks one by one, for a CI server; one for the whole report, unless it says more."""
        return (Case("passed", self.passed),)

    def to_json(self) -> bytes:
        """One indented JSON document."""
        document = msgspec.to_builtins(self)
        document["passed"] = self.passed
        try:
            content = msgspec.json.encode(document)
        except UnicodeEncodeError:  # a path in it is no valid text
            content = msgspec.json.encode(_printable(document))
        return visible_json(msgspec.json.format(content, indent=2))

    def as_files(self, place: Path) -> dict[Path, bytes]:
        """What is written for ``--output place``, the report itself last."""
        return {place: self.to_json() + b"\n"}

    def to_jsonl(self) -> bytes:
        """The report as lines of JSON: one, where a report has no rows to give a line each."""
        return msgspec.json.format(self.to_json(), indent=-1) + b"\n"

    @classmethod
    def from_json(cls: type[Kind], content: bytes) -> Kind:
        """The inverse of ``to_json``; raises InputError for anything else."""
        try:
            document: dict[str, Any] = msgspec.json.decode(content, type=dict[str, Any])
            document.pop("passed", None)
            return msgspec.convert(document, cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise InputError(f"not a {cls.__name__}: {problem}; make the report again") from None


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    return {printable(name): _printable(item) for name, item in value.items()} if isinstance(value, dict) else value


class Skipped(Part, frozen=True):
    """A backend that did not take part, and why.

    ``backend`` is its name in this report (``edgekit.setups.labels``), with the variant where it runs others; ``left_out``: it
    could run, and would show nothing. The rest says what ``edgekit.setups.Absence`` does.
    """

    backend: str
    reason: str
    remedy: str = ""
    broken: bool = False
    left_out: bool = False

    @classmethod
    def of(cls, backend: str, absence: Absence) -> Skipped:
        """A backend that is absent here."""
        return cls(backend, absence.reason, absence.remedy, absence.broken)

    @property
    def absence(self) -> Absence:
        """Why it did not take part."""
        return Absence(self.reason, self.remedy, self.broken)


def absent(skipped: Sequence[Skipped]) -> Page:
    """Who did not take part: one line of names, and why only for readers who asked for more."""
    left_out = reasons([row for row in skipped if row.left_out], "left out")
    missing = [row for row in skipped if not row.left_out]
    if not missing:
        return left_out
    names = ", ".join(f"{row.backend} (broken)" if row.broken else row.backend for row in missing)
    whole = (msgspec.structs.replace(line, when="verbose") for line in reasons(missing))
    return (*left_out, Line(Span(f"not present: {names} (-v tells why)", "dim"), "brief"), *whole)


def reasons(skipped: Iterable[Skipped], heading: str = "not present", tone: Tone = "dim") -> tuple[Line, ...]:
    """One line for each reason: without a driver it is the same for all that need one."""
    names: dict[str, list[str]] = {}
    for row in skipped:
        names.setdefault(str(row.absence), []).append(row.backend)
    return tuple(Line(Span(f"{heading}: {', '.join(names[reason])}: {reason}", tone)) for reason in names)
