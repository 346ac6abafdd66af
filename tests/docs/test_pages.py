"""The front page is short and its links are valid; generated pages are up to date; the tutorial runs."""

from __future__ import annotations

import codeop
import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import command_pages
import pytest
import recipe_keys
import tour

import edgekit
import edgekit.errors
from edgekit.recipe import Recipe
from edgekit.version import __version__
from tests.command_line import Command, answered_here

CHECKED = ("results", "recipe_keys", "command_pages", "way", "manifest_schema", "tour")
ASKED = {"--help": 0, "--chekc": 2, "--check": 0}
"""What a script is asked, and the exit code of each."""
# runs each of the scripts argv[2:] with each of the words argv[1] as Python runs a file, and prints what came of it as JSON
SCRIPTS = """
import io, json, runpy, sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

words, scripts, outcomes, path = sys.argv[1].split(), sys.argv[2:], {}, sys.path[1:]
for script in scripts:
    for word in words if script != "tour" else words[:-1]:
        sys.path[:], sys.argv[:] = [str(Path("docs").resolve()), *path], [f"docs/{script}.py", word]
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "").parent.name in ("docs", "benchmarks"):
                del sys.modules[name]  # or a script would find what another has imported
        with redirect_stdout(io.StringIO()) as text, redirect_stderr(text):
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
                text.write(str(end.code or ""))
        outcomes[f"{script} {word}"] = code, text.getvalue()
print(json.dumps(outcomes))
"""
BLOCKS = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and Sphinx give to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_front_page_is_short(repository: Path) -> None:
    assert len((repository / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_a_link_of_a_page_outside_docs_leads_to_a_file_and_a_heading(repository: Path, name: str) -> None:
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", (repository / name).read_text(encoding="utf-8"))
    for target, anchor in links:
        if "://" not in target:
            assert (repository / target).exists(), target
            assert not anchor or anchor in anchors(repository / (target or name)), f"{target}#{anchor}"


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[int, str]]:
    """The exit code and all output of each script for each word, from one process, which has written nothing."""
    root = Path(__file__).parents[2]
    files = [path for path in (root / "docs").rglob("*.*") if "__pycache__" not in path.parts]  # others import there
    before = {path: path.stat().st_mtime_ns for path in files}
    command = [sys.executable, "-B", "-c", SCRIPTS, " ".join(ASKED), *CHECKED]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    return {asked: (code, text) for asked, (code, text) in json.loads(done.stdout).items()}


@pytest.mark.parametrize("script", [script for script in CHECKED if script != "tour"])
def test_what_a_script_writes_is_up_to_date(outcomes: dict[str, tuple[int, str]], script: str) -> None:
    code, text = outcomes[f"{script} --check"]
    assert code == 0, text


@pytest.fixture
def tour_check(run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """``docs/tour.py --check`` of a page, whose commands and the probes of ``edgekit doctor`` run in this process."""

    def printed(arguments: str, scratch: Path) -> str:
        monkeypatch.chdir(scratch)
        done = run(*arguments.format(scratch=scratch).split())
        assert done.code == 0, done.err
        return done.err + done.out

    def check(page: str) -> None:
        (tmp_path / "tour.md").write_text(page, encoding="utf-8")
        monkeypatch.setattr(tour, "PAGE", tmp_path / "tour.md")
        monkeypatch.setattr(sys, "argv", ["tour.py", "--check"])
        tour.main()

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(tour, "printed", printed)
    monkeypatch.setattr("edgekit.commands.doctor.ask", answered_here)
    return check


def test_the_tour_shows_the_columns_that_commands_print_now(tour_check: Callable[[str], None]) -> None:
    with pytest.raises(SystemExit) as done:
        tour_check(tour.PAGE.read_text(encoding="utf-8"))
    assert done.value.code is None, done.value.code


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        ("backend   median", "backend   middle", "edgekit bench .*: the columns are"),
        ("$ edgekit doctor", "$ edgekit medic", "it shows other commands"),
    ],
)
def test_a_tour_of_other_columns_or_commands_is_refused(
    tour_check: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, now: str, before: str, said: str
) -> None:
    monkeypatch.setattr(tour, "QUICK", ("bench",))
    page = tour.PAGE.read_text(encoding="utf-8")
    assert now in page
    with pytest.raises(SystemExit, match=f"{said}.*; run python docs/tour.py"):
        tour_check(page.replace(now, before))


def test_every_script_that_writes_a_page_is_checked_here(repository: Path) -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (repository / "docs").glob("*.py")}
    assert {name for name, text in texts.items() if "asked_to_check(__doc__)" in text} == set(CHECKED)


@pytest.mark.parametrize("script", CHECKED)
def test_a_script_explains_itself_and_then_does_nothing(outcomes: dict[str, tuple[int, str]], script: str) -> None:
    for word in ("--help", "--chekc"):
        code, text = outcomes[f"{script} {word}"]
        assert code == ASKED[word]
        assert f"{script}.py" in text


@pytest.mark.parametrize("module", [command_pages, recipe_keys])
def test_a_page_that_is_not_up_to_date_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--check"])
    stale = tmp_path / "page.md"
    stale.write_text("<!-- keys -->\n<!-- /keys -->\n")
    monkeypatch.setattr(command_pages, "commands", lambda: {"models": "one is enough: each page takes a process"})
    monkeypatch.setattr(module, "PAGE" if module is recipe_keys else "PAGES", stale if module is recipe_keys else tmp_path)
    with pytest.raises(SystemExit, match=r"run python docs/"):
        module.main()


def test_every_key_of_a_recipe_has_a_meaning_and_no_other() -> None:
    assert set(recipe_keys.keys()) == set(recipe_keys.MEANINGS)
    tables = {name.partition(".")[0] for name in recipe_keys.keys() if "." in name}  # noqa: SIM118
    assert tables | {"name"} == set(Recipe.__struct_fields__)


def test_the_tutorial_prints_what_it_says(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    text = (repository / "docs" / "batch-norm.md").read_text(encoding="utf-8")
    blocks = BLOCKS.findall(text)
    assert len(blocks) == text.count("```python") == 8
    names: dict[str, Any] = {}
    for code, expected in blocks:
        with redirect_stdout(StringIO()) as output:
            exec(code, names)
        assert output.getvalue() == expected


@pytest.mark.parametrize("page", ["README.md", "docs/batch-norm.md", "docs/api.md"])
def test_code_of_a_page_can_be_pasted_into_python(repository: Path, page: str) -> None:
    """Python's prompt ends an indented block at an empty line, and nowhere else."""
    blocks = re.findall(r"```python\n(.*?)```", (repository / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        typed = ""
        for line in [*block.split("\n"), ""]:
            typed = f"{typed}\n{line}" if typed else line
            interactive = codeop.compile_command(typed, symbol="single")
            ready = interactive is not None and (not line or not typed.partition("\n")[1])
            typed = "" if ready else typed
        assert not typed.strip()


def test_the_api_page_says_what_each_function_gives_and_each_error_means(repository: Path) -> None:
    text = (repository / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `edgekit\.(\w+)\(.*\)` \| `([\w -]+)` \| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    verbs = {name for name in edgekit.__all__ if name.islower() and name[0] != "_"} - {"load"}  # which is no command
    assert {verb for verb, _, _, _ in rows} == verbs
    assert {command for _, command, _, _ in rows} == {
        *command_pages.commands(),
        "verify --bisect",
        "bench --against",
        "doctor --bench",
    }
    homes = {"bisect": "bisect", "fetch_data": "data", "cached_data": "data", "list_models": "models"}
    homes |= {"ship_bundle": "ship", "unpack": "pack"}
    homes |= {"against": "against", "fitness": "doctor"}
    for verb, command, report, fields in rows:
        kind = getattr(import_module(f"edgekit.reports.{homes.get(verb, command)}"), report)
        outer = re.sub(r"\(.*?\)", "", fields)
        assert verb == command or verb in homes
        assert [field for field in re.findall(r"`(\w+)`", outer) if not hasattr(kind, field)] == []
    named = set(re.findall(r"`(\w+)`", text))
    errors = {name for name, value in vars(edgekit.errors).items() if isinstance(value, type)}
    assert errors - {"EdgekitError"} <= named
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=repository, capture_output=True, text=True, check=False)
    assert done.stdout == "T-shirt/top ('batch', 1, 28, 28) model.onnx\n", done.stderr


def test_the_program_for_who_receives_a_bundle_runs_without_edgekit(repository: Path, tmp_path: Path) -> None:
    text = (repository / "docs" / "hand-over.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"<!-- program -->\n```python\n(.*?)```", text, re.DOTALL)
    blocked = "import sys\nfor name in ('edgekit', 'torch', 'msgspec', 'onnx'): sys.modules[name] = None\n"
    command = [sys.executable, "-c", blocked + program, "exported/lenet", "exported/lenet/picture-0.png"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.stdout == "exported/lenet/picture-0.png Ankle boot\n", done.stderr
    assert f"prints `{done.stdout.strip()}`" in text


def test_the_readme_and_the_commands_page_say_alike_what_gives_exit_code_1(repository: Path) -> None:
    readme = " ".join((repository / "README.md").read_text(encoding="utf-8").split())
    assert f"**1** a check failed ({', '.join(command_pages.CHECKS)});" in readme


def test_the_changelog_has_a_dated_entry_for_this_version_in_the_usual_groups(repository: Path) -> None:
    text = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert next(heading for heading in headings if heading != "Unreleased").startswith(f"{__version__} - 20")
    groups = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert groups <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
