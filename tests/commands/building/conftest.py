"""Fixtures that run ``edgekit build`` in this process, with an engine cache for each test."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgekit.backends.tensorrt.flavour import TensorRT
from edgekit.cli.app import main
from tests.commands.building.command import Command, Result
from tests.fake_trt import FakeTensorRT
from tests.trt_listing import TEN


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test its own cache, so that it finds no engine of another test."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, rtx: TensorRT) -> Command:
    """``edgekit build ARGS --json`` in this process, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*args: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["edgekit", "build", *map(str, args), "--json"])
        with pytest.raises(SystemExit) as done:
            main()
        captured = capfd.readouterr()
        return Result(int(str(done.value.code)), json.loads(captured.out), captured.err)

    return call


@pytest.fixture
def ten(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """A stand-in for TensorRT 10 on a machine with a GPU."""
    return FakeTensorRT(TEN).install(monkeypatch)
