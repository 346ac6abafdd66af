"""Wrong usage in one sentence, as every other error is told: what is wrong, and where to look."""

from __future__ import annotations

import re
from typing import Any

from edgekit.backends import takers
from edgekit.cli.options.numbers import range_of

_OF_NUMBERS = (
    r"Input should be a (valid|finite) (number|integer).*",
    r"Unable to parse input string as an integer.*",
    r"'?.*'? is not (in the range .*|a valid (float|integer).*)",
)
"""What pydantic and click say of a number, which becomes what the option takes."""
_THREADS = "threads"


def usage_sentence(problem: Any) -> str:
    """The sentence for a UsageError of typer's or click's: the option or argument, what is wrong, and the page that helps."""
    text = " ".join(problem.format_message().split()).rstrip(".")
    value = re.fullmatch(r"Invalid value for (.*?): (.*)", text)
    if value:
        of_a_number = any(re.fullmatch(pattern, value[2]) for pattern in _OF_NUMBERS)
        text = f"{value[1].strip(chr(39))}: {f'give {_numbers(problem.param)}' if of_a_number else value[2]}"
    else:
        text = f"{text[:1].lower()}{text[1:]}"
    context = getattr(problem, "ctx", None)
    page = f"{context.command_path if context else 'edgekit'} --help"
    return f"{text}; {_backends_option(problem)}see {page}"


def _numbers(parameter: Any) -> str:
    """What an option takes, like ``a whole number from 1 to 1024``; its own type says its kind where typer brings no click."""
    kind, taken = getattr(parameter, "type", parameter), range_of(parameter)
    annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    number = "a whole number" if annotation is int or str(getattr(kind, "name", "")).startswith("integer") else "a number"
    return number if taken is None else f"{number} {taken.sentence}"


def _backends_option(problem: Any) -> str:
    """Where an option that a command does not have can be written, if a backend has it."""
    option, context = getattr(problem, "option_name", ""), getattr(problem, "ctx", None)
    name = str(option).lstrip("-").replace("-", "_")
    if context is None or not any("--backend" in parameter.opts for parameter in context.command.params):
        return ""
    backends = ("ort-cpu",) if name == _THREADS else takers(name)
    return f"--backend '{backends[0]} {name.replace('_', '-')}=...' sets it for a backend, or " if backends else ""
