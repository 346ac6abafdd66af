"""CUDA's memory, one stream and graphs, through cuda-python: a call that fails is an EngineError, what is taken is given back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from cuda.bindings import runtime as cudart

from edgekit.backends.contract import DeviceTimes, queued
from edgekit.errors import EngineError
from edgekit.setups import Absence
from edgekit.tensors import Array

SUCCESS, OUT_OF_MEMORY, DRIVER_TOO_OLD = 0, 2, 35  # cudaError_t

REMEDIES = {
    OUT_OF_MEMORY: "free some of the GPU's memory, or use smaller batches",
    DRIVER_TOO_OLD: "update the NVIDIA driver, or install the cuda-bindings of its CUDA, like pip install 'cuda-bindings==12.*'",
}
ANEW = "try again, in a new process: after some errors CUDA refuses all further work"


class Device:
    """The first GPU: one stream, and what was taken on it until ``close``."""

    def __init__(self) -> None:
        self._taken: list[tuple[Callable[[Any], Any], Any]] = []
        self._unused: list[int] = []
        self.closed = False
        # work on CUDA's default stream, of whatever else is in this process, does not wait for this one
        created = cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking)
        self.stream = self._own("create a stream", created, cudart.cudaStreamDestroy)

    def allocate(self, size: int) -> int:
        """Memory of ``size`` bytes, never at address 0."""
        while self._unused:
            self._give_back(self._unused.pop(), cudart.cudaFree)
        allocated = cudart.cudaMalloc(max(size, 1))
        return int(self._own(f"take {size} bytes of the GPU's memory", allocated, cudart.cudaFree))

    def release(self, addresses: Sequence[int]) -> None:
        """Mark ``addresses`` as unused. The next allocation gives them back, so this may be called at any moment."""
        self._unused += addresses

    def upload(self, array: Array, address: int) -> None:
        """Start to copy a contiguous ``array``, which must stay until ``wait``."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        checked_call("copy to the GPU", cudart.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self.stream))

    def download(self, address: int, array: Array) -> None:
        """Start to fill a contiguous ``array``, which is whole after ``wait``."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked_call("copy from the GPU", cudart.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self.stream))

    def wait(self) -> None:
        """Return when the stream's work is done; errors of kernels arrive here."""
        checked_call("finish the work on the GPU", cudart.cudaStreamSynchronize(self.stream))

    def capture(self, enqueue: Callable[[], None]) -> Any:
        """Record the work that ``enqueue`` puts on the stream as one graph, which ``launch`` replays."""
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked_call("begin a graph", cudart.cudaStreamBeginCapture(self.stream, mode))
        try:
            enqueue()
        except BaseException:
            _, *graphs = cudart.cudaStreamEndCapture(self.stream)  # or the stream would stay in capture
            _discard(graphs)
            raise
        graph = checked_call("record a graph", cudart.cudaStreamEndCapture(self.stream))
        executable = cudart.cudaGraphInstantiate(graph, 0)
        _discard([graph])
        return self._own("make a graph ready", executable, cudart.cudaGraphExecDestroy)

    def launch(self, graph: Any) -> None:
        """Put a captured graph on the stream."""
        checked_call("launch a graph", cudart.cudaGraphLaunch(graph, self.stream))

    def discard(self, graph: Any) -> None:
        """Give a captured graph back before ``close`` does."""
        self._give_back(graph, cudart.cudaGraphExecDestroy)

    def times(self, enqueue: Callable[[], None], count: int) -> DeviceTimes:
        """Time ``count`` runs of the work that ``enqueue`` puts on the stream, by the GPU's own clock."""
        events = [self._own("create an event", cudart.cudaEventCreate(), cudart.cudaEventDestroy) for _ in range(count + 1)]
        times = queued(enqueue, [partial(self._record, event) for event in events], partial(self._elapsed, events))
        for event in events:
            self._give_back(event, cudart.cudaEventDestroy)
        return times

    def close(self) -> None:
        """Wait for work under way, and give everything back in reverse order; a second call does nothing."""
        if not self.closed:
            self.closed = True
            # where this fails there is nothing left to do about it
            cudart.cudaStreamSynchronize(self.stream)
            while self._taken:
                give_back, resource = self._taken.pop()
                give_back(resource)

    def _record(self, event: Any) -> None:
        checked_call("record an event", cudart.cudaEventRecord(event, self.stream))

    def _elapsed(self, events: Sequence[Any]) -> tuple[float, ...]:
        self.wait()
        return tuple(
            float(checked_call("read the GPU's clock", cudart.cudaEventElapsedTime(begin, end)))
            for begin, end in pairwise(events)
        )

    def _own(self, action: str, result: tuple[Any, ...], give_back: Callable[[Any], Any]) -> Any:
        resource = checked_call(action, result)
        self._taken.append((give_back, resource))
        return resource

    def _give_back(self, resource: Any, give_back: Callable[[Any], Any]) -> None:
        self._taken.remove((give_back, resource))
        give_back(resource)


def checked_call(action: str, result: tuple[Any, ...]) -> Any:
    """The results of a CUDA call without its status; raises EngineError for any status but success."""
    status, *values = result
    if int(status) != SUCCESS:
        _, text = cudart.cudaGetErrorString(status)
        reason = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        raise EngineError(f"CUDA cannot {action}: {reason}", REMEDIES.get(int(status), ANEW))
    return values[0] if values else None


def runtime_absence() -> Absence | None:
    """Why this cuda-python cannot work with the driver here; None when it can."""
    try:
        checked_call("start", cudart.cudaGetDeviceCount())
    except EngineError as problem:
        return Absence(problem.reason, problem.remedy, broken=True)
    return None


def _discard(graphs: list[Any]) -> None:
    for graph in graphs:
        if graph is not None and int(graph):
            cudart.cudaGraphDestroy(graph)
