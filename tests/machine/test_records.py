"""What a machine keeps of a bundle: under the bundle and the machine, and never in the way of the work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.files import state_folder
from edgekit.machine import records as module
from edgekit.machine.records import keep, records

ONE, OTHER = "1" * 64, "2" * 64
DOCUMENT = b'{\n  "passed": true\n}'


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "state"))


def on(monkeypatch: pytest.MonkeyPatch, **facts: str) -> None:
    """Go on as if on a machine with these facts."""
    monkeypatch.setattr(module, "all_facts", lambda: {"system": "Linux", "cpu": "A", **facts})


def test_the_last_report_of_a_command_is_kept_under_its_bundle() -> None:
    keep(ONE, "verify", b"{}", "edgekit verify a")
    keep(ONE, "verify", DOCUMENT, "edgekit verify b")
    kept = records(ONE)
    assert list(kept.here) == ["verify"]
    record = kept.here["verify"]
    assert json.loads(bytes(record.report)) == {"passed": True}
    assert record.words == "edgekit verify b"
    assert record.when.endswith("+00:00")
    assert records(OTHER) == ({}, (), ())


def test_another_kind_of_machine_is_elsewhere_and_its_record_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch)
    keep(ONE, "bench", DOCUMENT, "on a")
    for facts in ({"cpu": "B"}, {"gpu": "G"}, {"system": "Darwin"}):
        on(monkeypatch, **facts)
        assert records(ONE).here == {}
        assert [record.words for record in records(ONE).elsewhere] == ["on a"]
    on(monkeypatch, cpu="B")
    keep(ONE, "bench", DOCUMENT, "on b")
    on(monkeypatch, load="3.1", cores="2")  # the same machine at another time
    assert records(ONE).here["bench"].words == "on a"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 5000, b'{"command": "verify"}'])
def test_a_file_that_is_no_record_is_named_and_not_read(content: bytes) -> None:
    keep(ONE, "verify", DOCUMENT, "w")
    (path,) = state_folder(ONE).glob("*/*.json")
    path.write_bytes(content)
    assert records(ONE) == ({}, (), (path,))


def test_no_more_of_a_file_is_read_than_a_record_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(ONE, "verify", DOCUMENT, "w")
    (path,) = state_folder(ONE).glob("*/*.json")
    monkeypatch.setattr(module, "MOST_BYTES", path.stat().st_size)
    assert list(records(ONE).here) == ["verify"]
    monkeypatch.setattr(module, "MOST_BYTES", path.stat().st_size - 1)
    assert records(ONE) == ({}, (), (path,))


def test_a_record_under_another_commands_name_is_not_taken_for_it() -> None:
    keep(ONE, "verify", DOCUMENT, "w")
    (path,) = state_folder(ONE).glob("*/*.json")
    path.rename(path.with_name("bench.json"))
    assert records(ONE).here == {}


def test_a_state_folder_that_cannot_be_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "file"))
    keep(ONE, "verify", DOCUMENT, "w")
    assert records(ONE) == ({}, (), ())
    assert (tmp_path / "file").read_text() == "mine"
    for name in ("EDGEKIT_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "")
    keep(ONE, "verify", DOCUMENT, "w")
    assert records(ONE) == ({}, (), ())
