"""TensorRT's nested phases as one bar, and a way out of a build on Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from edgekit.backends.tensorrt.flavour import Flavour
from edgekit.machine import stops
from edgekit.progress import Advance

STEPS = 100


class Phase:
    """A phase's share of the bar: it stands ``at`` a place and every step moves it by ``width``."""

    def __init__(self, at: float, width: float) -> None:
        self.origin, self.at, self.width = at, at, width


class Stop:
    """Why a build is to end: ``reason`` is raised when TensorRT has come back; ``interrupted``: it is Ctrl-C."""

    def __init__(self) -> None:
        self.reason: BaseException | None = None
        self.interrupted = False


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Ctrl-C while TensorRT works: raised in one of its callbacks the bindings would print and drop it, so it waits for the end.

    So does every signal that raises KeyboardInterrupt here. A second one ends the process at once. A program that ignores it, or
    has a handler of its own, is left alone.
    """
    stop = Stop()
    main = threading.current_thread() is threading.main_thread()  # no other may set handlers, or is interrupted
    handlers = stops.interrupting() if main else {}

    def remember(number: int, frame: FrameType | None) -> None:
        if stops.comes(number) and stop.interrupted:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.interrupted, stop.reason = True, KeyboardInterrupt()

    for number in handlers:
        signal.signal(number, remember)
    try:
        yield stop
    except Exception as problem:  # what a build that is stopped says of itself
        if stop.interrupted:
            raise KeyboardInterrupt from problem
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if stop.interrupted:
        raise KeyboardInterrupt


def progress_monitor(api: Any, flavour: Flavour, advance: Advance, stop: Stop) -> Any:
    """An object for ``config.progress_monitor``; what ``advance`` raises stops the build too."""
    assert flavour.progress

    class Monitor(api.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            self.phases: dict[str, Phase] = {}
            self.shown = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            above = self.phases.get(parent_phase or "", Phase(0.0, float(STEPS)))
            self.phases[phase_name] = Phase(above.at, above.width / max(num_steps, 1))
            self._show(above.at, phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phase = self.phases.get(phase_name)
            if phase is not None:
                phase.at = phase.origin + phase.width * (step + 1)
                self._show(phase.at, phase_name)
            return stop.reason is None

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def _show(self, place: float, note: str) -> None:
            steps = max(0, min(int(place), STEPS) - self.shown)
            self.shown += steps
            try:
                advance(steps, note.lower())
            except BaseException as problem:  # must not pass through C++
                stop.reason = problem

    return Monitor()
