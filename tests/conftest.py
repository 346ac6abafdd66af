"""Fixtures of tests in several folders."""

from __future__ import annotations

import importlib.util
import math
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator
from copy import copy
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tensorrt.flavour import TensorRT, find
from edgekit.cli.app import main
from edgekit.commands.export import export
from edgekit.sources import ExportOptions
from tests.command_line import Command, Result

ROOT = Path(__file__).parent.parent
_TESTS = count()
WITH_TORCH = importlib.util.find_spec("torch") is not None
"""Without it, as on a board, ``tests/test_gpu.py`` runs all the same."""

if importlib.util.find_spec("hypothesis") is not None:
    from hypothesis import HealthCheck, settings

    # the same examples in every run, however long a busy machine takes; --hypothesis-profile default looks for new ones
    settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("repeatable")


def _seed_torch(seed: int) -> None:
    """The CPU's generator alone, so that no test of a machine without a GPU meets CUDA here."""
    if WITH_TORCH:
        import torch

        torch.default_generator.manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let fixtures draw the same weights whatever tests the worker has run before."""
    _seed_torch(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Let the test draw the same weights whatever fixtures were made for it, and others than those have."""
    _seed_torch(2)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where nothing else is asked for, give each worker one stretch of tests: few modules are split, and set up by both."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(autouse=True, scope="session")
def _one_thread_per_worker() -> None:
    if WITH_TORCH:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _one_registry() -> Iterator[None]:
    """``torch.onnx.export`` reads its table of operators anew each time, half of the time that a small network takes."""
    if not WITH_TORCH:
        yield
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = cache(ONNXRegistry.from_torchlib)

    def copied(*arguments: Any, **named: Any) -> ONNXRegistry:
        registry = copy(read(*arguments, **named))
        registry.functions = {target: [*known] for target, known in registry.functions.items()}
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(copied))  # called on an instance
        yield


@pytest.fixture(autouse=True, scope="session")
def _usual_memory() -> Iterator[None]:
    """A training tells the allocator of its process to keep memory: what other tests measure must not depend on that."""
    with pytest.MonkeyPatch.context() as patch:
        if WITH_TORCH:
            patch.setattr("edgekit.training.fit.reuse_memory", lambda: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c() -> None:
    """As at a terminal: what a script starts in the background ignores it, and so would the trainings of tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_surprises(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give every worker its own cache, every test its own state, and Python's usual buffering."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # unbuffered output would hide what is lost at exit
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path_factory.getbasetemp() / "state" / str(next(_TESTS))))
    monkeypatch.setenv("EDGEKIT_SECONDS", "3600")  # a bound that a busy machine reaches says nothing of the bundle


@pytest.fixture(autouse=True)
def _chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test the same luck in every run: what is drawn without a seed differs from draw to draw, and is repeated."""
    make, luck = np.random.default_rng, np.random.default_rng(0)

    def default_rng(seed: Any = None) -> np.random.Generator:
        return make(int(luck.integers(2**63)) if seed is None else seed)

    monkeypatch.setattr(np.random, "default_rng", default_rng)
    monkeypatch.setattr(secrets, "randbelow", lambda most: int(luck.integers(most)))


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
    from edgekit.models.weights import weights_bytes
    from tests.networks import network

    folder = tmp_path_factory.mktemp("lenet")
    (folder / "weights.safetensors").write_bytes(weights_bytes(network("lenet")))
    labels = folder / "labels.txt"
    labels.write_text("\n".join(f"class {index}" for index in range(10)))
    options = ExportOptions(weights=folder / "weights.safetensors", mean=(0.286,), std=(0.353,), labels=labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # of no git repository, whose commit a bundle records
        export("lenet", folder / "bundle", options)
    return folder / "bundle"


@pytest.fixture
def bundle(_lenet_export: Path, tmp_path: Path) -> Path:
    """A folded bundle of an untrained LeNet with random golden inputs: a copy that the test may damage."""
    copy = tmp_path / "bundle"
    shutil.copytree(_lenet_export, copy)
    return copy


@pytest.fixture
def repository() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment for child processes: this process's own, without colours, 200 columns wide."""
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "TERM": "dumb"}


@pytest.fixture(scope="module")
def rtx() -> TensorRT:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    return find("tensorrt-rtx")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run ``edgekit ARGS`` in this process, in an empty folder, and capture everything that reaches the file descriptors."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("edgekit.cli.outcome.LOGGED_EVERY", math.inf)  # how far it is, which only a busy machine is asked
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
