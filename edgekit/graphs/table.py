"""The layers of a PyTorch module, as a table: what came out of each, what it holds, what it costs."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgekit.graphs.trace import TRACED_BATCH, run_module, tensors_of
from edgekit.models.batchnorm import BatchNorm
from edgekit.reports.inspect import InspectReport, Layer
from edgekit.tensors import BATCH, TensorSpec, shape_text

NORMS = (nn.modules.batchnorm._BatchNorm, BatchNorm)


def module_table(source: str, model: nn.Module, inputs: Sequence[TensorSpec]) -> InspectReport:
    """Every module that computes something itself, and the blocks around it, in the order of the first call."""
    frozen = copy.deepcopy(model).eval()
    rows: dict[str, Layer] = {}
    handles = [module.register_forward_hook(_recorder(name, rows)) for name, module in frozen.named_modules() if name]
    outputs = run_module(frozen, tensors_of(inputs, TRACED_BATCH))
    _remove(handles)
    leaves = [name for name, module in frozen.named_modules() if name in rows and not list(module.children())]
    return InspectReport(
        source=source,
        inputs={spec.name: f"{spec.dtype} {shape_text(spec.shape)}" for spec in inputs},
        outputs={
            name: f"{str(tensor.dtype).removeprefix('torch.')} {shape_text((BATCH, *tensor.shape[1:]))}"
            for name, tensor in outputs.items()
        },
        layers=tuple(rows.values()),
        ops=dict(sorted(Counter(rows[name].op for name in leaves).items())),
        parameters=sum(parameter.numel() for parameter in frozen.parameters()),
        macs=sum(rows[name].macs for name in leaves),
        batch_norms=sum(isinstance(module, NORMS) for module in frozen.modules()),
        facts={"torch": str(torch.__version__)},
    )


def _recorder(name: str, rows: dict[str, Layer]) -> Callable[[nn.Module, tuple[Any, ...], object], None]:
    def record(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if isinstance(output, Tensor) and name not in rows:
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            shape: tuple[int | str, ...] = (BATCH, *output.shape[1:])
            rows[name] = Layer(name, type(module).__name__, shape, own, _module_macs(module, args, output))

    return record


def _module_macs(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> int:
    """Multiply-accumulates per sample of convolutions and linear layers; 0 for the rest."""
    outputs = output.numel() // output.shape[0]
    if isinstance(module, nn.Linear):
        return outputs * module.in_features
    if isinstance(module, nn.modules.conv._ConvTransposeNd):  # every input element meets the whole kernel
        inputs = int(args[0].numel() // args[0].shape[0])
        return inputs * (module.out_channels // module.groups) * math.prod(module.kernel_size)
    if isinstance(module, nn.modules.conv._ConvNd):
        return outputs * (module.in_channels // module.groups) * math.prod(module.kernel_size)
    return 0


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
