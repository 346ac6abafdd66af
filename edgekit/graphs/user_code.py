"""Name the line of a model's own code at which running or tracing it fails, and what to change there."""

from __future__ import annotations

import linecache
import os
import re
import site
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from edgekit.errors import first_line

_EDGEKIT = f"{Path(__file__).resolve().parents[1]}{os.sep}"
_TORCH = f"{Path(torch.__file__).resolve().parent}{os.sep}"
_STANDARD = f"{Path(sysconfig.get_path('stdlib')).resolve()}{os.sep}"
_SITES = tuple(f"{Path(place).resolve()}{os.sep}" for place in (*site.getsitepackages(), site.getusersitepackages()))
"""Folders of packages, some of them inside Python's own; packages of models, such as torchvision, are the user's code."""
_LONGEST = 60


class Line(NamedTuple):
    """A line of Python code."""

    file: str
    number: int

    def __str__(self) -> str:
        """The file, the number, and the code where it can be read."""
        code = linecache.getline(self.file, self.number).strip()
        code = code if len(code) <= _LONGEST else f"{code[:_LONGEST]}..."
        return f"{_short(self.file)}, line {self.number}" + (f": {code}" if code else "")


def _short(file: str) -> str:
    folder = f"{os.getcwd()}{os.sep}"
    return file.removeprefix(folder) if file.startswith(folder) else os.sep.join(Path(file).parts[-2:])


def _last_of_user(frames: Iterable[tuple[str, int]]) -> Line | None:
    """The innermost line of ``frames`` that is the user's."""
    for file, number in reversed([*frames]):
        place = str(Path(file).resolve())
        standard = place.startswith(_STANDARD) and not place.startswith(_SITES)
        if not file.startswith("<") and not place.startswith((_EDGEKIT, _TORCH)) and not standard:
            return Line(file, number)
    return None


def line_of(problem: BaseException) -> Line | None:
    """The innermost line of the user's code that an exception passed; None if it passed none."""
    return _last_of_user((frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(problem.__traceback__))


@contextmanager
def fixed_sizes() -> Iterator[list[Line]]:
    """While the context is open, collect the lines at which the tracer finds that a free axis must be one number.

    It wraps a private method of PyTorch; without that the list stays empty.
    """
    lines, depth = list[Line](), len(traceback.extract_stack())
    original: Callable[..., Any] | None = getattr(ShapeEnv, "_set_replacement", None)
    if original is None:
        yield lines
        return

    def watched(env: ShapeEnv, symbol: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        line = _last_of_user((frame.filename, frame.lineno or 0) for frame in traceback.extract_stack()[depth:])
        if getattr(target, "is_number", False) and line is not None:
            lines.append(line)
        return original(env, symbol, target, *args, **kwargs)

    with mock.patch.object(ShapeEnv, "_set_replacement", watched):
        yield lines


_FIXED = (r"Constraints violated", "the batch becomes one number", "use x.shape[0] or -1, and x.flatten(1)")
_UNTRACEABLE = (
    _FIXED,
    (r"Could not guard on data-dependent", "Python decides by a tensor's values", "use torch.where in place of if"),
    (
        r"Could not extract specialized|data-dependent",
        "a tensor's values become a Python number",
        "keep it a tensor: leave out int(), float() and .item()",
    ),
    (r"\.numpy\(\) is not supported", "numpy computes", "compute it with torch"),
)
"""Patterns of what the tracer says, what that means, and what to do."""
_ELSE = "keep Python branches on tensor values and fixed batch sizes out of forward()"


class Refusal(NamedTuple):
    """Why a model is refused, and what to do."""

    reason: str
    remedy: str


def untraceable(problem: BaseException, fixed: Iterable[Line]) -> Refusal:
    """Why the tracer refused, with the line; ``fixed``: lines at which it fixed an axis."""
    text = str(problem)
    reason = first_line(problem).partition(" For more information, run with")[0]
    line = line_of(problem)
    for row in _UNTRACEABLE:
        pattern, meaning, remedy = row
        if re.search(pattern, text):
            place = next(iter(fixed), None) if row is _FIXED else line
            return Refusal(f"{meaning} ({place})", remedy) if place else Refusal(reason, _ELSE)
    return Refusal(f"{reason} ({line})" if line else reason, _ELSE)


def unrunnable(problem: BaseException, shapes: str, takes_one: bool) -> Refusal:
    """Why ``forward`` refused tensors of ``shapes``; ``takes_one``: it takes the first sample of them alone."""
    line = line_of(problem)
    where = f" ({line})" if line else ""
    if takes_one:
        return Refusal(
            f"takes a batch of 1 alone, and fails on {shapes}: {first_line(problem)}{where}",
            "let forward() take any batch: x.flatten(1) in place of x.view(1, -1)",
        )
    return Refusal(
        f"does not take an input of {shapes} (the batch in front): {first_line(problem)}{where}",
        "check --input-shape: its first axis is the batch, so pictures are 1xCxHxW",
    )
