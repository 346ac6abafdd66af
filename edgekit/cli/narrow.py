"""Help in a narrow window, without a table: typer's cuts words there."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

TABLES = 80
"""Columns that the tables of help take."""


def is_narrow() -> bool:
    """Whether the window has no room for tables."""
    return shutil.get_terminal_size().columns < TABLES


def plain_help(command: Any, context: Any) -> str:
    """The help of a command as lines of whole words: its usage, what it does, its arguments and options in groups."""
    lines = list(_wrapped(command.get_usage(context), 0))
    for paragraph in (command.help or "").split("\n\n"):
        lines += ["", *_wrapped(paragraph, 0)]
    for title, entries in _groups(command, context).items():
        lines += ["", f"{title}:"] if entries else []
        for name, text in entries:
            lines += [*_wrapped(name, 2), *_wrapped(text, 4)]
    if command.epilog:
        lines += ["", *_wrapped(command.epilog, 0)]
    return "\n".join(lines)


def _groups(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """Each group's title, with the name and the text of what is in it."""
    groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(context):
        usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
        record = parameter.get_help_record(context)
        if record is not None:
            groups.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
    for name, child in getattr(command, "commands", {}).items():
        groups.setdefault("Commands", []).append((name, (child.help or "").split("\n\n")[0]))
    return groups


def _wrapped(text: str, indent: int) -> Iterator[str]:
    """Lines of whole words, ``indent`` spaces from the left."""
    width = shutil.get_terminal_size().columns
    yield from textwrap.wrap(
        " ".join(text.split()),
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
