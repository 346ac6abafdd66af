"""The examples of ``docs/program.md`` print what the page says."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

BLOCKS = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def test_every_example_prints_what_the_page_says(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    text = (repository / "docs" / "program.md").read_text(encoding="utf-8")
    examples = BLOCKS.findall(text)
    assert len(examples) == text.count("```python") >= 4
    names: dict[str, Any] = {}
    for code, expected in examples:
        with redirect_stdout(StringIO()) as output:
            exec(code, names)
        assert output.getvalue() == expected
