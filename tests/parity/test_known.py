"""Accuracies measured once are known again, for the same file, runtime, CPU and pictures only."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgekit.parity.known
from edgekit.bundle.folder import open_bundle
from edgekit.bundle.state import kept
from edgekit.parity.known import FILE, Known
from edgekit.reports.tune import AccuracyDifference
from edgekit.setups import Setup

SETUP = Setup("ort-cpu", "float32")
MEASURED = AccuracyDifference(0.9, -0.01, -0.02, 0.0, 1000, "the original")


def test_what_was_learnt_is_known_whatever_the_threads(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert Known.read(opened, "pictures").of(SETUP) is None
    Known.read(opened, "pictures").learn({SETUP: MEASURED})
    again = Known.read(opened, "pictures")
    assert again.of(Setup("ort-cpu", "float32", 4, (8,))) == MEASURED
    again.learn({Setup("ort-cpu", "int8"): MEASURED})
    assert Known.read(opened, "pictures").of(SETUP) == MEASURED


def test_other_pictures_files_options_releases_and_cpus_are_not_known(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_bundle(bundle)
    known = Known.read(opened, "pictures").learn({SETUP: MEASURED})
    assert Known.read(opened, "other pictures").of(SETUP) is None
    assert known.of(Setup("ort-cpu", "int8")) is None
    assert known.of(Setup("ort-cpu", "float32", options={"optimisation": "off"})) is None
    monkeypatch.setattr(edgekit.parity.known, "instruction_sets", lambda: ("avx2",))
    assert known.of(SETUP) is None
    monkeypatch.undo()
    monkeypatch.setattr(edgekit.parity.known, "versions_of", lambda packages: {"onnxruntime": "99"})
    assert known.of(SETUP) is None


def test_a_file_that_is_damaged_is_as_if_nothing_was_known(bundle: Path) -> None:
    opened = open_bundle(bundle)
    Known.read(opened, "pictures").learn({SETUP: MEASURED})
    from edgekit.bundle.state import keep

    for content in (b"", b"\xff", b"[]", b'{"x": 1}'):
        keep(opened, FILE, content)
        assert Known.read(opened, "pictures").of(SETUP) is None
    assert kept(opened, FILE) == b'{"x": 1}'
