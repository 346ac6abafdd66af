"""Fake quantisation: what an int8 file does to values and weights, in PyTorch, with gradients that pass straight through.

A value x becomes s * clip(round(x / s), low, 127) with the scale s = limit / 127, as QuantizeLinear and DequantizeLinear of
``onnx/qdq.py`` compute it. Its gradient is that of x where the code is within ``low`` and 127, and 0 beyond (Bengio et al.,
Estimating or Propagating Gradients Through Stochastic Neurons, 2013; Jacob et al., Quantization and Training of Neural Networks,
2018).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from edgekit.onnx.calibration import SMALLEST
from edgekit.onnx.qdq import CODES, CODES_OF_SIGNED, MOST_BIAS
from edgekit.training.distributed import ALONE, Peers
from edgekit.training.int8_places import Places, Weighted

MOMENTUM = 0.01
"""The share of a step's limit in the moving average of limits, once that is of so many steps that it is not their mean."""
_LEAST_SIGNED = -CODES - 1
_TINY = torch.finfo(torch.float32).tiny


class _Rounded(torch.autograd.Function):
    """Codes times ``scale``; the scale gets no gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        codes = torch.round(values / scale)
        ctx.save_for_backward((codes >= low) & (codes <= high))
        return codes.clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (within,) = ctx.saved_tensors
        return gradients[0] * within, None, None, None


def rounded(values: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """``values`` float32, rounded to ``scale`` times an integer from ``low`` to ``high``; half goes to the even one."""
    return cast(Tensor, _Rounded.apply(values, scale, low, high))  # type: ignore[no-untyped-call]


class Limit(nn.Module):
    """The limit of a group of values, the |value| that code 127 stands for.

    It is the moving average of ``share`` times a batch's largest |value|. Calibration has chosen the share: its limit is so much
    of ``largest``, what a batch shows on average.
    """

    limit: Tensor
    share: Tensor
    seen: Tensor
    steps: Tensor

    def __init__(self, limit: float, largest: float, signed: bool) -> None:
        super().__init__()
        self.low = _LEAST_SIGNED if signed else 0
        self.register_buffer("limit", torch.tensor(limit, dtype=torch.float32))
        self.register_buffer("share", torch.tensor(limit / largest, dtype=torch.float32))
        self.register_buffer("seen", torch.tensor(0.0))
        self.register_buffer("steps", torch.tensor(0.0))

    @property
    def scale(self) -> Tensor:
        """float32, as the file stores it."""
        return (self.limit.double() / CODES).float()

    @torch.no_grad()
    def follow(self) -> None:
        """Move towards what the values have shown since this was last called; the limit to begin with counts as one step."""
        self.steps += 1
        now = (self.share * self.seen).clamp_min(SMALLEST)
        self.limit.add_((now - self.limit) * (1 / (self.steps + 1)).clamp_min(MOMENTUM))
        self.seen.zero_()


class RoundedValue(nn.Module):
    """Rounds a value to its group's codes; moves the limit while it ``follows``, and keeps the extremes from then on."""

    lowest: Tensor
    highest: Tensor

    def __init__(self, limit: Limit, clamped: bool) -> None:
        super().__init__()
        self.limit, self.clamped, self.follows = limit, clamped, False
        self.register_buffer("lowest", torch.tensor(torch.inf))
        self.register_buffer("highest", torch.tensor(-torch.inf))

    def forward(self, values: Tensor) -> Tensor:
        """Any shape, float32."""
        if self.training:
            self._see(values.detach())
        return rounded(values, self.limit.scale, self.limit.low, CODES)

    @torch.no_grad()
    def _see(self, values: Tensor) -> None:
        lowest, highest = values.aminmax()
        if not self.follows:
            torch.minimum(self.lowest, lowest, out=self.lowest)
            torch.maximum(self.highest, highest, out=self.highest)
        elif not self.clamped:
            torch.maximum(self.limit.seen, torch.maximum(highest, -lowest), out=self.limit.seen)


class RoundedWeight(nn.Module):
    """Rounds a layer's weight to a scale for each output channel, as ``weight_codes`` of ``onnx/qdq.py`` does."""

    def __init__(self, data: Limit, axis: int) -> None:
        super().__init__()
        self.data, self.axis = data, axis
        self.most = CODES_OF_SIGNED if data.low else CODES

    def forward(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``weight`` float32 with output channels along ``axis``, ``bias`` float32 of as many."""
        return rounded(weight, self._scales(weight.detach(), bias), -self.most, self.most)

    @torch.no_grad()
    def _scales(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        others = [axis for axis in range(weight.dim()) if axis != self.axis]
        scales = weight.abs().amax(others).double() / self.most
        if bias is not None:
            scales = torch.maximum(scales, bias.double().abs() / (MOST_BIAS * self.data.limit.double() / CODES))
        scales = torch.where(scales >= _TINY, scales, 1.0).float()
        return scales.view([-1 if axis == self.axis else 1 for axis in range(weight.dim())])


class FakeQuantised(nn.Module):
    """The folded float network of ``places`` with an int8 file's rounding; its parameters are those of ``places.graph``.

    ``limits``: group -> its limit to begin with, ``largest``: group -> the largest |value| of a batch, on average. Limits follow
    the first ``moving`` steps in training mode, and stand still from then on. What is seen is of the whole batch: where several
    processes share it, ``together`` are they.
    """

    steps: Tensor

    def __init__(
        self,
        places: Places,
        limits: Mapping[str, float],
        largest: Mapping[str, float],
        moving: int,
        together: Peers = ALONE,
    ) -> None:
        super().__init__()
        self._peers = together
        placement = places.placement
        self.groups = list(dict.fromkeys(placement.groups.values()))
        self.limits = nn.ModuleList(Limit(limits[group], largest[group], group in placement.signed) for group in self.groups)
        of_group: dict[str, Limit] = {group: cast(Limit, limit) for group, limit in zip(self.groups, self.limits, strict=True)}
        self.moving = moving
        self.register_buffer("steps", torch.tensor(0))
        self.names = [value for value in placement.groups if value in places.values]
        self.values = nn.ModuleList(
            RoundedValue(of_group[placement.groups[value]], value in placement.clamped) for value in self.names
        )
        self.network = _with_rounding(places, self.names, self.values, of_group)

    def forward(self, *inputs: Tensor) -> Any:
        """What the folded network returns."""
        follows = self.training and int(self.steps) < self.moving
        for value in self.values:
            cast(RoundedValue, value).follows = follows
        result = self.network(*inputs)
        if self.training:
            self._agree()
            self.steps += 1
        if follows:
            for limit in self.limits:
                cast(Limit, limit).follow()
        return result

    @torch.no_grad()
    def _agree(self) -> None:
        """Let what the shares of a batch have shown be what the batch has shown, in one message."""
        buffers = [cast(Limit, limit).seen for limit in self.limits]
        buffers += [buffer for value in map(_value, self.values) for buffer in (value.lowest, value.highest)]
        signs = [1.0] * len(self.limits) + [-1.0, 1.0] * len(self.values)
        agreed = self._peers.largest(torch.stack([sign * buffer for sign, buffer in zip(signs, buffers, strict=True)]))
        for sign, buffer, value in zip(signs, buffers, agreed, strict=True):
            buffer.copy_(sign * value)

    def limits_now(self) -> dict[str, float]:
        """Group -> its limit."""
        return {group: float(cast(Limit, limit).limit) for group, limit in zip(self.groups, self.limits, strict=True)}

    def extremes(self) -> dict[str, tuple[float, float]]:
        """Value -> the lowest and the highest number seen since the limits stand still."""
        pairs = zip(self.names, map(_value, self.values), strict=True)
        return {name: (float(value.lowest), float(value.highest)) for name, value in pairs}

    def set_limits(self, limits: Mapping[str, float]) -> None:
        """Take other limits, by their groups."""
        for group, limit in zip(self.groups, self.limits, strict=True):
            cast(Limit, limit).limit.fill_(limits[group])


def _value(module: nn.Module) -> RoundedValue:
    return cast(RoundedValue, module)


def _with_rounding(
    places: Places, names: Sequence[str], values: Iterable[nn.Module], limits: Mapping[str, Limit]
) -> fx.GraphModule:
    """A copy of the graph, on the same parameters, with a call behind each rounded value and before each layer's weight."""
    graph, nodes = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.output(graph.graph_copy(places.graph.graph, nodes))
    stored = {str(node.target): attrgetter(str(node.target))(places.graph) for node in nodes if node.op == "get_attr"}
    added: dict[str, nn.Module] = {}
    for place, (name, module) in enumerate(zip(names, values, strict=True)):
        added[f"value_{place}"] = module
        _round_behind(graph, nodes[places.values[name]], f"value_{place}")
    for place, (layer, weighted) in enumerate(places.layers.items()):
        data = next(each.data for each in places.placement.layers if each.name == layer)
        added[f"weight_{place}"] = RoundedWeight(limits[places.placement.groups[data]], weighted.axis)
        _round_weight(graph, nodes, weighted, f"weight_{place}")
    return fx.GraphModule({**stored, **added}, graph)


def _round_behind(graph: fx.Graph, node: fx.Node, target: str) -> None:
    """Let all readers of ``node`` read it rounded; what the network returns stays as it is."""
    with graph.inserting_after(node):
        call = graph.create_node("call_module", target, (node,))
    node.replace_all_uses_with(call, delete_user_cb=lambda user: user is not call and user.op != "output")


def _round_weight(graph: fx.Graph, nodes: Mapping[fx.Node, fx.Node], weighted: Weighted, target: str) -> None:
    reader, weight = nodes[weighted.reader], nodes[weighted.weight]
    bias = () if weighted.bias is None else (nodes[weighted.bias],)
    with graph.inserting_before(reader):
        reader.replace_input_with(weight, graph.create_node("call_module", target, (weight, *bias)))
