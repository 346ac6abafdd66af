"""``edgekit report`` collects what was found out about a bundle on this machine, and nothing else."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgekit.commands.report import report, toml_lines
from edgekit.files import state_folder
from edgekit.machine import records as kept
from edgekit.recipe import load_recipe
from tests.bundle.editing import edit
from tests.command_line import Command, contents, written
from tests.test_without_torch import without

ORT = ("--backend", "ort-cpu threads=1")


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "state"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index in range(30):
        folder = tmp_path / "photos" / f"class {index % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (28, 28), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "photos"


def measured(run: Command, bundle: Path, photos: Path) -> dict[str, Any]:
    """What verify, evaluate and bench print, after each was run once."""
    words = {
        "verify": ("verify", bundle, *ORT),
        "evaluate": ("evaluate", bundle, *ORT, "--data", photos),
        "bench": ("bench", bundle, *ORT, "--batch", "1", "--seconds", "0.02"),
    }
    return {name: run(*each, "--json").document for name, each in words.items()}


def without_passed(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "passed"}


def test_the_page_has_the_numbers_that_the_commands_have_printed(run: Command, bundle: Path, photos: Path) -> None:
    printed = measured(run, bundle, photos)
    result = run("report", bundle, "--output", "r.html", "--json")
    assert result.code == 0
    for name, document in printed.items():
        assert result.document[name] == without_passed(document)
        assert result.document["measured"][name]["words"].startswith(f"edgekit {name} ")
    assert result.document["written"] == "r.html"
    page = Path("r.html").read_text()
    assert len(page) < 300_000
    (row,) = printed["evaluate"]["rows"]
    assert f"{row['top1']:.2%}" in page
    assert page.count("data:image/") == min(24, len(printed["evaluate"]["thumbnails"])) > 0
    assert all(f"{latency['median_ms']:.3g}" in page for latency in printed["bench"]["rows"])
    assert all(entry["sha256"] in page for entry in json.loads((bundle / "manifest.json").read_text())["files"].values())
    first_section = page.partition('id="the-model"')[0]
    assert not any(f"edgekit {name} {bundle}" in first_section for name in printed)


def test_what_has_not_been_run_is_said_with_its_command(run: Command, bundle: Path) -> None:
    first = run("report", bundle)
    assert first.code == 0
    assert Path(f"{bundle.name}.html").read_text().startswith("<!doctype html>")
    for name in ("verify", "evaluate", "bench"):
        assert f"edgekit {name} {bundle}" in first.out
    run("verify", bundle, *ORT)
    second = run("report", bundle)
    assert f"edgekit verify {bundle}" not in second.out
    assert f"edgekit bench {bundle}" in second.out


def test_a_failed_check_fails_the_report_and_is_named_in_junit(run: Command, bundle: Path) -> None:
    assert run("verify", bundle, *ORT).code == 0
    assert run("report", bundle, "--format", "md").code == 0
    assert run("verify", bundle, *ORT, "--atol", "0", "--rtol", "0").code == 1
    assert run("report", bundle, "--format", "md").code == 1
    junit = run("report", bundle, "--format", "junit")
    suites = ET.fromstring(junit.out.encode())
    failures = [case.get("name", "") for case in suites.iter("testcase") if case.find("failure") is not None]
    assert failures == ["parity of ort-cpu"]
    assert int(suites.get("failures", "")) == 1
    skipped = {case.get("classname") for case in suites.iter("testcase") if case.find("skipped") is not None}
    assert {"edgekit.evaluate", "edgekit.bench"} <= skipped


def test_a_figure_of_another_bundle_is_not_shown(run: Command, bundle: Path, photos: Path) -> None:
    measured(run, bundle, photos)
    edit(bundle, lambda manifest: manifest["notes"].append("another bundle"))
    document = run("report", bundle, "--format", "json").document
    assert document["measured"] == {}
    assert [document[name] for name in ("verify", "evaluate", "bench")] == [None] * 3


def test_a_timing_of_several_bundles_is_not_kept_as_the_first_ones(run: Command, bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bundle, tmp_path / "other")
    edit(other, lambda manifest: manifest["notes"].append("another bundle"))
    quick = (*ORT, "--batch", "1", "--seconds", "0.01")
    assert run("bench", bundle, other, *quick).code == 0
    assert report(bundle).bench is None
    assert run("bench", bundle, *quick).code == 0
    assert report(bundle).bench is not None


def test_a_quick_timing_does_not_take_the_place_of_a_longer_one(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.latency.loop.noise", lambda *given: "stable")

    def kept() -> tuple[float, int]:
        timing = report(bundle).bench
        assert timing is not None
        return timing.seconds, len(timing.rows)

    def bench(*words: str) -> str:
        ended = run("bench", bundle, *ORT, *words)
        assert ended.code == 0
        return ended.err

    stays = "goes on showing the longer bench of "
    bench("--batch", "1,2", "--seconds", "0.02")
    note = bench("--batch", "1,2", "--seconds", "0.01")  # shorter
    assert stays in note
    assert "; to replace it run: edgekit " in note
    assert stays in bench("--batch", "1", "--seconds", "0.02")  # fewer rows
    assert kept() == (0.02, 4)
    assert stays not in bench("--batch", "1,2", "--seconds", "0.02")  # as long: the newer one
    assert stays not in bench("--batch", "4", "--seconds", "0.01")  # it says what the other does not
    assert kept() == (0.01, 2)
    assert stays not in bench("--batch", "4", "--seconds", "0.01", "--budget", "median=9s")
    assert stays not in bench("--batch", "4", "--seconds", "0.005", "--start")


def test_a_figure_of_another_machine_is_not_shown_but_named(run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "all_facts", lambda: {"cpu": "Another CPU", "system": "Linux"})
    run("bench", bundle, *ORT, "--batch", "1", "--seconds", "0.01")
    monkeypatch.undo()
    monkeypatch.setenv("EDGEKIT_STATE", str(bundle.parent / "state"))
    shown = report(bundle)
    assert shown.bench is None
    assert [(each.command, each.machine["cpu"]) for each in shown.elsewhere] == [("bench", "Another CPU")]
    assert any("Another CPU" in str(item) for item in shown.document())


def test_a_machine_of_the_same_kind_is_told_by_its_name(run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("verify", bundle, *ORT)
    assert report(bundle).measured["verify"].host == ""
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    assert report(bundle).measured["verify"].host != ""
    assert any("another machine of this kind" in str(item) for item in report(bundle).document())


def test_a_bundle_that_is_replaced_meanwhile_gets_no_record(run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.commands import verify as module

    verify = module.verify

    def replacing(*args: Any, **options: Any) -> Any:
        found = verify(*args, **options)
        edit(bundle, lambda manifest: manifest["notes"].append("new"))
        return found

    monkeypatch.setattr(module, "verify", replacing)
    assert run("verify", bundle, *ORT).code == 0
    assert not list((bundle.parent / "state").rglob("*.json"))


def test_a_state_folder_that_cannot_be_written_is_no_fault(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEKIT_STATE", str(written(tmp_path / "file", "mine")))
    assert run("verify", bundle, *ORT).code == 0
    assert run("report", bundle).code == 0
    assert report(bundle).verify is None


def test_a_record_of_another_release_is_a_note(run: Command, bundle: Path) -> None:
    run("verify", bundle, *ORT)
    sha256 = report(bundle).manifest_sha256
    (path,) = state_folder(sha256).glob("*/verify.json")
    path.write_bytes(path.read_bytes().replace(b'"parities"', b'"comparisons"'))
    shown = report(bundle)
    assert shown.verify is None
    assert "verify" not in shown.measured
    (sentence,) = shown.unreadable
    assert "run edgekit verify again" in sentence
    path.write_bytes(b"{")
    assert "verify.json" in report(bundle).unreadable[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--format", "htm"), "--format 'htm' is none (did you mean 'html'?); choose one of: html, md, json, junit"),
        (("--format", "md", "--json"), "--json and --format md both say what goes to stdout"),
        (("--output", "{bundle}/r.html"), "a bundle is immutable"),
        (("--output", "mine.html"), "--output would replace mine.html, which is no such report"),
        (("--format", "md", "--output", "r.html"), "--output would replace r.html, which is no such report"),
        (("--output", "-"), "--output takes a file's name"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_written(
    run: Command, bundle: Path, tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    written(Path("mine.html"), "<p>mine</p>")
    written(Path("r.html"), "<!doctype html>")
    before = contents(tmp_path)
    result = run("report", bundle, *(word.format(bundle=bundle) for word in words))
    assert result.code == 2
    assert expected in result.err
    assert result.err.count("\n") == 1
    assert contents(tmp_path) == before


def test_a_page_is_named_after_its_bundle_and_replaces_its_older_one(run: Command, bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "größe 2.v1"
    shutil.copytree(bundle, other)
    assert run("report", bundle).code == run("report", other).code == 0
    page = Path(f"{bundle.name}.html")
    assert (page.is_file(), Path("größe 2.v1.html").is_file()) == (True, True)
    edit(bundle, lambda manifest: manifest.update(notes=["another"]))
    before = page.read_bytes()
    assert run("report", f"{bundle}/").code == 0
    assert page.read_bytes() != before


@pytest.mark.parametrize("form", ["md", "json", "junit"])
def test_a_board_without_jinja2_has_every_form_but_html(bundle: Path, environment: dict[str, str], form: str) -> None:
    done = without("jinja2,markupsafe", "report", str(bundle), "--format", form, environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith({"md": "# lenet", "json": "{", "junit": "<?xml"}[form])


def test_a_board_without_jinja2_is_told_what_html_needs(bundle: Path, environment: dict[str, str]) -> None:
    page = bundle.parent / "r.html"
    refused = without("jinja2,markupsafe", "report", str(bundle), "--output", str(page), environment=environment)
    assert refused.returncode == 2
    assert "this needs jinja2, which is not installed" in refused.stderr
    assert "pip install" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not page.exists()


HOSTILE = "<script>x</script> | `a` **b** [c](http://d) @everyone #1 \x1b[31m \u202e"


def test_hostile_names_stay_text_in_markdown_and_in_junit(run: Command, bundle: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["labels"][0] = manifest["name"] = HOSTILE
        manifest["notes"].append(HOSTILE)

    edit(bundle, change)
    run("verify", bundle, *ORT)
    markdown = run("report", bundle, "--format", "md").out
    assert "# &lt;script>" in markdown or "# &lt;script&gt;" in markdown
    prose = markdown.partition("```")[0]
    for mark in ("<script>", "](http://", "**b**", "@everyone", " #1", "`a`", "\x1b", "\u202e"):
        assert mark not in prose
    assert "\\x1b" in prose
    junit = run("report", bundle, "--format", "junit").out
    assert ET.fromstring(junit.encode()).get("name") == "edgekit " + HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")


def test_a_fence_of_code_cannot_be_left(run: Command, bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["source"].update(recipe={"name": "```\n# out\n````"}))
    markdown = run("report", bundle, "--format", "md").out
    assert "\n# out" not in markdown
    assert "`````" in markdown


def test_the_recipe_of_a_bundle_can_be_run_again(repository: Path, tmp_path: Path) -> None:
    manifest = json.loads((repository / "exported" / "lenet" / "manifest.json").read_text())
    recipe = manifest["source"]["recipe"]
    text = "\n".join(toml_lines(recipe))

    def given(value: Any) -> Any:
        return {name: given(inner) for name, inner in value.items() if inner is not None} if isinstance(value, dict) else value

    assert msgspec.toml.decode(text) == given(recipe)
    assert load_recipe(written(tmp_path / "r.toml", text)).name == "lenet"


@pytest.mark.parametrize(
    "values",
    [
        {"a b": 1, "c": {"d.e": [1, 2.5, 'x"y\n']}},
        {"stages": [{"modules": ["a"], "rate": 1e-3}, {"modules": []}]},
        {"é": {}, "t": True},
    ],
)
def test_values_survive_being_written_as_toml(values: dict[str, Any]) -> None:
    assert msgspec.toml.decode("\n".join(toml_lines(values))) == values
