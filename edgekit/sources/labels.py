"""Names of classes in the order of the output, from the files that people keep them in and from an ONNX file's metadata."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.errors import UsageError
from edgekit.files import read_text

MOST_TEXT = 1 << 20
_LINE_END = re.compile(r"\r\n|\r|\n")
"""Not U+2028 and other characters at which str.splitlines breaks: they may stand in a label."""
_NUMBER_FIRST = re.compile(r"(?P<number>\d{1,7})(?:\s*[:,;=\t]\s*|\s+)(?P<label>.+)")
_NUMBER_LAST = re.compile(r"(?P<label>.+?)\s*[:,;=\t]\s*(?P<number>\d{1,7})")
_INSIDE = ("id2label", "names", "labels", "classes", "class_names")
"""Keys of a JSON document that hold the names of its classes, such as transformers' config.json."""


def read_labels(path: Path) -> tuple[str, ...]:
    """The labels in a file: one a line, numbered lines, or JSON; raises UsageError where their order is not plain.

    Numbered lines are ``0: cat``, ``0,cat`` or ``cat,0``, also below a header; JSON is a list, or a mapping from numbers to names
    or from names to numbers. A label may hold U+2028 and its kin: lines end in LF, CR LF or CR.
    """
    text = read_text(path, "labels file").rstrip()
    if not text.strip():
        raise UsageError(f"--labels {path} is empty", "give each class a line, in the order of the output")
    if path.suffix.lower() == ".json" or text.lstrip()[0] in "[{":
        return _of_json(text, path)
    lines = [line.strip() for line in _LINE_END.split(text)]
    if "" in lines:
        raise UsageError(f"--labels {path}: line {lines.index('') + 1} is empty", "give each class a line, or remove the line")
    if re.match(r"item\s*{", lines[0]):
        raise UsageError(
            f"--labels {path} is a label map of protocol buffers", "write its names one a line, in the order of the output"
        )
    numbered = _numbered(lines) or _numbered(lines[1:])
    return tuple(lines) if numbered is None else _by_number(numbered, path)


class _Numbered(NamedTuple):
    number: int
    label: str


def _numbered(lines: Sequence[str]) -> list[_Numbered] | None:
    """The numbers and labels of lines that count from 0 or 1; None for others, such as labels that begin with a number."""
    for pattern in (_NUMBER_FIRST, _NUMBER_LAST):
        matches = [pattern.fullmatch(line) for line in lines]
        rows = [_Numbered(int(match["number"]), match["label"].strip().strip("'\"")) for match in matches if match]
        if len(rows) == len(lines) > 1 and _first_of({row.number for row in rows}, len(rows)) in (0, 1):
            return rows
    return None


def _first_of(numbers: set[int], count: int) -> int | None:
    """The first of ``count`` numbers in a row; None where there is a gap or one twice."""
    first = min(numbers, default=0)
    return first if numbers == set(range(first, first + count)) else None


def _by_number(rows: Sequence[_Numbered], path: Path) -> tuple[str, ...]:
    first = _first_of({row.number for row in rows}, len(rows))
    if first is None:
        raise UsageError(f"--labels {path} numbers its labels with gaps or twice", "number them 0, 1, ... like the output")
    if first:
        raise UsageError(
            f"--labels {path} numbers its labels from {first} ({sorted(rows)[0].label}), and the first output is 0",
            "number them from 0, or give the labels alone, one a line, in the order of the output",
        )
    return tuple(row.label for row in sorted(rows))


def _of_json(text: str, path: Path) -> tuple[str, ...]:
    value = _literal(text)
    if isinstance(value, Mapping):
        key = next((key for key in _INSIDE if isinstance(value.get(key), (Mapping, list))), None)
        value = value if key is None else value[key]
    if isinstance(value, list) and value and all(isinstance(label, str) and label.strip() for label in value):
        return tuple(label.strip() for label in value)
    rows = _of_mapping(value)
    if not rows:
        raise UsageError(
            f"--labels {path} is neither a list of names nor a mapping between names and numbers",
            "write the names one a line, in the order of the output",
        )
    return _by_number(rows, path)


def _of_mapping(value: object) -> list[_Numbered]:
    """The rows of a mapping number -> name, number -> (code, name) or name -> number; empty for anything else."""
    if not isinstance(value, Mapping):
        return []
    rows = []
    for key, item in value.items():
        name = item[-1] if isinstance(item, (list, tuple)) and item else item
        if isinstance(name, str) and str(key).strip().isdecimal():
            rows.append(_Numbered(int(key), name.strip()))
        elif isinstance(name, int) and not isinstance(name, bool) and isinstance(key, str):
            rows.append(_Numbered(name, key.strip()))
        else:
            return []
    return rows


def label_list(text: str) -> tuple[str, ...]:
    """The names in a JSON or Python literal (a list, or a mapping with 0, 1, ...), or separated by line ends or commas.

    Empty where the text is something else.
    """
    if len(text) > MOST_TEXT:
        return ()
    value = _literal(text)
    if isinstance(value, Mapping):
        rows = _of_mapping(value)
        return tuple(row.label for row in sorted(rows)) if _first_of({row.number for row in rows}, len(rows)) == 0 else ()
    if isinstance(value, (list, tuple)):
        return tuple(map(str, value))
    parts = _LINE_END.split(text) if "\n" in text.strip() else text.split(",")
    return tuple(part.strip() for part in parts if part.strip())


def _literal(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None
