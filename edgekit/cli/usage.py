"""Wrong usage in one sentence, as every other error is told: what is wrong, and where to look."""

from __future__ import annotations

import re
from typing import Any

from edgekit.backends import takers

_WORDS = (
    (r"Input should be greater than or equal to (\S+)", r"give \1 or more"),
    (r"Input should be less than or equal to (\S+)", r"give \1 or less"),
    (r"Input should be greater than (\S+)", r"give more than \1"),
    (r"Input should be less than (\S+)", r"give less than \1"),
    (r"Input should be a valid (?:number|integer), .*", "give a number"),
    (r"'?(.*?)'? is not in the range (.*?)\.?$", r"\1 is not in the range \2"),
    (r"'(.*)' is not a valid (?:float|integer)\.?$", "give a number"),
)
"""What pydantic and click say of a value, and the words for it."""
_THREADS = "threads"


def usage_sentence(problem: Any) -> str:
    """The sentence for a UsageError of typer's or click's: the option or argument, what is wrong, and the page that helps."""
    text = " ".join(problem.format_message().split()).rstrip(".")
    value = re.fullmatch(r"Invalid value for (.*?): (.*)", text)
    if value:
        text = f"{value[1].strip(chr(39))}: {_in_words(value[2])}"
    context = getattr(problem, "ctx", None)
    page = f"{context.command_path if context else 'edgekit'} --help"
    return f"{text[:1].lower()}{text[1:]}; {_backends_option(problem)}see {page}"


def _in_words(said: str) -> str:
    for pattern, words in _WORDS:
        if re.fullmatch(pattern, said):
            return re.sub(pattern, words, said)
    return said


def _backends_option(problem: Any) -> str:
    """Where an option that a command does not have can be written, if a backend has it."""
    option, context = getattr(problem, "option_name", ""), getattr(problem, "ctx", None)
    name = str(option).lstrip("-").replace("-", "_")
    if context is None or not any("--backend" in parameter.opts for parameter in context.command.params):
        return ""
    backends = ("ort-cpu",) if name == _THREADS else takers(name)
    return f"--backend '{backends[0]} {name.replace('_', '-')}=...' sets it for a backend, or " if backends else ""
