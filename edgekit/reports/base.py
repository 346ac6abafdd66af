"""Every report: a frozen struct that goes to JSON and back. ``passed`` is what the exit code says."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from edgekit.errors import InputError, printable

Kind = TypeVar("Kind", bound="Report")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of a report."""


class Report(Part, frozen=True):
    """What a verb found."""

    @property
    def passed(self) -> bool:
        """False when a check failed: exit code 1."""
        return True

    def to_json(self) -> bytes:
        """One indented JSON document."""
        document = msgspec.to_builtins(self)
        document["passed"] = self.passed
        try:
            content = msgspec.json.encode(document)
        except UnicodeEncodeError:  # a path in it is no valid text
            content = msgspec.json.encode(_printable(document))
        return msgspec.json.format(content, indent=2)

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
        return [_printable(one) for one in value]
    return {printable(name): _printable(one) for name, one in value.items()} if isinstance(value, dict) else value


class Skipped(Part, frozen=True):
    """A runtime that did not take part, and why."""

    backend: str
    reason: str
