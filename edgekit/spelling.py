"""The nearest of the names there are, for the sentence that refuses another."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

LONGEST = 100
"""No longer name is compared: finding the nearest takes the square of its length."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`` (did you mean 'lenet'?)``, to end a sentence with; nothing where none of ``names`` is near ``name``."""
    by_lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1) if len(name) <= LONGEST else []
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def literals(kind: Any) -> tuple[str, ...]:
    """The words that a type allows, in its ``Literal``s; nothing where it has none."""
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    return tuple(word for part in get_args(kind) for word in literals(part))
