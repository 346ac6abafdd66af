"""Write a page for each command into ``docs/commands``, with the text of ``--help``.

python docs/command_pages.py           writes the pages
python docs/command_pages.py --check   exits with 1 if a page is not up to date
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arguments import asked_to_check
from typer.main import get_command

from edgekit.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "commands"
COLUMNS = "88"  # the width that a page of the theme shows without scrolling
CHECKS = (
    "parity",
    "accuracy",
    "a latency budget",
    "a bundle slower than another",
    "an engine's precision",
    "a picture that cannot be read",
    "a broken backend in `doctor`",
    "an unfit machine in `doctor --bench`",
    "a difference in `diff`",
    "no way within the budgets in `tune`",
)
"""What gives exit code 1; README has the same words."""
INDEX = """\
# Commands

Every command takes `--json` (stdout then holds one document and nothing else) and has an example under `--help`. Without
`--json`, tables go to stdout; progress and errors always go to stderr. `edgekit --install-completion` sets up tab completion.
Exit codes:

| code | meaning |
|---|---|
| 0 | all well |
| 1 | a check failed: {checks} |
| 2 | wrong usage, bad input such as a damaged bundle, or something missing on this machine |
| 3 | `bench --against` cannot decide |
| 130, 143, 129 | stopped by Ctrl-C, SIGTERM, SIGHUP; temporary files are removed |

`--backend` takes a *setup*: a backend's name with its own options, as in `--backend "ort-cpu threads=4"` or `--backend "tensorrt
cuda-graph"`, so that one command compares several ways to run a bundle. Every row of a report bears its setup. The backends are
`torch`, `torch-cuda`, `ort-cpu`, `ort-cuda`, `ort-tensorrt`, `openvino` and `tensorrt`; another package can
[add one](../backend.md).

`edgekit run` resumes an interrupted training of the same recipe by itself; `edgekit train` needs `--resume` or `--restart`.

| variable | meaning |
|---|---|
| `EDGEKIT_CACHE`, `EDGEKIT_STATE` | folders for datasets, decoded pictures and engines, and for what this machine found out |
| `EDGEKIT_REQUIRE` | `verify --require`, as in `'ort-cpu;openvino'` |
| `EDGEKIT_SECONDS` | the seconds that a file may be worked on, as in one backend's check, or more that a program is waited for |

| command | what it does |
|---|---|
"""


def commands() -> dict[str, str]:
    """Command (``verify``, ``data fetch``) -> its summary."""
    return dict(_below(get_command(app), ()))


def pages() -> dict[str, str]:
    """File name -> the text that the file in the folder should have."""
    every = commands()
    rows = [f"| [`edgekit {name}`]({file_of(name)}) | {about} |" for name, about in every.items()]
    tree = ["```{toctree}", ":hidden:", "", *(file_of(name).removesuffix(".md") for name in every), "```"]
    texts = {"index.md": "\n".join([INDEX.format(checks=", ".join(CHECKS)) + "\n".join(rows), "", *tree, ""])}
    return texts | {file_of(name): page(name) for name in every}


def file_of(name: str) -> str:
    """The file name of a command's page."""
    return f"{name.replace(' ', '-')}.md"


def page(name: str) -> str:
    """The page of a command: the text of its ``--help``."""
    return f"# edgekit {name}\n\n```text\n$ edgekit {name} --help\n{printed(name)}\n```\n"


def printed(name: str) -> str:
    """The output of ``edgekit NAME --help`` in a terminal of 88 columns, without colours."""
    colours = ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "_TYPER_FORCE_DISABLE_TERMINAL")
    environment = {key: value for key, value in os.environ.items() if key not in colours}
    environment |= {"COLUMNS": COLUMNS, "TERMINAL_WIDTH": COLUMNS, "NO_COLOR": "1", "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "edgekit", *name.split(), "--help"]
    output = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
    return "\n".join(line.rstrip() for line in output.splitlines()).strip("\n")


def _below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(words), " ".join(command.help.split()).replace("<", "&lt;")
        return
    for name, sub in inner.items():
        if not sub.hidden:
            yield from _below(sub, (*words, name))


def main() -> None:
    """Write the pages, or check them."""
    check = asked_to_check(__doc__)
    texts = pages()
    present = {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.md")}
    if check:
        stale = sorted(name for name in texts.keys() | present.keys() if texts.get(name) != present.get(name))
        sys.exit(
            f"docs/commands: {', '.join(stale)} not up to date with --help; run python docs/command_pages.py" if stale else 0
        )
    PAGES.mkdir(exist_ok=True)
    for name in present.keys() - texts.keys():
        (PAGES / name).unlink()
    for name, text in texts.items():
        (PAGES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
