"""Any graph folds to a graph that computes the same."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgekit.fold import fold
from edgekit.graphs.trace import trace
from edgekit.models.batchnorm import BatchNorm
from tests.fold.checks import CONVOLUTIONS, NORMS, TRANSPOSED, error, norm_nodes, paths, spec
from tests.networks import randomise_norms


class Step(NamedTuple):
    kind: str
    sources: tuple[int, ...]
    module: str = ""


class Drawn(nn.Module):
    """A drawn program over a list of values; every unused value is an output."""

    def __init__(self, modules: dict[str, nn.Module], steps: list[Step]) -> None:
        super().__init__()
        self.parts, self.steps = nn.ModuleDict(modules), steps

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for step in self.steps:
            inputs = [values[index] for index in step.sources]
            if step.module:
                values.append(self.parts[step.module](inputs[0]))
            elif step.kind == "cat":
                values.append(torch.cat(inputs, dim=1))
            elif step.kind == "add":
                values.append(inputs[0] + inputs[1])
            elif step.kind == "gate":
                weight = torch.sigmoid(inputs[1].flatten(2).mean(2))
                values.append(inputs[0] * weight.reshape(*weight.shape, *[1] * (x.dim() - 2)))
            elif step.kind == "mean":
                values.append(inputs[0].flatten(2).mean(2))
            elif step.kind == "flat":
                values.append(inputs[0].flatten(1))
            else:
                values.append(torch.tanh(inputs[0]))
        used = {index for step in self.steps for index in step.sources}
        return tuple(value for index, value in enumerate(values) if index not in used)


class Shuffle(nn.Module):
    """Interleaves the channels of two groups."""

    def forward(self, x: Tensor) -> Tensor:
        groups: Tensor = x.unflatten(1, (2, -1))  # type: ignore[no-untyped-call]  # torch has not typed it
        return groups.transpose(1, 2).flatten(1, 2)


class Pointwise(nn.Module):
    """A linear layer over the channels, which are moved to the last axis and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


class LayerScale(nn.Module):
    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(width, *[1] * rank) - 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


# kind -> a function from the numbers of channels and of spatial axes to a module that keeps the shape
SAME_SHAPE: dict[str, Callable[[int, int], nn.Module]] = {
    "relu": lambda width, rank: nn.ReLU(),
    "relu in place": lambda width, rank: nn.ReLU(inplace=True),
    "dropout": lambda width, rank: nn.Dropout(),
    "maximum": lambda width, rank: (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[rank - 1](3, 1, 1),
    "average": lambda width, rank: (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[rank - 1](3, 1, 1),
    "shuffle": lambda width, rank: Shuffle(),
    "pointwise": lambda width, rank: Pointwise(width),
    "layer scale": LayerScale,
}
KINDS = ("conv", "conv", "transposed", "norm", "norm", "norm", "norm", "again", "tanh", "cat", "add", "gate", *SAME_SHAPE)


@st.composite
def drawn_models(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """Draw a model whose values keep height and width, so that any two with equal channels can be combined."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    rank = draw(st.integers(1, 3))
    channels = [draw(st.sampled_from((2, 4)))]
    modules: dict[str, nn.Module] = {}
    steps: list[Step] = []

    def add(step: Step, width: int, module: nn.Module | None = None) -> None:
        name = step.module or (f"{step.kind}{len(steps)}" if module is not None else "")
        if module is not None:
            modules[name] = module
        steps.append(step._replace(module=name))
        channels.append(width)

    def norm(width: int, dimensions: int) -> nn.Module:
        if dimensions in (2, 4) and draw(st.booleans()):
            return BatchNorm(width)
        kind = nn.BatchNorm1d if dimensions == 2 else NORMS[dimensions - 3]
        return kind(width, affine=draw(st.booleans()), eps=draw(st.sampled_from((1e-5, 1e-3))))

    for _ in range(draw(st.integers(2, 9))):
        kind = draw(st.sampled_from(KINDS))
        # mostly the newest value, because chains can fold
        source = len(channels) - 1 if draw(st.integers(0, 3)) else draw(st.integers(0, len(channels) - 1))
        width = channels[source]
        out, groups = draw(st.sampled_from((2, 4, 6))), draw(st.sampled_from((1, 1, 2)))
        dilation, bias = draw(st.sampled_from((1, 2))), draw(st.booleans())
        if kind == "conv":
            mode = draw(st.sampled_from(("zeros", "reflect", "circular")))
            padding = draw(st.sampled_from(("same", dilation)))
            module = CONVOLUTIONS[rank - 1](width, out, 3, 1, padding, dilation, groups, bias, mode)
            add(Step(kind, (source,)), out, module)
        elif kind == "transposed":
            module = TRANSPOSED[rank - 1](width, out, 3, 1, dilation, 0, groups, bias, dilation)
            add(Step(kind, (source,)), out, module)
        elif kind == "norm":
            add(Step(kind, (source,)), width, norm(width, rank + 2))
        elif kind == "again":
            fitting = [name for name, module in modules.items() if getattr(module, "in_channels", None) == width]
            if fitting:
                name = draw(st.sampled_from(fitting))
                add(Step(kind, (source,), name), modules[name].out_channels)  # type: ignore[arg-type]  # torch's modules give any attribute as Tensor | Module
        elif kind == "tanh":
            add(Step(kind, (source,)), width)
        elif kind in SAME_SHAPE:
            add(Step(kind, (source,)), width, SAME_SHAPE[kind](width, rank))
        elif kind == "cat":
            other = draw(st.integers(0, len(channels) - 1))
            add(Step(kind, (source, other)), width + channels[other])
        else:
            other = draw(st.sampled_from([index for index, size in enumerate(channels) if size == width]))
            add(Step(kind, (source, other)), width)
    end = draw(st.sampled_from(("", "mean", "flat")))
    if end:
        add(Step(end, (len(channels) - 1,)), channels[-1] * (5**rank if end == "flat" else 1))
        add(Step("linear", (len(channels) - 1,)), 3, nn.Linear(channels[-1], 3, bias=draw(st.booleans())))
        add(Step("norm", (len(channels) - 1,)), 3, norm(3, 2))
    return randomise_norms(Drawn(modules, steps)).double(), (channels[0], *(5,) * rank)


def behind_a_layer_of_its_own(model: nn.Module) -> set[str]:
    """The norms that must fold: directly after a layer that is called once and whose output has no other use."""
    assert isinstance(model, Drawn)
    names = [step.module for step in model.steps]
    uses = Counter(index for step in model.steps for index in step.sources)
    names_of_norms = set()
    for step in model.steps:
        producer = model.steps[step.sources[0] - 1] if step.sources[0] else None
        alone = producer is not None and names.count(producer.module) == 1 and uses[step.sources[0]] == 1
        if step.kind == "norm" and alone and producer is not None and producer.kind in ("conv", "transposed"):
            names_of_norms.add(f"parts.{step.module}")
    return names_of_norms


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(drawn_models())
def test_any_graph_folds_to_a_graph_that_computes_the_same(drawn: tuple[nn.Module, tuple[int, ...]]) -> None:
    model, shape = drawn
    inputs = spec(*shape, dtype="float64")
    traced = trace(model, inputs)  # once, because it takes longer than all the rest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PyTorch's own tree, when it is copied
        fresh = copy.deepcopy(traced)
    unfolded, everything = fold(model, inputs, fold_bn=False, traced=fresh)
    graph, report = fold(model, inputs, traced=traced)
    assert error(graph, model, inputs) <= 1e-10
    assert norm_nodes(graph) == sum(item.nodes for item in report.kept)
    assert behind_a_layer_of_its_own(model) <= {item.norm for item in report.folded}
    assert everything.before == report.before
    assert error(unfolded, model, inputs) <= 1e-15


class Aligned(nn.Module):
    """Casts its input to the dtype of the weights, as many published models do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Any:
        assert self.conv.bias is not None
        return self.norm(self.conv(x.to(self.conv.bias.dtype)))


def test_a_cast_to_the_dtype_of_the_weights_does_not_stop_a_fold() -> None:
    _, report = fold(randomise_norms(Aligned()), spec(2, 5, 5))
    assert paths(report) == {"norm": "conv"}


class Table(nn.Module):
    """Looks up a parameter by the input, then has a long chain of sums and a written-out norm."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Parameter(torch.randn(4, 3)), BatchNorm(3)

    def forward(self, x: Tensor) -> Any:
        y = self.table[x.argmax(1)]
        for _ in range(600):
            y = y + x[:, :3]
        return self.norm(y)


def test_a_looked_up_parameter_and_a_long_chain_are_no_constants() -> None:
    _, report = fold(randomise_norms(Table()), spec(4))
    assert [norm.norm for norm in report.kept] == ["norm"]
