"""CUDA's runtime without a GPU: memory is numpy, a stream is a list of what is still to be done, an unknown name raises.

What is put on a stream happens when somebody waits for it and not before, so that a missing wait shows. A copy from the host
reads the array as it is then. Every call can be made to fail, and what was taken and not given back can be counted.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


TEXTS = {
    Error.cudaErrorInvalidValue: b"invalid argument",
    Error.cudaErrorMemoryAllocation: b"out of memory",
    Error.cudaErrorInsufficientDriver: b"CUDA driver version is insufficient for CUDA runtime version",
    Error.cudaErrorInvalidResourceHandle: b"invalid resource handle",
    Error.cudaErrorNotReady: b"device not ready",
    Error.cudaErrorIllegalAddress: b"an illegal memory access was encountered",
    Error.cudaErrorStreamCaptureUnsupported: b"operation not permitted when stream is capturing",
}
OK = Error.cudaSuccess
GIVE = (
    "cudaMalloc", "cudaStreamCreateWithFlags", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGetDeviceCount",
    "cudaEventCreate", "cudaEventElapsedTime",
)  # fmt: skip
Work = Callable[[], object]


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class FakeCuda:
    """Stands for the module ``cuda.bindings.runtime``: it has the names that start with ``cuda``, and no others."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.streams: dict[int, list[Work]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.ready: dict[int, list[Work]] = {}
        self.capturing: dict[int, list[Work]] = {}
        self.events: dict[int, float | None] = {}
        self.clock = 0.0  # milliseconds; kernels move it on
        self.fails: dict[str, Error] = {}
        self.calls: list[str] = []
        self.capacity = 1 << 30
        self._next = 0x10000

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
        monkeypatch.setattr("edgekit.backends.tensorrt.memory.cudart", Module(self))
        monkeypatch.setattr(
            "edgekit.backends.contract.perf_counter_ns", lambda: 0
        )  # queueing takes the host no time, however busy it is
        return self

    @property
    def left(self) -> dict[str, int]:
        """What was taken and not given back."""
        held: dict[str, dict[int, Any]] = {
            "memory": self.memory,
            "streams": self.streams,
            "graphs": self.graphs,
            "ready": self.ready,
        }
        held["events"] = self.events
        return {name: len(taken) for name, taken in held.items() if taken}

    def put(self, stream: int, work: Work) -> bool:
        """For kernels: on the stream, or into what is being captured."""
        (self.capturing if stream in self.capturing else self.streams)[stream].append(work)
        return True

    def handle(self) -> int:
        self._next += 0x1000
        return self._next

    def view(self, address: int, size: int) -> np.ndarray:
        """The bytes at a device address; None of the fake's memory is there for a host address."""
        held = self.memory[address]
        assert size <= held.nbytes, "beyond the end of device memory"
        return held[:size]

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return OK, 1

    def cudaGetErrorString(self, error: Error) -> tuple[Any, ...]:
        return OK, TEXTS[error]

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if size <= 0 or sum(held.nbytes for held in self.memory.values()) + size > self.capacity:
            return Error.cudaErrorMemoryAllocation, None
        address = self.handle()
        self._next += size
        self.memory[address] = np.full(size, 0xCD, np.uint8)
        return OK, address

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        assert not any(self.streams.values()), "freed while work is under way"
        return (OK,) if self.memory.pop(devPtr, None) is not None else (Error.cudaErrorInvalidValue,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: int) -> tuple[Any, ...]:
        device, host = (dst, src) if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else (src, dst)
        if device not in self.memory or count > self.memory[device].nbytes:
            return (Error.cudaErrorInvalidValue,)
        view = self.view(device, count)
        addresses = (view.ctypes.data, host) if device == dst else (host, view.ctypes.data)
        self.put(stream, lambda: ctypes.memmove(*addresses, count))
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        stream = self.handle()
        self.streams[stream] = []
        return OK, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        return (OK,) if self.streams.pop(stream, None) is not None else (Error.cudaErrorInvalidResourceHandle,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        if stream not in self.streams:
            return (Error.cudaErrorInvalidResourceHandle,)
        if stream in self.capturing:
            return (Error.cudaErrorStreamCaptureUnsupported,)
        pending, self.streams[stream] = self.streams[stream], []
        for work in pending:
            work()
        return (OK,)

    def cudaEventCreate(self) -> tuple[Any, ...]:
        event = self.handle()
        self.events[event] = None
        return OK, event

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        if event not in self.events:
            return (Error.cudaErrorInvalidResourceHandle,)
        self.events[event] = None
        self.put(stream, lambda: self.events.__setitem__(event, self.clock))
        return (OK,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, ...]:
        begin, done = self.events[start], self.events[end]
        return (Error.cudaErrorNotReady, None) if begin is None or done is None else (OK, done - begin)

    def cudaEventDestroy(self, event: int) -> tuple[Any, ...]:
        assert not any(self.streams.values()), "given back while work is under way"
        return (OK,) if self.events.pop(event, -1.0) != -1.0 else (Error.cudaErrorInvalidResourceHandle,)

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any, ...]:
        assert stream in self.streams
        self.capturing[stream] = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        graph = self.handle()
        self.graphs[graph] = self.capturing.pop(stream)
        return OK, graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        ready = self.handle()
        self.ready[ready] = self.graphs[graph]
        return OK, ready

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        return (OK,) if self.graphs.pop(graph, None) is not None else (Error.cudaErrorInvalidValue,)

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[Any, ...]:
        self.streams[stream] += self.ready[graphExec]
        return (OK,)

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[Any, ...]:
        return (OK,) if self.ready.pop(graphExec, None) is not None else (Error.cudaErrorInvalidValue,)


class Module:
    """The fake as the code sees it: calls are counted, and fail where the test says so."""

    def __init__(self, fake: FakeCuda) -> None:
        self.__dict__["_fake"] = fake

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda") or not hasattr(self._fake, name):
            raise AttributeError(f"this CUDA has no {name}")
        found, fake = getattr(self._fake, name), self._fake
        if isinstance(found, (int, type)):
            return found
        return Counted(fake, name, found)


class Counted:
    """A function of the fake; two of the same name are equal, as the real ones are."""

    def __init__(self, fake: FakeCuda, name: str, function: Callable[..., Any]) -> None:
        self._fake, self._name, self._function = fake, name, function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counted) and self._name == other._name

    def __hash__(self) -> int:
        return hash(self._name)

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        self._fake.calls.append(self._name)
        if self._name not in self._fake.fails:
            answer: tuple[Any, ...] = self._function(*args)
            return answer
        if self._name == "cudaStreamSynchronize":
            self._fake.streams[args[0]].clear()  # an error ends what was under way
        if self._name == "cudaStreamEndCapture":
            self._fake.capturing.pop(args[0], None)
        return (self._fake.fails[self._name], None) if self._name in GIVE else (self._fake.fails[self._name],)
