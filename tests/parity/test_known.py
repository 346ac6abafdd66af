"""Accuracies measured once are known again, for the same file, runtime, CPU and pictures only."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgekit.parity.known
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.machine.records import all_facts, folder_for
from edgekit.parity.known import FOLDER, Known
from edgekit.reports.tune import AccuracyDifference
from edgekit.setups import Setup

SETUP, INT8 = Setup("ort-cpu", "float32"), Setup("ort-cpu", "int8")
MEASURED = AccuracyDifference(0.9, -0.01, -0.02, 0.0, 1000, "the original")


@pytest.fixture
def opened(bundle: Path) -> Bundle:
    return open_bundle(bundle)


def files(bundle: Bundle) -> list[Path]:
    return sorted((folder_for(bundle.sha256, all_facts()) / "kept" / FOLDER).iterdir())


def test_what_was_learnt_is_known_whatever_the_threads(opened: Bundle) -> None:
    assert Known(opened, "pictures").of(SETUP) is None
    Known(opened, "pictures").learn({SETUP: MEASURED})
    assert Known(opened, "pictures").of(Setup("ort-cpu", "float32", 4, (8,))) == MEASURED


def test_two_that_learn_at_the_same_time_lose_nothing(opened: Bundle) -> None:
    """Both have read before either writes, as two processes do."""
    one, other = Known(opened, "pictures"), Known(opened, "pictures")
    assert (one.of(SETUP), other.of(INT8)) == (None, None)
    one.learn({SETUP: MEASURED})
    other.learn({INT8: MEASURED})
    again = Known(opened, "pictures")
    assert (again.of(SETUP), again.of(INT8)) == (MEASURED, MEASURED)


def test_other_pictures_files_options_releases_and_cpus_are_not_known(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known(opened, "pictures")
    known.learn({SETUP: MEASURED})
    assert Known(opened, "other pictures").of(SETUP) is None
    assert known.of(INT8) is None
    assert known.of(Setup("ort-cpu", "float32", options={"optimisation": "off"})) is None
    monkeypatch.setattr(edgekit.parity.known, "instruction_sets", lambda: ("avx2",))
    assert known.of(SETUP) is None
    monkeypatch.undo()
    monkeypatch.setattr(edgekit.parity.known, "versions_of", lambda packages: {"onnxruntime": "99"})
    assert known.of(SETUP) is None


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"x": 1}', b"[" * 100_000])
def test_a_file_that_is_damaged_is_as_if_nothing_was_known(opened: Bundle, content: bytes) -> None:
    known = Known(opened, "pictures")
    known.learn({SETUP: MEASURED, INT8: MEASURED})
    place = next(place for place in files(opened) if b"float32" in place.read_bytes())
    place.write_bytes(content)
    assert (known.of(SETUP), known.of(INT8)) == (None, MEASURED)


def test_an_accuracy_under_anothers_name_is_not_taken_for_it(opened: Bundle) -> None:
    known = Known(opened, "pictures")
    known.learn({SETUP: MEASURED})
    (place,) = files(opened)
    other = Known(opened, "other pictures")
    other.learn({SETUP: MEASURED})
    (theirs,) = set(files(opened)) - {place}
    theirs.write_bytes(place.read_bytes())
    assert other.of(SETUP) is None
