"""What a backend is: a row of the table, a session that it opens, and what a session may also be able to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from types import TracebackType
from typing import NamedTuple, Protocol, runtime_checkable

from edgekit.bundle.files import ModelFiles
from edgekit.progress import SILENT, Progress
from edgekit.tensors import Array, BatchRange, Feed, TensorSpec

LAUNCH_BOUND = 0.9
HELD_UP = 0.5


class Backend(Protocol):
    """A model opened in a runtime; a context manager.

    ``facts`` say what the numbers depend on: versions, device, precision, TF32, providers really in use.
    """

    @property
    def name(self) -> str:
        """One of ``KINDS``."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` and ``bind`` take."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` gives."""
        ...

    @property
    def facts(self) -> Mapping[str, str]:
        """What the numbers depend on."""
        ...

    def run(self, feed: Feed) -> dict[str, Array]:
        """Host arrays in, host arrays out; the caller owns the outputs."""
        ...

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Put the inputs on the device; the function runs the model once and returns when the work is done."""
        ...

    def __enter__(self) -> Backend: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None: ...


class DeviceTimes(NamedTuple):
    """Milliseconds of each call by the device's own clock.

    ``launch_bound``: the host queued the calls no faster than the device ran them. Then it is the host's time: an upper bound.
    """

    ms: tuple[float, ...]
    launch_bound: bool = False


@runtime_checkable
class OnDevice(Protocol):
    """What a runtime has beside ``Backend`` where its device keeps the time of its own work."""

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

    A full queue holds the host up as well, but not from the start: its quickest turn was made while there was room.
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
    """What a runtime has beside ``Backend`` where it tells what each of its layers takes."""

    def layer_times(self, feed: Feed, count: int) -> tuple[LayerTime, ...]:
        """Times of ``count`` calls, in the order of execution; the runtime's own profiler makes these calls slower."""
        ...


@runtime_checkable
class InRanges(Protocol):
    """What a runtime has beside ``Backend`` where it takes some batch sizes and no others."""

    @property
    def ranges(self) -> tuple[BatchRange, ...]:
        """The sizes it takes; none where the batch is fixed."""
        ...


class Wishes(NamedTuple):
    """How to open a runtime: ``threads`` on the CPU; ``batches`` an engine must take; the rest is for TensorRT alone.

    ``engine``: this file and no other; where it does not fit, nothing is built instead.
    """

    threads: int | None = None
    batches: tuple[int, ...] = ()
    cuda_graph: bool = False
    flavour: str | None = None
    engine: Path | None = None
    progress: Progress = SILENT


class Runtime(NamedTuple):
    """``absence``: why it cannot run the files here, or nothing; ``open`` is called only where that is nothing.

    ``by_layer``: what it opens is ``ByLayer``. ``on_gpu``: it computes on a GPU, whose clock follows its work.
    ``in_ranges``: what it opens is ``InRanges``, and is asked for no batch beyond the usual ones by those that can do without.
    """

    absence: Callable[[ModelFiles | None, Wishes], str]
    open: Callable[[ModelFiles, Wishes], Backend]
    by_layer: bool = False
    on_gpu: bool = False
    in_ranges: bool = False
