"""``tuned``: the way that was chosen for a bundle on this machine, and nothing that was chosen elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import edgekit.backends.tuned
import edgekit.machine.records
from edgekit.backends.choose import choose
from edgekit.backends.tuned import Choice, choice_for, keep_choice
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.state import keep
from edgekit.errors import MissingError, UsageError
from edgekit.machine.cpu import machine_facts
from edgekit.progress import SILENT, Advance
from edgekit.setups import Setup
from tests.command_line import Command

CHOSEN = Setup("ort-cpu", "float32", 1)


@pytest.fixture
def opened(bundle: Path) -> Bundle:
    return open_bundle(bundle)


def choose_it(opened: Bundle) -> Path:
    place = keep_choice(opened, CHOSEN, "median", 1, "2026-01-02T03:04:05+00:00")
    assert place is not None
    return place


def test_what_was_chosen_is_what_tuned_stands_for(opened: Bundle) -> None:
    assert choice_for(opened).setup is None
    assert choice_for(opened).note == ""
    choose_it(opened)
    assert choice_for(opened).setup == CHOSEN
    assert choose(opened, "tuned").setups == (CHOSEN,)
    assert choose(opened, "tuned batches=1,8").setups == (Setup("ort-cpu", "float32", 1, (1, 8)),)


class Said:
    """A Progress that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def task(self, title: str, total: int) -> AbstractContextManager[Advance]:
        return SILENT.task(title, total)


def test_who_obeys_a_choice_tells_what_it_was_tuned_for_and_what_it_was_not(opened: Bundle) -> None:
    choose_it(opened)
    told = "run by ort-cpu variant=float32 threads=1, as edgekit tune chose for this machine (by median, batch 1)"
    alike: list[tuple[tuple[int, ...], str]] = [((), "tuned"), ((1,), "tuned"), ((), "tuned batches=1")]
    for batches, asked in alike:
        said = Said()
        choose(opened, asked, batches=batches, progress=said)
        assert said.lines == [told]
    other = "note: that was not tuned for batches of 8 and 32; edgekit tune --batch 8 finds what is best there"
    unlike: list[tuple[tuple[int, ...], str]] = [((1, 8, 32), "tuned"), ((), "tuned batches=1,8,32")]
    for batches, asked in unlike:
        said = Said()
        choose(opened, asked, batches=batches, progress=said)
        assert said.lines == [told, other]
    said = Said()
    choose(opened, "ort-cpu", batches=(8,), progress=said)
    assert said.lines == []


@pytest.mark.parametrize("command", ["bench", "verify"])
def test_a_command_that_runs_tuned_says_so(bundle: Path, run: Command, command: str) -> None:
    choose_it(open_bundle(bundle))
    words = ("--batch", "8", "--seconds", "0.01") if command == "bench" else ()
    ended = run(command, bundle, "--backend", "tuned", *words)
    assert "as edgekit tune chose for this machine (by median, batch 1)" in ended.err
    assert ("was not tuned for batches of 8" in ended.err) is bool(words)


def test_without_a_choice_tuned_says_how_to_make_one(opened: Bundle) -> None:
    with pytest.raises(MissingError, match=r"nothing was tuned for bundle .* here; run edgekit tune"):
        choose(opened, "tuned")


@pytest.mark.parametrize("words", ["tuned threads=2", "tuned variant=int8", "tuned precision=bfloat16"])
def test_tuned_says_the_rest_itself(opened: Bundle, words: str) -> None:
    choose_it(opened)
    with pytest.raises(UsageError, match="tuned stands for a variant, threads and options too"):
        choose(opened, words)


@pytest.mark.parametrize("fact", ["cpu", "cores", "instruction sets", "gpu"])
def test_a_choice_of_another_machine_is_ignored_with_the_fact_that_differs(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch, fact: str
) -> None:
    choose_it(opened)
    facts = machine_facts()
    monkeypatch.setattr(edgekit.machine.records, "machine_facts", lambda: facts | {fact: "another"})
    choice = choice_for(opened)
    assert choice.setup is None
    assert choice.note.startswith(f"edgekit tune's choice, {CHOSEN}, is ignored: its {fact} was ")
    assert choice.note.endswith("is 'another' here; run edgekit tune again here")
    with pytest.raises(MissingError, match="is 'another' here"):
        choose(opened, "tuned")


def test_facts_that_come_and_go_do_not_matter(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_it(opened)
    facts = machine_facts()
    monkeypatch.setattr(edgekit.machine.records, "machine_facts", lambda: facts | {"load": "99", "python": "3.99"})
    assert choice_for(opened).setup == CHOSEN


def test_another_release_of_the_runtime_must_be_tuned_anew(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_it(opened)
    monkeypatch.setattr(edgekit.backends.tuned, "versions_of", lambda packages: {"onnxruntime": "99.0"})
    assert "is '99.0' here" in choice_for(opened).note


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff\xfe", b'{"manifest_sha256": 3}', b"[" * 100_000],
    ids=["empty", "no keys", "no text", "types", "deep"],
)
def test_a_file_that_is_no_choice_is_ignored_with_a_note(opened: Bundle, content: bytes) -> None:
    place = choose_it(opened)
    place.write_bytes(content)
    assert choice_for(opened) == Choice(None, "runtime.json of this bundle cannot be read and is ignored; run edgekit tune again")


def test_a_choice_of_a_variant_or_a_backend_that_is_gone_is_ignored(opened: Bundle) -> None:
    place = choose_it(opened)
    for old, new in ((b"float32", b"int5"), (b"ort-cpu", b"ort-abacus")):
        place.write_bytes(place.read_bytes().replace(old, new))
        assert choice_for(opened).setup is None
        assert choice_for(opened).note
        choose_it(opened)


def test_a_choice_copied_from_another_bundle_is_ignored(opened: Bundle) -> None:
    place = choose_it(opened)
    sha = opened.sha256
    place.write_bytes(place.read_bytes().replace(sha.encode(), b"0" * 64))
    assert "is of another bundle" in choice_for(opened).note


def test_a_folder_that_cannot_be_written_is_no_fault(opened: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "file"))
    assert keep_choice(opened, CHOSEN, "median", 1, "") is None
    assert keep(opened, "x.json", b"{}") is None
    assert choice_for(opened) == Choice(None)
