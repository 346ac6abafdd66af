"""A model in float64, whatever its own dtype: the truth that everything is held against."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgekit.errors import ModelError
from edgekit.models.trace import named_outputs, run, trace
from edgekit.tensors import TensorSpec

aten = torch.ops.aten
Override = Callable[[str], Tensor | None]  # name of a parameter -> what it is to become
_NARROWER = (torch.float32, torch.float16, torch.bfloat16)


def in_float64(value: Any) -> Any:
    """Floating-point tensors as float64, anything else as it is."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def run_exact(model: nn.Module, inputs: Sequence[TensorSpec], example: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """One inference of a float64 copy of a model that is known to run; ``inputs`` describes ``example``.

    A model that fixes a narrower dtype in ``forward()`` is traced, and its graph run in float64 throughout. Raises ModelError
    when neither can be done.
    """
    try:
        return run(copy.deepcopy(model).eval().double(), tuple(in_float64(tensor) for tensor in example))
    except ModelError:
        return run_in_float64(trace(model, inputs), example)


def _stored_values(name: str) -> Tensor | None:
    return None


class Exact(fx.Interpreter):
    """A graph in float64, one layer's weights at a time.

    Every stored tensor is widened when it is read, every cast to a narrower float becomes one to float64.
    """

    def __init__(self, graph: fx.GraphModule, override: Override = _stored_values) -> None:
        super().__init__(graph)
        self._override = override

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A stored tensor, or what it is to become."""
        exact = self._override(str(target))
        if exact is not None:
            return exact
        value = super().get_attr(target, args, kwargs)
        return _widened_graph(value) if isinstance(value, fx.GraphModule) else in_float64(value)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An operator, with the dtypes among its arguments widened."""
        if target is aten._assert_tensor_metadata.default:
            return None
        args, kwargs = (fx.node.map_aggregate(part, _widened) for part in (args, kwargs))
        return in_float64(super().call_function(target, args, kwargs))


class Jittered(Exact):
    """Each operator's result is off by half a unit in the last place, up or down by chance: what rounding alone may do.

    Stochastic arithmetic after Parker, "Monte Carlo Arithmetic", 1997. The chance is repeatable.
    """

    def __init__(self, graph: fx.GraphModule, override: Override = _stored_values) -> None:
        super().__init__(graph, override)
        self._chance = torch.Generator().manual_seed(0)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An operator, its float64 result moved."""
        value = super().call_function(target, args, kwargs)
        if not isinstance(value, Tensor) or value.dtype != torch.float64:
            return value
        sign = torch.randint(0, 2, value.shape, generator=self._chance).double() * 2 - 1
        return value + value * sign * (torch.finfo(torch.float64).eps / 2)


def run_in_float64(
    graph: fx.GraphModule,
    example: tuple[Tensor, ...],
    override: Override = _stored_values,
    interpreter: type[Exact] = Exact,
) -> dict[str, Tensor]:
    """The named outputs of one inference; ``override`` gives values of parameters that are not stored yet."""
    inputs = [copy.deepcopy(in_float64(tensor)) for tensor in example]
    with torch.inference_mode():
        result = interpreter(graph, override).run(*inputs)
    return named_outputs(result)


def rounding_noise(graph: fx.GraphModule, example: tuple[Tensor, ...], override: Override = _stored_values) -> float:
    """How far float64's own rounding moves the outputs, relative to their scale."""
    exact = run_in_float64(graph, example, override)
    return scaled_error(run_in_float64(graph, example, override, Jittered), exact)


def scaled_error(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The largest max|got - wanted| / max|wanted| of any output."""
    return max(_scaled_error(got[name].double(), wanted[name].double()) for name in wanted)


def _scaled_error(got: Tensor, wanted: Tensor) -> float:
    """Over the finite values; infinite unless both are finite at the same places."""
    finite = wanted.isfinite()
    if not bool((got.isfinite() == finite).all()):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    return float((got - wanted)[finite].abs().max() / wanted[finite].abs().max().clamp_min(1e-30))


def _widened(value: Any) -> Any:
    return torch.float64 if value in _NARROWER else value


def _widened_graph(branch: fx.GraphModule) -> fx.GraphModule:
    """A branch of ``torch.cond`` or a body under ``autocast``, which runs on its own, likewise."""
    branch = copy.deepcopy(branch).double()
    for node in list(branch.graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            branch.graph.erase_node(node)
        elif node.op == "call_function":
            node.args, node.kwargs = (fx.node.map_aggregate(part, _widened) for part in (node.args, node.kwargs))
    branch.recompile()
    return branch
