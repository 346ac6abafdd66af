"""Helpers of tests that call the command line: its result, and input files."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from PIL import Image

RECIPE = """
name = "tiny"

[data]
dataset = "image-folder"
path = "{data}"
resize = 28
color = "grey"

[model]
name = "lenet"

[train]
epochs = {epochs}
batch_size = 16
learning_rate = 0.01
min_accuracy = {bar}

[bench]
batch = [1]
seconds = {seconds}
threads = 1
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document on stdout, which must hold nothing else."""
        document: dict[str, Any] = json.loads(self.out)
        return document


Command = Callable[..., Result]


def process(*args: object, environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """``edgekit ARGS`` in a process of its own; how far it is, where it takes long, is left out of its stderr."""
    command = [sys.executable, "-m", "edgekit", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False, timeout=1800)
    done.stderr = without_progress(done.stderr)
    return done


def answered_here(command: Sequence[str], key: str) -> dict[str, Any]:
    """What a probe of ``edgekit doctor`` answers, in this process: each of its own would import a runtime anew."""
    with mock.patch.object(sys, "argv", list(command)), redirect_stdout(StringIO()) as printed, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the module was imported before it runs as a program
        runpy.run_module(command[0], run_name="__main__")
    answers = [json.loads(line) for line in printed.getvalue().splitlines() if line.startswith("{")]
    return next(answer for answer in reversed(answers) if key in answer)


def without_progress(stderr: str) -> str:
    """What a command said, without the lines like ``verifying  1/3  torch`` that come every ten seconds of work."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not re.match(r"\S.*  \d+/\d+(  |$)", line))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below ``folder``, hidden ones too -> the file's bytes, or None for a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def damaged(bundle: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    (bundle / name).write_bytes(change((bundle / name).read_bytes()))
    return bundle


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def picture(path: Path, size: int = 28) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size), np.uint8)).save(path)
    return path


def banded_pictures(folder: Path) -> Path:
    """``folder/pictures`` with 40 learnable pictures of each of two classes, bright above and bright below."""
    rng = np.random.default_rng(0)
    for name, rows in (("high", slice(0, 9)), ("low", slice(19, 28))):
        (folder / "pictures" / name).mkdir(parents=True)
        for index in range(40):
            pixels = rng.integers(0, 80, (28, 28))
            pixels[rows] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "pictures" / name / f"{index}.png")
    return folder / "pictures"


def recipe_text(data: Path | str = "pictures", epochs: int = 2, bar: float = 0.0, seconds: float = 0.05) -> str:
    return RECIPE.format(data=data, epochs=epochs, bar=bar, seconds=seconds)


ENDLESS = "x" * 5000
