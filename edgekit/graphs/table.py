"""The layers of a PyTorch module, as a table: what came out of each, what it holds, what it costs."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from edgekit.graphs.trace import TRACED_BATCH, run_module, tensors_of
from edgekit.models.batchnorm import BatchNorm
from edgekit.reports.inspect import InspectReport, Layer
from edgekit.tensors import BATCH, TensorSpec, shape_text

_MODULES = {name.lower(): name for name, kind in vars(nn).items() if isinstance(kind, type) and issubclass(kind, nn.Module)}
NORMS = (nn.modules.batchnorm._BatchNorm, BatchNorm)


def module_table(source: str, model: nn.Module, inputs: Sequence[TensorSpec]) -> InspectReport:
    """Every module that computes something itself, and the blocks around it, in the order of the first call.

    ``ops`` counts calls: of a module that is called twice both, and of functions like ``torch.relu`` those outside such modules.
    """
    frozen = copy.deepcopy(model).eval()
    calls = _Calls(frozen)
    with calls:
        outputs = run_module(frozen, tensors_of(inputs, TRACED_BATCH))
    return InspectReport(
        source=source,
        inputs={spec.name: f"{spec.dtype} {shape_text(spec.shape)}" for spec in inputs},
        outputs={
            name: f"{str(tensor.dtype).removeprefix('torch.')} {shape_text((BATCH, *tensor.shape[1:]))}"
            for name, tensor in outputs.items()
        },
        layers=tuple(calls.rows.values()),
        ops=dict(sorted(calls.operators.items())),
        parameters=sum(parameter.numel() for parameter in frozen.parameters()),
        macs=sum(calls.rows[name].macs for name in calls.leaves if name in calls.rows),
        batch_norms=sum(isinstance(module, NORMS) for module in frozen.modules()),
        facts={"torch": str(torch.__version__)},
    )


class _Calls(TorchFunctionMode):
    """Records what one inference of ``model`` calls: a row for each module, and how often each operator ran.

    A module without children is one operator, whatever it does inside; so is a function that is called outside of such modules.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.rows: dict[str, Layer] = {}
        self.operators: Counter[str] = Counter()
        self._modules = {name: module for name, module in model.named_modules() if name}
        self.leaves = {name for name, module in self._modules.items() if not list(module.children())}
        self._inside = 0
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> _Calls:
        for name, module in self._modules.items():
            self._handles += [
                module.register_forward_pre_hook(partial(self._enter, name)),
                module.register_forward_hook(partial(self._leave, name)),
            ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *problem: object) -> None:
        super().__exit__(*problem)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A function is counted under the name of the module that does the same, where there is one."""
        output = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "").strip("_")
        if isinstance(output, Tensor) and not self._inside and name not in ("get", ""):
            self.operators[_MODULES.get(name.replace("_", ""), name)] += 1
        return output

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inside += name in self.leaves

    def _leave(self, name: str, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        self._inside -= name in self.leaves
        if not isinstance(output, Tensor):
            return
        operator, macs = type(module).__name__, _module_macs(module, args, output)
        if name in self.leaves:
            self.operators[operator] += 1
        if name in self.rows:
            layer = self.rows[name]
            self.rows[name] = msgspec.structs.replace(layer, macs=layer.macs + macs, calls=layer.calls + 1)
        else:
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            self.rows[name] = Layer(name, operator, (BATCH, *output.shape[1:]), own, macs)


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
