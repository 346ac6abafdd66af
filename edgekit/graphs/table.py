"""The layers of a PyTorch module as a table: output shapes, parameters, multiply-accumulates, calls."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from edgekit.graphs.trace import TRACED_BATCH, run_module, tensors_of
from edgekit.models.batchnorm import BatchNorm
from edgekit.reports.inspect import InspectReport, Layer
from edgekit.tensors import BATCH, TensorSpec, shape_text

_MODULES = {name.lower(): name for name, kind in vars(nn).items() if isinstance(kind, type) and issubclass(kind, nn.Module)}
NORMS = (nn.modules.batchnorm._BatchNorm, BatchNorm)


def module_table(source: str, model: nn.Module, inputs: Sequence[TensorSpec]) -> InspectReport:
    """A row for every module that returns a tensor, in the order of the first call.

    ``ops`` counts calls: both of a module that is called twice, and those of functions like ``torch.relu`` outside of modules
    without children. Multiply-accumulates are half of the operations that PyTorch's ``FlopCounterMode`` counts: convolutions and
    matrix products, called by modules or functions. A block's row has the work of its own ``forward`` only.
    """
    frozen = copy.deepcopy(model).eval()
    flops = FlopCounterMode(display=False)
    calls = _Calls(frozen, flops)
    samples = tensors_of(inputs, TRACED_BATCH)
    # PyTorch cannot count fused attention on the CPU; as plain math, its two products are counted
    with sdpa_kernel(SDPBackend.MATH), flops, calls:
        outputs = run_module(frozen, samples)
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
        macs=_macs(flops.get_total_flops()),
        batch_norms=sum(isinstance(module, NORMS) for module in frozen.modules()),
        facts={"torch": str(torch.__version__)},
    )


class _Calls(TorchFunctionMode):
    """Records what one inference of ``model`` calls: a row for each module, and how often each operator ran.

    A module without children counts as one operator, whatever it computes; so does a function called outside of such modules.
    """

    def __init__(self, model: nn.Module, flops: FlopCounterMode) -> None:
        super().__init__()
        self._flops = flops
        self._before: list[int] = []
        self._in_children = [0]
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
        """Call a function, and count it under the name of the equivalent module, if there is one."""
        output = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "").strip("_")
        if isinstance(output, Tensor) and not self._inside and name not in ("get", ""):
            self.operators[_MODULES.get(name.replace("_", ""), name)] += 1
        return output

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inside += name in self.leaves
        self._before.append(self._flops.get_total_flops())
        self._in_children.append(0)

    def _leave(self, name: str, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        self._inside -= name in self.leaves
        spent = self._flops.get_total_flops() - self._before.pop()
        macs = _macs(spent - self._in_children.pop())
        self._in_children[-1] += spent
        if not isinstance(output, Tensor):
            return
        operator = type(module).__name__
        if name in self.leaves:
            self.operators[operator] += 1
        if name in self.rows:
            layer = self.rows[name]
            self.rows[name] = msgspec.structs.replace(layer, macs=layer.macs + macs, calls=layer.calls + 1)
        else:
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            self.rows[name] = Layer(name, operator, (BATCH, *output.shape[1:]), own, macs)


def _macs(flops: int) -> int:
    """Multiply-accumulates per sample, from the operations of ``TRACED_BATCH`` samples at two operations each."""
    return flops // (2 * TRACED_BATCH)
