"""The option --output of verify and bench."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import ENDLESS, Command, contents, damaged, flipped, written

CHECKS: dict[str, tuple[str, ...]] = {
    "verify": ("--backend", "ort-cpu"),
    "bench": ("--backend", "ort-cpu threads=1", "--batch", "1", "--seconds", "0.01"),
}
FAILING: dict[str, tuple[str, ...]] = {"verify": ("--atol", "0", "--rtol", "0"), "bench": ("--budget-ms", "0.000001")}
checks = pytest.mark.parametrize("command", CHECKS)


@checks
@pytest.mark.parametrize("fails", [False, True])
def test_output_is_the_json_document_whether_or_not_a_check_fails(run: Command, bundle: Path, command: str, fails: bool) -> None:
    words = (command, bundle, *CHECKS[command], *(FAILING[command] if fails else ()), "--output", "new/report.json")
    result = run(*words, "--json")
    assert (result.code, result.document["passed"]) == (int(fails), not fails)
    document = json.loads(Path("new/report.json").read_text())
    assert {**document, "samples": None} == {**result.document, "samples": None}  # the file names the one beside it
    drawn = run(*words)  # what was there is replaced
    assert drawn.code == int(fails)
    assert "ort-cpu" in drawn.out
    assert not drawn.out.startswith("{")
    again = json.loads(Path("new/report.json").read_text())
    assert again.keys() == result.document.keys()
    assert command == "bench" or again == result.document  # bench measures anew


def never(*args: object, **options: object) -> None:
    raise AssertionError("the work was begun")


@checks
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("-", "--output takes a file's name, and - is none; use --json"),
        ("folder", "cannot write folder: a folder of that name is there; choose another name"),
        ("plain/report.json", "cannot write "),
        (ENDLESS, "choose a shorter name"),
        ("{bundle}/report.json", "cannot write {bundle}/report.json: it lies in {bundle}, and a bundle is immutable; choose"),
        ("{bundle}/reports/report.json", "and a bundle is immutable; choose a place outside of it"),
        ("{bundle}/manifest.json", "and a bundle is immutable; choose a place outside of it"),
        ("linked folder/report.json", "and a bundle is immutable; choose a place outside of it"),
        ("linked file", "and a bundle is immutable; choose a place outside of it"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(
    run: Command, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, where: str, expected: str
) -> None:
    monkeypatch.setattr(f"edgekit.commands.{command}.{command}", never)
    Path("folder").mkdir()
    Path("linked folder").symlink_to(bundle)
    Path("linked file").symlink_to(bundle / "report.json")
    written(Path("plain"), "mine")
    before = contents(tmp_path)
    result = run(command, bundle, *CHECKS[command], "--output", where.format(bundle=bundle), "--json")
    assert (result.code, result.document["error"]["kind"]) == (2, "OutputError")
    assert expected.format(bundle=bundle) in result.document["error"]["message"]
    assert result.err.count("\n") == 1
    assert contents(tmp_path) == before


@checks
def test_an_output_beside_the_bundle_or_named_from_within_it_is_told_apart(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    assert run(command, bundle, *CHECKS[command], "--output", f"{bundle}.json").code == 0
    monkeypatch.chdir(bundle)
    assert run(command, ".", *CHECKS[command], "--output", "../beside.json").code == 0
    inside = run(command, ".", *CHECKS[command], "--output", "report.json")
    assert (inside.code, "a bundle is immutable" in inside.err) == (2, True)


@checks
def test_an_error_writes_no_output_and_an_older_one_stays(run: Command, bundle: Path, command: str) -> None:
    written(Path("older.json"), '{"of": "yesterday"}')
    damaged(bundle, "golden.npz", flipped)
    for name in ("older.json", "none.json"):
        result = run(command, bundle, *CHECKS[command], "--output", name, "--json")
        assert (result.code, result.document["error"]["kind"]) == (2, "BundleError")
    assert Path("older.json").read_text() == '{"of": "yesterday"}'
    assert not Path("none.json").exists()


@checks
def test_output_replaces_no_file_of_another_kind(run: Command, bundle: Path, command: str) -> None:
    recipe = written(Path("mine.toml"), 'name = "mine"')
    result = run(command, bundle, *CHECKS[command], "--output", recipe)
    assert (result.code, result.out) == (2, "")
    assert "--output would replace mine.toml, which is no such report; give another name" in result.err
    assert recipe.read_text() == 'name = "mine"'


def test_csv_replaces_a_table_of_its_own_and_no_picture(run: Command, bundle: Path) -> None:
    Image.new("L", (28, 28), 90).save("a.png")
    picture = Path("a.png").read_bytes()
    result = run("predict", bundle, "a.png", "--csv", "a.png")  # as a shell's pattern may make it
    assert (result.code, Path("a.png").read_bytes()) == (2, picture)
    assert "--csv would replace a.png" in result.err
    for _ in range(2):
        assert run("predict", bundle, "a.png", "--csv", "labels.csv").code == 0
