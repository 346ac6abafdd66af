"""The pool of processes in the documentation runs with every way to start one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.commands.predict import predict
from tests.command_line import picture


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_labels_as_predict_does(
    method: str, bundle: Path, tmp_path: Path, repository: Path, environment: dict[str, str]
) -> None:
    page = (repository / "docs" / "processes.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert program
    (tmp_path / "label.py").write_text(program[1])
    pictures = [picture(tmp_path / f"{size}.png", size) for size in (20, 28, 40)]
    command = [sys.executable, "label.py", method, str(bundle), *map(str, pictures)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    expected = [prediction.guesses[0].label for prediction in predict(bundle, pictures).predictions]
    assert done.stdout.splitlines() == expected
