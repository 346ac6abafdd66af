"""Run a model in float64, whatever its own dtype: the reference for every comparison."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from edgekit.errors import ModelError, first_line
from edgekit.graphs.trace import named_outputs
from edgekit.tensors import largest, normalised_error

aten = torch.ops.aten
Override = Callable[[str], Tensor | None]  # name of a parameter -> the value that replaces it, or None
SAMPLED = 1024
SMALLEST_SCALE = 1e-30  # the divisor where all values are smaller
_NARROWER = (torch.float32, torch.float16, torch.bfloat16)


def in_float64(value: Any) -> Any:
    """A floating-point tensor as float64; any other value unchanged."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def run_exact(model: nn.Module, graph: fx.GraphModule, example: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Run ``model`` once in float64, through its graph from ``trace``.

    A float64 copy of the module would not do: a cast to float32 inside ``forward()`` would round there. Raises ModelError if an
    operator of the model has no float64 arithmetic.
    """
    try:
        return run_in_float64(graph, example).outputs
    except Exception as problem:
        raise ModelError(
            f"{type(model).__name__} runs, but not in float64, which the reference needs: {first_line(problem)}"
        ) from problem


def _stored_values(name: str) -> Tensor | None:
    return None


def widened_call(target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call an operator on float64 values; narrower dtypes among its arguments become float64 too."""
    args, kwargs = (fx.node.map_aggregate(part, _widened) for part in (args, kwargs))
    return in_float64(target(*args, **kwargs))


class Exact(fx.Interpreter):
    """Runs a graph in float64, holding one layer's widened weights at a time.

    Every stored tensor is widened when it is read; every cast to a narrower float becomes a cast to float64. ``samples`` keeps
    some elements of every value.
    """

    def __init__(self, graph: fx.GraphModule, override: Override = _stored_values) -> None:
        super().__init__(graph)
        self._override = override
        self.samples: dict[fx.Node, Tensor] = {}

    def run_node(self, node: fx.Node) -> Any:
        """The node's value; ``samples`` keeps some of its elements."""
        value = super().run_node(node)
        if node.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point():
            self.samples[node] = _sample(value)
        return value

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A stored tensor in float64, or the value that ``override`` gives for it."""
        exact = self._override(str(target))
        if exact is not None:
            return exact
        value = super().get_attr(target, args, kwargs)
        if isinstance(value, fx.GraphModule):
            return _widened_graph(value)
        exact = in_float64(value)
        return exact.clone() if exact is value and not isinstance(value, nn.Parameter) else exact  # buffers may be written to

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator in float64."""
        return None if target is aten._assert_tensor_metadata.default else widened_call(target, args, kwargs)


class Jittered(Exact):
    """Runs a graph with each result moved by half a unit in the last place, up or down at random: the effect of rounding.

    Stochastic arithmetic after Parker, "Monte Carlo Arithmetic", 1997. The random signs are repeatable.
    """

    def __init__(self, graph: fx.GraphModule, override: Override = _stored_values) -> None:
        super().__init__(graph, override)
        self._random = torch.Generator().manual_seed(0)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator, and move its float64 result."""
        value = super().call_function(target, args, kwargs)
        if not isinstance(value, Tensor) or value.dtype != torch.float64 or _shares_memory(value, args):
            return value
        sign = torch.randint(0, 2, value.shape, generator=self._random).double() * 2 - 1
        return value + value * sign * (torch.finfo(torch.float64).eps / 2)


class ExactRun(NamedTuple):
    """One inference: the named outputs, and some elements of every intermediate value (values x channels)."""

    outputs: dict[str, Tensor]
    samples: dict[fx.Node, Tensor]


def run_in_float64(
    graph: fx.GraphModule,
    example: tuple[Tensor, ...],
    override: Override = _stored_values,
    interpreter: type[Exact] = Exact,
) -> ExactRun:
    """Run a graph once with repeatable random numbers; ``override`` gives the values of parameters that are not stored yet."""
    inputs = [copy.deepcopy(in_float64(tensor)) for tensor in example]
    exact = interpreter(graph, override)
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ExactRun(named_outputs(exact.run(*inputs)), exact.samples)


def worst_output_error(outputs: Mapping[str, Tensor], references: Mapping[str, Tensor]) -> float:
    """The largest error of scale, max|y - r| / max|r|, of any output."""
    return max(_finite_error(outputs[name].double(), reference.double()) for name, reference in references.items())


def sampled_error(values: Tensor, reference: Tensor) -> float:
    """The largest |y - r| of two samples, each channel relative to its own peak or the median peak, whichever is larger.

    A sampled channel is a few numbers, which may all lie near zero by chance; a huge channel must not hide the others.
    """
    peaks = reference.abs().amax(0)
    scale = peaks.clamp_min(max(float(peaks.median()), 1e-6 * float(peaks.max()), SMALLEST_SCALE))
    if bool(reference.isfinite().all()):
        return _finite_error(values / scale, reference / scale)
    return _finite_error(values, reference)


def _finite_error(values: Tensor, reference: Tensor) -> float:
    """The error of scale of the finite elements; infinite unless both tensors have the same non-finite elements."""
    finite = reference.isfinite()
    if not torch.equal(values.isfinite(), finite):
        return math.inf
    if not torch.equal(values[~finite].nan_to_num(), reference[~finite].nan_to_num()):
        return math.inf
    output, expected = values[finite].numpy(), reference[finite].numpy()
    return normalised_error(output, expected, scale=max(largest(expected), SMALLEST_SCALE))


def _sample(value: Tensor) -> Tensor:
    """Some positions of every channel (axis 1), as values x channels: about ``SAMPLED`` elements in all."""
    if value.dim() < 2 or not value.numel():
        return value.reshape(-1, 1)[:SAMPLED].clone()
    channels, other_axes = value.shape[1], (value.shape[0], *value.shape[2:])
    per_channel = value.numel() // channels
    positions = torch.linspace(0, per_channel - 1, max(1, min(per_channel, SAMPLED // channels))).long()
    first, *others = torch.unravel_index(positions, other_axes)
    index: tuple[Any, ...] = (first, slice(None), *others)
    return value[index].clone()


def _shares_memory(value: Tensor, args: Any) -> bool:
    """Whether an operator's result shares memory with an argument: a view, or an in-place write."""
    tensors: list[Tensor] = []
    fx.node.map_aggregate(args, lambda part: tensors.append(part) if isinstance(part, Tensor) else None)
    return any(tensor.untyped_storage().data_ptr() == value.untyped_storage().data_ptr() for tensor in tensors)


def _widened(value: Any) -> Any:
    return torch.float64 if value in _NARROWER else value


def _widened_graph(branch: fx.GraphModule) -> fx.GraphModule:
    """A float64 copy of a subgraph that runs on its own: a branch of ``torch.cond`` or a body under ``autocast``."""
    branch = copy.deepcopy(branch).double()
    for node in list(branch.graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            branch.graph.erase_node(node)
        elif node.op == "call_function":
            node.args, node.kwargs = (fx.node.map_aggregate(part, _widened) for part in (node.args, node.kwargs))
    branch.recompile()
    return branch
