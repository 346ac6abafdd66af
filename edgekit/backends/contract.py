"""The contract of a backend: a row of the table, the session that a row opens, and optional abilities of sessions.

A backend from elsewhere needs nothing else of edgekit's: what its row and its sessions are made of can be had from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

from edgekit.bundle.files import ModelFiles
from edgekit.machine.packages import Examined, Package
from edgekit.progress import Progress
from edgekit.reports.build import BuildReport
from edgekit.setups import Absence, Setup
from edgekit.tensors import Array, BatchRange, Feed, TensorSpec

__all__ = [
    "Absence", "Array", "Backend", "BatchRange", "BuildReport", "Builder", "ByLayer", "DeviceTimes", "Examined",
    "Feed", "InRanges", "LayerTime", "ModelFiles", "OnDevice", "Opened", "Options", "Package", "Progress",
    "Session", "Setup", "Target", "TensorSpec", "launch_bound", "queued",
]  # fmt: skip
Own = TypeVar("Own", bound="Options")
LAUNCH_BOUND = 0.9
HELD_UP = 0.5


class Session(Protocol):
    """A model opened in a backend; a context manager.

    ``facts`` say what the numbers depend on: versions, device, precision, TF32, providers really in use.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs of ``run`` and ``bind``."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs of ``run``."""
        ...

    @property
    def facts(self) -> Mapping[str, str]:
        """Facts that the outputs and the times depend on, such as versions and threads."""
        ...

    def run(self, feed: Feed) -> dict[str, Array]:
        """Host arrays in, host arrays out; the caller owns the outputs."""
        ...

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Put the inputs on the device; the function runs the model once and returns when the work is done.

        Different bound calls may run in several threads at once; each is for one thread at a time.
        """
        ...

    def __enter__(self) -> Session: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None: ...


class Opened(NamedTuple):
    """A session with the setup that opened it, as a context manager; ``name`` tells it from the others of a report.

    ``on_gpu`` and ``many_callers`` are those of its backend's row.
    """

    name: str
    setup: Setup
    session: Session
    on_gpu: bool = False
    many_callers: bool = False

    def __enter__(self) -> Opened:
        self.session.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.session.__exit__(kind, value, trace)  # whatever it answers: an error in a session is never swallowed


class DeviceTimes(NamedTuple):
    """Milliseconds of each call by the device's own clock.

    ``launch_bound``: the host queued the calls no faster than the device ran them. Then it is the host's time: an upper bound.
    """

    ms: tuple[float, ...]
    launch_bound: bool = False


@runtime_checkable
class OnDevice(Protocol):
    """The extra ability of a session whose device times its own work."""

    def device_times(self, feed: Feed, count: int) -> DeviceTimes:
        """``count`` calls by the device's own clock, timed as ``queued`` does."""
        ...


def queued(
    enqueue: Callable[[], object], records: Sequence[Callable[[], object]], read: Callable[[], tuple[float, ...]]
) -> DeviceTimes:
    """One definition for all runtimes: a call before each event, all queued at once; a call's time is between two events.

    ``records`` put one event each behind the calls; ``read`` waits for all. The first call is not counted: on an idle device its
    launch would be.
    """
    host_ms: list[float] = []
    for record in records:
        before = perf_counter_ns()
        enqueue()
        record()
        host_ms.append((perf_counter_ns() - before) / 1e6)
    ms = read()
    return DeviceTimes(ms, launch_bound(host_ms, ms))


def launch_bound(host_ms: Sequence[float], ms: Sequence[float]) -> bool:
    """Whether the host, which took ``host_ms`` to queue each call, kept the device waiting, which took ``ms``.

    A full queue holds the host up as well, but not from the start: the fastest iteration ran before the queue filled.
    """
    took = median(ms)
    return median(host_ms) > LAUNCH_BOUND * took and min(host_ms) > HELD_UP * took


class LayerTime(NamedTuple):
    """A layer as the runtime runs it: its name and operator there, and milliseconds of each call.

    ``hints``: names of ONNX nodes, or of what they put out, that the runtime says it is made of.
    """

    name: str
    operator: str
    hints: tuple[str, ...]
    ms: tuple[float, ...]


@runtime_checkable
class ByLayer(Protocol):
    """The extra ability of a session that times its layers one by one."""

    def layer_times(self, feed: Feed, count: int) -> tuple[LayerTime, ...]:
        """Times of ``count`` calls, in the order of execution; the runtime's own profiler makes these calls slower."""
        ...


@runtime_checkable
class InRanges(Protocol):
    """The extra ability of a session that takes only some batch sizes."""

    @property
    def ranges(self) -> tuple[BatchRange, ...]:
        """The sizes it takes; none where the batch is fixed."""
        ...


@runtime_checkable
class Inside(Protocol):
    """The extra ability of a session that shows values of the file's main graph, for ``edgekit verify --bisect``."""

    def inside(self, names: Sequence[str], feed: Feed) -> dict[str, Array]:
        """The values ``names`` for ``feed``, as far as the runtime can show them, computed as ``run`` computes them."""
        ...


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A backend's own options, each with a default; ``setup.options`` are held against them before anything is opened."""

    @classmethod
    def of(cls: type[Own], setup: Setup) -> Own:
        """The setup's options, typed, with the defaults of those that it leaves out."""
        return msgspec.convert(setup.options, cls)


class Target(NamedTuple):
    """Where what is built ahead goes: into the backend's cache, or to ``output``; ``rebuild`` even if a fitting one is there."""

    output: Path | None = None
    rebuild: bool = False


class Builder(msgspec.Struct, frozen=True):
    """How a backend builds an engine or a blob ahead of running: ``build``, by a setup whose options are ``options``."""

    options: type[Options]
    build: Callable[[ModelFiles, Setup, Target, Progress], BuildReport]


def _of_any_file(setup: Setup) -> str | None:
    return None


class Backend(msgspec.Struct, frozen=True):
    """A row of the table of backends; making one imports no runtime.

    ``packages`` are what it needs, for ``edgekit doctor``. ``absence`` says why the setup cannot run the files (None: any files)
    on this machine; ``open`` is called only where it says nothing. ``by_layer``: its sessions are ``ByLayer``. ``on_gpu``: it
    computes on a GPU, whose clock follows its work. ``in_memory``: it computes in
    this process's memory, which can be bounded. ``many_callers``: ``run`` of one session, and what several ``bind`` give, may be
    called from several threads at once; others get one caller at a time. ``in_ranges``: its sessions are ``InRanges``, and are
    asked for no batch beyond the usual ones by those that can do without. ``doctor_facts`` are lines of its own for what doctor
    says of the machine.

    ``tells_nothing_of``: precision of a file -> why running it here shows nothing about where such files are used; nobody runs it
    unasked. ``as_written``: the options by which it computes a file node by node, as the file is written; None if it cannot.
    ``worth_trying``: sets of options that ``edgekit tune`` tries, of which the first is the usual one.
    ``file_of``: the sha256 of the ONNX file that a setup's options go with, as an engine's does; None for any file.
    """

    name: str
    absence: Callable[[ModelFiles | None, Setup], Absence | None]
    open: Callable[[ModelFiles, Setup, Progress], Session]
    options: type[Options] = Options
    packages: tuple[Package, ...] = ()
    by_layer: bool = False
    on_gpu: bool = False
    in_memory: bool = False
    many_callers: bool = False
    in_ranges: bool = False
    builder: Builder | None = None
    doctor_facts: Callable[[], Mapping[str, str]] = dict
    tells_nothing_of: Mapping[str, str] = {}
    as_written: Mapping[str, Any] | None = None
    worth_trying: tuple[Mapping[str, Any], ...] = ({},)
    file_of: Callable[[Setup], str | None] = _of_any_file
