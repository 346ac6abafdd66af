"""Options from words: what ``--backend "name option=value"`` says, in the types of the backend's own struct."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

import msgspec

from edgekit.backends.contract import Options
from edgekit.errors import UsageError
from edgekit.spelling import did_you_mean, literals

SWITCHES = {"on": True, "yes": True, "off": False, "no": False}
"""Words for a bool, beside those that JSON has."""


def typed(backend: str, options: Mapping[str, Any], kind: type[Options]) -> dict[str, Any]:
    """``options`` in the types of ``kind``, as JSON has them, without those that are as usual; raises UsageError for others."""
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    values = {name: _read(value, types[name]) for name, value in options.items()}
    try:
        plain = msgspec.to_builtins(msgspec.convert(values, kind, strict=False))
    except msgspec.ValidationError as problem:
        raise _refused(backend, values, types, problem) from None
    usual: dict[str, Any] = msgspec.to_builtins(kind())
    return {name: _listed(value) for name, value in plain.items() if value != usual[name]}


def choices(kind: type[Options], name: str) -> tuple[str, ...]:
    """The words that the field ``name`` of ``kind`` may be; empty for a field of another type."""
    return literals(next(field.type for field in msgspec.structs.fields(kind) if field.name == name))


def _read(value: Any, kind: Any) -> Any:
    """A word as what JSON would hold for it, as far as msgspec does not read it by itself."""
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str):
        return value
    if kind is bool:
        return SWITCHES.get(value, value)
    return value.split(",") if get_origin(kind) in (tuple, list) else value


def _listed(value: Any) -> Any:
    """The value in the form that JSON gives back."""
    return list(value) if isinstance(value, tuple) else value


def _refused(backend: str, values: Mapping[str, Any], types: Mapping[str, Any], problem: msgspec.ValidationError) -> UsageError:
    reason, _, place = str(problem).partition(" - at `$.")
    field = re.match(r"\w*", place)
    if not field or field[0] not in types:
        return UsageError(f"{backend}: {reason}")  # a sentence of the options' own
    words, name = literals(types[field[0]]), field[0].replace("_", "-")
    if words:
        near = did_you_mean(str(values[field[0]]), words)
        return UsageError(f"{backend}: no {name} {values[field[0]]!r}", f"use one of {', '.join(words)}{near}")
    return UsageError(f"{backend}: {name}: {reason[:1].lower()}{reason[1:]}", "give another value")
