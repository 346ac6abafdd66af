"""A build tells how far it is, and Ctrl-C stops it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgekit.backends.tensorrt.builder import build_plan
from edgekit.backends.tensorrt.flavour import TensorRT, find
from edgekit.backends.tensorrt.runtime import start
from edgekit.commands.build import build
from edgekit.progress import Advance
from tests.backends.tensorrt.builds import RANGE
from tests.fake_trt import FakeTensorRT
from tests.networks import lenet
from tests.trt_listing import TEN
from tests.ways import building


class Recorder:
    """Progress that is remembered; stops the work at ``stop`` steps."""

    def __init__(self, stop: int | None = None) -> None:
        self.steps: list[int] = []
        self.notes: list[str] = []
        self.total = 0
        self._stop = stop

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        self.total = total

        def advance(steps: int, note: str) -> None:
            self.steps.append(steps)
            self.notes.append(note)
            if self._stop is not None and sum(self.steps) >= self._stop:
                raise KeyboardInterrupt

        yield advance

    def say(self, line: str) -> None: ...


def test_a_build_tells_how_far_it_is_and_ends_at_the_end(rtx: TensorRT) -> None:
    seen = Recorder()
    build_plan(rtx, lenet(), RANGE, progress=seen)
    assert all(step >= 0 for step in seen.steps)
    assert sum(seen.steps) == seen.total
    assert sum(step > 0 for step in seen.steps) > 2
    assert "building engine" in seen.notes


def test_ctrl_c_stops_a_build_and_leaves_nothing(bundle: Path, tmp_path: Path, rtx: TensorRT) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(bundle, building(flavour="tensorrt-rtx"), output=tmp_path / "out" / "engine.plan", progress=Recorder(stop=1))
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


class Killing(Recorder):
    """Ctrl-C as the terminal gives it: a signal, in the middle of the step at which ``stop`` is reached."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        def advance(steps: int, note: str) -> None:
            if not self.steps:  # a second one would end this process
                os.kill(os.getpid(), signal.SIGINT)
            self.steps.append(steps)

        yield advance


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """As at a terminal: what a script starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
def test_ctrl_c_as_a_signal_stops_a_build_and_leaves_nothing(bundle: Path, tmp_path: Path, rtx: TensorRT) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build(bundle, building(flavour="tensorrt-rtx"), output=tmp_path / "engine.plan", progress=Killing())
    assert not (tmp_path / "engine.plan").exists()
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.usefixtures("_ctrl_c")
def test_ctrl_c_while_tensorrt_writes_its_log_is_not_lost(
    bundle: Path, tmp_path: Path, rtx: TensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised there, its bindings would print it, drop it and go on: a build writes thousands of lines and calls little else."""
    real, lines = start, list[str]()

    def noisy(trt: TensorRT) -> Any:
        logger = real(trt)

        class Noisy(type(logger)):  # type: ignore[misc]  # the base class is a value
            def log(self, severity: Any, msg: str) -> None:
                lines.append(msg)
                if len(lines) == 20:
                    os.kill(os.getpid(), signal.SIGINT)

        return Noisy()

    monkeypatch.setattr("edgekit.backends.tensorrt.builder.start", noisy)
    with pytest.raises(KeyboardInterrupt):
        build(bundle, building(flavour="tensorrt-rtx"), output=tmp_path / "engine.plan")
    assert len(lines) > 20
    assert not (tmp_path / "engine.plan").exists()


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it(bundle: Path, rtx: TensorRT) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert build(bundle, building(flavour="tensorrt-rtx"), progress=Killing()).passed
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_builds_without_touching_signals(bundle: Path, rtx: TensorRT) -> None:
    done = list[bool]()
    thread = threading.Thread(target=lambda: done.append(build(bundle, building(flavour="tensorrt-rtx")).passed))
    thread.start()
    thread.join()
    assert done == [True]


def test_ctrl_c_makes_tensorrt_itself_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        build_plan(find("tensorrt"), lenet(), RANGE, progress=Recorder(stop=1))
    assert fake.stopped_at == 0
