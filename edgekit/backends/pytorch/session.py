"""PyTorch eager, on the original model with its batch norm unfolded: the side that every other runtime is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import ClassVar

import torch
from torch import nn

from edgekit.backends.contract import DeviceTimes, queued
from edgekit.bundle.files import ModelFiles
from edgekit.errors import ModelError, first_line
from edgekit.graphs.trace import as_arrays, named_outputs
from edgekit.machine.cpu import cores, cpu_facts
from edgekit.machine.gpu import tf32_fact
from edgekit.models.factory import rebuild_module
from edgekit.models.weights import load_weights
from edgekit.tensors import Array, Feed, TensorSpec


class TorchSession:
    """A module in inference mode on the CPU."""

    device: ClassVar[str] = "cpu"

    def __init__(
        self, module: nn.Module, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], facts: Mapping[str, str]
    ) -> None:
        self.inputs, self.outputs, self.facts = inputs, outputs, facts
        self._module = module.eval()
        self._threads = int(facts["threads"])

    @classmethod
    def open(cls, files: ModelFiles, factory: str | None, threads: int | None = None) -> TorchSession:
        """Make the model by ``factory`` and load the bundle's weights."""
        if factory is None or files.weights is None:
            raise ModelError("there is no PyTorch model to open", "name one with --source")
        module = rebuild_module(factory, files.args)
        load_weights(module, files.weights)
        facts = {
            "torch": str(torch.__version__),
            "precision": files.precision,
            "graph": "eager, batch norm unfolded",
            "threads": str(threads or cores()),
        }
        return cls(module, files.inputs, files.outputs, facts | cls._device_facts())

    @classmethod
    def _device_facts(cls) -> dict[str, str]:
        return {"device": cls.device} | cpu_facts()

    def run(self, feed: Feed) -> dict[str, Array]:
        """Host arrays in, host arrays out."""
        self._use_threads()
        with torch.inference_mode():
            return as_arrays(named_outputs(self._module(*self._tensors(feed))))

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Inputs are copied once: the device is the host."""
        tensors, module, use_threads = self._tensors(feed), self._module, self._use_threads

        def call() -> None:
            use_threads()
            with torch.inference_mode():
                module(*tensors)

        return call

    def _use_threads(self) -> None:
        """PyTorch has one number for the process: where sessions of several take turns, the first call of a turn changes it."""
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def _tensors(self, feed: Feed) -> list[torch.Tensor]:
        return [torch.from_numpy(feed[spec.name]).to(self.device, copy=True) for spec in self.inputs]  # forward() may write to it

    def __enter__(self) -> TorchSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        return None


class TorchCudaSession(TorchSession):
    """A module on the first GPU, its products and convolutions without TF32 from here until the backend is closed."""

    device: ClassVar[str] = "cuda"

    def __init__(
        self, module: nn.Module, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], facts: Mapping[str, str]
    ) -> None:
        with _Cuda("take the model to the GPU"):
            super().__init__(module.to(self.device), inputs, outputs, facts)
        self._tf32 = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    @classmethod
    def _device_facts(cls) -> dict[str, str]:
        with _Cuda("start"):
            return {"device": torch.cuda.get_device_name(0), "CUDA": str(torch.version.cuda), "TF32": tf32_fact()}

    def run(self, feed: Feed) -> dict[str, Array]:
        """Host arrays in, host arrays out: the copy back waits for the work."""
        with _Cuda("run the model"):
            return super().run(feed)

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Inputs and outputs stay in the GPU's memory; a call returns when the GPU is done."""
        running = _Cuda("run the model")
        with running:
            once = super().bind(feed)

        def call() -> None:
            with running:
                once()
                torch.cuda.synchronize()

        return call

    def device_times(self, feed: Feed, count: int) -> DeviceTimes:
        """``count`` calls by the GPU's own clock, inputs resident, after one that is not counted."""
        with _Cuda("time the model"):
            once = super().bind(feed)
            event = partial(torch.cuda.Event, enable_timing=True)
            events = [event() for _ in range(count + 1)]

            def read() -> tuple[float, ...]:
                torch.cuda.synchronize()
                return tuple(float(begin.elapsed_time(end)) for begin, end in pairwise(events))

            return queued(once, [event.record for event in events], read)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = self._tf32
        del self._module
        with suppress(RuntimeError):  # after an error the GPU may answer nothing but that error
            torch.cuda.empty_cache()


class _Cuda:
    """Turn PyTorch's CUDA errors into one sentence. A class, because a generator would add to the times."""

    def __init__(self, action: str) -> None:
        self._what = action

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(value, RuntimeError):
            raise ModelError(
                f"PyTorch cannot {self._what} on CUDA: {first_line(value)}", "use smaller batches, or torch on the CPU"
            ) from value
