"""Fixtures that several files share."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.backends.tensorrt.flavour import TensorRT, find
from edgekit.cli.app import main
from edgekit.commands.export import export
from edgekit.sources import ExportOptions
from tests.command_line import Command, Result

ROOT = Path(__file__).parent.parent
WITH_TORCH = importlib.util.find_spec("torch") is not None
"""Without it, as on a board, ``tests/test_gpu.py`` runs all the same."""


@pytest.fixture(autouse=True, scope="session")
def _one_thread_per_worker() -> None:
    if WITH_TORCH:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_surprises(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every test has a cache of its own, and starts Python as users do."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # it hides what is lost at exit
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture(autouse=True)
def _thread_count() -> Iterator[None]:
    """Every test leaves PyTorch's process-wide thread count as it was."""
    if not WITH_TORCH:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def _lenet_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgekit.models.factory import weights_bytes
    from tests.networks import network

    folder = tmp_path_factory.mktemp("lenet")
    (folder / "weights.safetensors").write_bytes(weights_bytes(network("lenet")))
    labels = folder / "labels.txt"
    labels.write_text("\n".join(f"class {index}" for index in range(10)))
    options = ExportOptions(weights=folder / "weights.safetensors", mean=(0.286,), std=(0.353,), labels=labels)
    export("lenet", folder / "bundle", options)
    return folder / "bundle"


@pytest.fixture
def bundle(_lenet_export: Path, tmp_path: Path) -> Path:
    """A bundle of an untrained LeNet, folded, with random golden inputs: the test's own copy, to damage at will."""
    copy = tmp_path / "bundle"
    shutil.copytree(_lenet_export, copy)
    return copy


@pytest.fixture
def repository() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture
def environment() -> dict[str, str]:
    """For child processes: this one's environment, without colours or a terminal's width."""
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "TERM": "dumb"}


@pytest.fixture(scope="module")
def rtx() -> TensorRT:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    return find("tensorrt-rtx")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """``edgekit ARGS`` in this process, in an empty folder; everything that reaches the file descriptors is seen."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*args: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["edgekit", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            main()
        captured = capfd.readouterr()
        return Result(int(done.value.code or 0), captured.out, captured.err)

    return call
