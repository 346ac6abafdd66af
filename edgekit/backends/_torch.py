"""PyTorch eager, on the original model with its batch norm unfolded: the side that every other runtime is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

import torch
from torch import nn

from edgekit.backends import ModelFiles
from edgekit.errors import ModelError
from edgekit.machine import cores
from edgekit.models.build import build_module, load_weights
from edgekit.models.trace import as_arrays, named_outputs
from edgekit.tensors import Array, Feed, TensorSpec


class TorchBackend:
    """A module in inference mode on the CPU."""

    name = "torch"

    def __init__(
        self, module: nn.Module, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], facts: Mapping[str, str]
    ) -> None:
        self.inputs, self.outputs, self.facts = inputs, outputs, facts
        self._module = module.eval()

    @classmethod
    def open(cls, files: ModelFiles, threads: int | None = None) -> TorchBackend:
        """Rebuild the model and load its weights; ``threads`` applies to the whole process."""
        if files.torch_model is None or files.torch_weights is None:
            raise ModelError("there is no PyTorch model to open; name one with --source")
        module = build_module(files.torch_model, files.torch_args)
        load_weights(module, files.torch_weights)
        torch.set_num_threads(threads or cores())
        facts = {
            "torch": str(torch.__version__),
            "device": "cpu",
            "precision": "float32",
            "graph": "eager, batch norm unfolded",
            "threads": str(torch.get_num_threads()),
        }
        return cls(module, files.inputs, files.outputs, facts)

    def run(self, feed: Feed) -> dict[str, Array]:
        """Host arrays in, host arrays out."""
        with torch.inference_mode():
            return as_arrays(named_outputs(self._module(*self._tensors(feed))))

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Tensors share the arrays' memory: the device is the host."""
        tensors, module = self._tensors(feed), self._module

        def call() -> None:
            with torch.inference_mode():
                module(*tensors)

        return call

    def _tensors(self, feed: Feed) -> list[torch.Tensor]:
        return [torch.from_numpy(feed[spec.name]) for spec in self.inputs]

    def __enter__(self) -> TorchBackend:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        return None
