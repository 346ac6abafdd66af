"""The nearest known name, for a message that refuses a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

LONGEST = 100
"""Longer names are not compared, because the comparison takes the square of their length."""


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """`` (did you mean 'lenet'?)`` to end a sentence; an empty text if none of ``names`` is near ``name``, or that is no text."""
    if not isinstance(name, str):
        return ""
    by_lower = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1) if len(name) <= LONGEST else []
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def literals(kind: Any) -> tuple[str, ...]:
    """The words that a type allows through its ``Literal``s; empty if the type has none."""
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    return tuple(word for part in get_args(kind) for word in literals(part))
