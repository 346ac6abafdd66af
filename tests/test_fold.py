"""Folding: what goes, what stays and why, and that the numbers do not move."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from edgekit.errors import ModelError
from edgekit.fold import fold
from edgekit.graphs.trace import named_outputs, tensors_of
from edgekit.models.batchnorm import BatchNorm
from edgekit.reports.export import FoldReport
from edgekit.tensors import TensorSpec
from tests.networks import network, randomise_norms

EXACT = 1e-12
SINGLE = 2e-5
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
SHIPPED = {"lenet": (28, 4, 4), "lenet-scratch": (28, 4, 4), "resnet18": (28, 17, 17), "densenet": (32, 1, 21)}


def spec(*shape: int, dtype: str = "float32") -> tuple[TensorSpec, ...]:
    return (TensorSpec("input", dtype, ("batch", *shape)),)


def error(got: nn.Module, wanted: nn.Module, inputs: Sequence[TensorSpec]) -> float:
    """The largest scale-normalised difference of any output, on three samples."""
    with torch.inference_mode():  # a model may write into its inputs: each has its own
        ours = named_outputs(got(*tensors_of(inputs, 3)))
        theirs = named_outputs(copy.deepcopy(wanted).eval()(*tensors_of(inputs, 3)))
    assert ours.keys() == theirs.keys()
    return max(float((ours[key] - theirs[key]).abs().max() / theirs[key].abs().max().clamp_min(1e-30)) for key in theirs)


def fold_exactly(model: nn.Module, *shape: int) -> tuple[fx.GraphModule, FoldReport]:
    """Fold in float64, and hold the result against the model."""
    inputs = spec(*shape, dtype="float64")
    model = randomise_norms(model).double()
    graph, report = fold(model, inputs)
    assert error(graph, model, inputs) <= EXACT
    assert (report.error_float64 is None) == (not report.folded)
    assert (report.error_float64 or 0.0) <= EXACT
    return graph, report


def norm_nodes(graph: fx.GraphModule) -> int:
    return sum(node.target is torch.ops.aten.batch_norm.default for node in graph.graph.nodes)


def paths(report: FoldReport) -> dict[str, str]:
    """Norm -> the layers it went into, joined."""
    return {item.norm: ", ".join(item.into) for item in report.folded}


class Shipped(NamedTuple):
    name: str
    model: nn.Module
    inputs: tuple[TensorSpec, ...]
    graph: fx.GraphModule
    report: FoldReport


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> Shipped:
    model, inputs = network(request.param), spec(1, SHIPPED[request.param][0], SHIPPED[request.param][0])
    return Shipped(request.param, model, inputs, *fold(model, inputs))


def test_of_a_shipped_model_every_norm_with_a_layer_before_it_folds(shipped: Shipped) -> None:
    _, folded, before = SHIPPED[shipped.name]
    assert (len(shipped.report.folded), shipped.report.before) == (folded, before)
    assert len({item.norm for item in (*shipped.report.folded, *shipped.report.kept)}) == before
    assert all(item.reason for item in shipped.report.kept)
    assert norm_nodes(shipped.graph) == sum(item.nodes for item in shipped.report.kept) == before - folded


def test_a_folded_shipped_model_computes_the_same_in_float32(shipped: Shipped) -> None:
    assert error(shipped.graph, shipped.model, shipped.inputs) <= SINGLE


def test_the_float32_tolerance_catches_one_layer_scaled_by_a_percent(shipped: Shipped) -> None:
    damaged = copy.deepcopy(shipped.model)
    with torch.no_grad():
        list(damaged.parameters())[-2].mul_(1.01)
    assert error(shipped.graph, damaged, shipped.inputs) > SINGLE


@pytest.mark.parametrize("name", SHIPPED)
def test_a_folded_shipped_model_computes_the_same_in_float64(name: str) -> None:
    size, folded, before = SHIPPED[name]
    _, report = fold_exactly(network(name), 1, size, size)
    assert (len(report.folded), report.before) == (folded, before)


def test_the_norm_of_the_stem_is_the_one_that_folds_in_densenet() -> None:
    _, report = fold(network("densenet"), spec(1, 32, 32))
    assert paths(report) == {"stem.1": "stem.0"}
    assert report.kept[0].norm == "blocks.dense1.layers.0.0"
    assert report.kept[0].reason.startswith("the output of stem.3 is also used by cat in blocks.dense1")


def test_a_folded_shipped_model_holds_no_trace_of_its_norms() -> None:
    for name in ("lenet", "lenet-scratch"):
        graph, _ = fold(network(name), spec(1, 28, 28))
        state = graph.state_dict()
        assert not [key for key in state if "running" in key or "tracked" in key]
        assert sorted(state) == sorted(f"{index}.{leaf}" for index in (0, 4, 9, 12, 15) for leaf in ("weight", "bias"))


@pytest.mark.parametrize("fold_bn", [True, False])
def test_the_model_is_left_as_it_was(fold_bn: bool) -> None:
    model = network("lenet").train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    identities = [id(parameter) for parameter in model.parameters()]
    flags = [module.training for module in model.modules()]
    graph, _ = fold(model, spec(1, 28, 28), fold_bn=fold_bn)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.zero_()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_without_folding_every_norm_stays_and_says_so() -> None:
    for name, nodes in (("lenet", 1), ("lenet-scratch", 0)):
        model = network(name)
        graph, report = fold(model, spec(1, 28, 28), fold_bn=False)
        assert report.folded == ()
        assert [item.reason for item in report.kept] == ["folding was not asked for"] * 4
        assert [item.nodes for item in report.kept] == [nodes] * 4
        assert report.error_float64 is None
        assert norm_nodes(graph) == 4 * nodes
        assert error(graph, model, spec(1, 28, 28)) <= SINGLE


def test_a_model_in_training_mode_is_folded_in_inference_mode() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.9)).train()
    _, report = fold_exactly(model, 2, 5, 5)
    assert paths(report) == {"1": "0"}


# what can be folded


def _layers() -> list[tuple[str, nn.Module, nn.Module, tuple[int, ...]]]:
    cases: list[tuple[str, nn.Module, nn.Module, tuple[int, ...]]] = []

    def case(name: str, layer: nn.Module, norm: nn.Module, *shape: int) -> None:
        cases.append((name, layer, norm, shape))

    for index, (conv, transposed, norm) in enumerate(zip(CONVOLUTIONS, TRANSPOSED, NORMS, strict=True)):
        size = (5,) * (index + 1)
        for bias in (True, False):
            case(f"conv{index + 1}d, bias {bias}", conv(3, 4, 3, bias=bias), norm(4), 3, *size)
            case(f"transposed{index + 1}d, bias {bias}", transposed(3, 4, 3, bias=bias), norm(4), 3, *size)
        case(f"grouped conv{index + 1}d", conv(4, 6, 3, groups=2), norm(6), 4, *size)
        case(f"depthwise conv{index + 1}d", conv(4, 8, 3, groups=4, bias=False), norm(8), 4, *size)
        case(
            f"grouped transposed{index + 1}d",
            transposed(4, 6, 3, groups=2, stride=2, output_padding=1, bias=False),
            norm(6),
            *(4, *size),
        )
        case(f"depthwise transposed{index + 1}d", transposed(4, 8, 3, groups=4), norm(8), 4, *size)
        for mode in ("reflect", "circular"):
            case(f"{mode} conv{index + 1}d", conv(2, 3, 3, padding=1, padding_mode=mode), norm(3), 2, *size)
        case(f"same conv{index + 1}d", conv(2, 3, 4, dilation=2, padding="same", bias=False), norm(3), 2, *size)
        case(f"valid conv{index + 1}d", conv(2, 3, 2, padding="valid", stride=2), norm(3), 2, *size)
    case("as many groups as inputs, square", nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4), 4, 5, 5)
    case("dilated conv", nn.Conv2d(2, 3, 3, dilation=2), nn.BatchNorm2d(3), 2, 7, 7)
    case("dilated transposed", nn.ConvTranspose2d(2, 3, 3, dilation=2, padding=1), nn.BatchNorm2d(3), 2, 5, 5)
    case("oblong conv", nn.Conv2d(2, 3, (1, 3), stride=(2, 1), padding=(0, 2)), nn.BatchNorm2d(3), 2, 5, 5)
    case("linear", nn.Linear(5, 4), nn.BatchNorm1d(4), 5)
    case("linear without bias", nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), 4)
    case("norm without affine", nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=False), 2, 5, 5)
    case("norm with a large eps", nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, eps=0.5), 2, 5, 5)
    case("norm written out, after conv", nn.Conv2d(2, 3, 3, bias=False), BatchNorm(3, eps=0.1), 2, 5, 5)
    case("norm written out, after grouped transposed", nn.ConvTranspose2d(4, 6, 3, groups=2), BatchNorm(6), 4, 5, 5)
    case("norm written out, after linear", nn.Linear(5, 4), BatchNorm(4), 5)
    case("sync norm", nn.Conv2d(2, 3, 3), nn.SyncBatchNorm(3), 2, 5, 5)
    return cases


LAYERS = _layers()


@pytest.mark.parametrize(("layer", "norm", "shape"), [case[1:] for case in LAYERS], ids=[case[0] for case in LAYERS])
def test_a_norm_folds_into(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    graph, report = fold_exactly(copy.deepcopy(nn.Sequential(layer, norm)), *shape)
    assert paths(report) == {"1": "0"}
    assert report.folded[0].kind == type(norm).__name__
    assert norm_nodes(graph) == 0
    assert sorted(graph.state_dict()) == ["0.bias", "0.weight"]


def _set(norm: nn.Module, **values: Sequence[float]) -> nn.Module:
    with torch.no_grad():
        for name, value in values.items():
            getattr(norm, name).copy_(torch.tensor(value))
    return norm


@pytest.mark.parametrize(
    ("eps", "values"),
    [
        (1e-5, {"weight": (-1.0, -0.25)}),
        (1e-5, {"weight": (0.0, 1.0)}),
        (1e-5, {"running_var": (0.0, 1e-30)}),
        (1e-12, {"running_var": (1e-10, 1e6)}),
    ],
    ids=["negative gamma", "zero gamma", "no variance", "tiny and huge variance"],
)
def test_unusual_statistics_fold_exactly(eps: float, values: dict[str, Sequence[float]]) -> None:
    model = randomise_norms(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, eps=eps))).double()
    _set(model[1], **values)
    inputs = spec(1, 5, 5, dtype="float64")
    graph, report = fold(model, inputs)
    assert len(report.folded) == 1
    assert error(graph, model, inputs) <= EXACT


def test_two_norms_in_a_row_fold_into_one_layer() -> None:
    graph, report = fold_exactly(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), BatchNorm(4), nn.BatchNorm2d(4)), 1, 5, 5)
    assert paths(report) == {"1": "0", "2": "0", "3": "0"}
    assert norm_nodes(graph) == 0


def test_one_norm_called_after_two_layers_folds_into_both() -> None:
    norm = nn.BatchNorm2d(3)
    graph, report = fold_exactly(nn.Sequential(nn.Conv2d(1, 3, 3), norm, nn.ReLU(), nn.Conv2d(3, 3, 3), norm), 1, 7, 7)
    assert len(report.folded) == 2
    assert {item.into for item in report.folded} == {("0",), ("3",)}
    assert norm_nodes(graph) == 0


class Crossed(nn.Module):
    """Defined in an order that has nothing to do with the order of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_of_last = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(1, 4, 3)
        self.norm_of_first = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 4, 3)
        self.unused = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_of_first(self.first(x))
        return self.norm_of_last(self.last(torch.relu(y)))


def test_folding_follows_the_data_and_not_the_order_of_modules() -> None:
    _, report = fold_exactly(Crossed(), 1, 7, 7)
    assert paths(report) == {"norm_of_first": "first", "norm_of_last": "last"}
    assert report.kept == ()


class Functional(nn.Module):
    """Two weights in one module, one with a bias of its own name, and no layer modules at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 1, 3, 3)), nn.Parameter(torch.randn(4, 4, 3, 3))
        self.bias = nn.Parameter(torch.randn(4))
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("variance", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(F.conv2d(input=x, weight=self.first, stride=2), self.mean, self.variance, eps=0.1)
        y = F.batch_norm(F.conv2d(y, weight=self.second, padding="same"), self.mean, self.variance)
        return y * self.bias.reshape(1, -1, 1, 1)


def test_functional_calls_fold_and_other_parameters_keep_their_values() -> None:
    graph, report = fold_exactly(Functional(), 1, 9, 9)
    assert [(item.norm, item.nodes) for item in report.folded] == [("batch_norm", 1), ("batch_norm_1", 1), ("bias", 0)]
    assert norm_nodes(graph) == 0


class ThenAffine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), BatchNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * 2 + 1


def test_arithmetic_that_follows_a_written_out_norm_is_not_part_of_it() -> None:
    graph, report = fold_exactly(ThenAffine(), 1, 5, 5)
    assert paths(report) == {"norm": "conv"}
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert targets == [torch.ops.aten.conv2d.default, torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor]


def test_instance_norm_counts_as_a_batch_norm_only_with_running_statistics() -> None:
    tracked = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    _set(tracked, running_mean=(0.5, -1, 2), running_var=(0.5, 2, 3), weight=(-1, 0.5, 2), bias=(1, 2, 3))
    _, report = fold_exactly(nn.Sequential(nn.Conv2d(1, 3, 3), tracked), 1, 5, 5)
    assert paths(report) == {"1": "0"}
    _, report = fold_exactly(nn.Sequential(nn.Conv2d(1, 3, 3), nn.InstanceNorm2d(3), nn.GroupNorm(1, 3)), 1, 5, 5)
    assert report.before == 0


def test_half_precision_is_folded_in_float64_and_rounded_once() -> None:
    model = randomise_norms(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))).half()
    graph, report = fold(model, spec(2, 5, 5, dtype="float16"))
    assert len(report.folded) == 1
    assert {tensor.dtype for tensor in graph.state_dict().values()} == {torch.float16}
    exact, norm = copy.deepcopy(model).double(), model[1].double()
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    wanted = (exact[0].weight * scale.reshape(-1, 1, 1, 1)).detach().half()
    assert torch.equal(graph.state_dict()["0.weight"], wanted)


def test_bfloat16_inputs_are_refused_in_one_sentence() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).bfloat16()
    with pytest.raises(ModelError, match=r"bfloat16.*use float32"):
        fold(model, spec(2, 5, 5, dtype="bfloat16"))


# what cannot be folded, and why


class Skip(nn.Module):
    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), norm or nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + torch.relu(y)


class AlsoOutput(Skip):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y = self.conv(x)
        return self.norm(y), y


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.conv(x)))


class SharedWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.norm = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.one(x)) + self.other(x)


class PartOfAWeight(Skip):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.conv2d(x, self.conv.weight.flip(0)))


class AfterCat(Skip):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(torch.cat((y[:, :1], y[:, 1:]), dim=1))


class Tied(Skip):
    """The layer's bias is also the norm's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm.bias = self.conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


REFUSALS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    "another user": (Skip, (1, 5, 5), "other-users", "the output of conv is also used by relu"),
    "an output of the model": (AlsoOutput, (1, 5, 5), "other-users", "the output of conv is also used by the model's output"),
    "one layer called twice": (CalledTwice, (3, 7, 7), "shared-weight", "weight of conv is shared with conv2d in conv"),
    "a shared weight": (SharedWeight, (3, 5, 5), "shared-weight", "is shared with conv2d in other"),
    "statistics of the batch": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)),
        (1, 5, 5),
        "training",
        "it uses the statistics of the batch, even in inference mode",
    ),
    "before a padded layer": (
        lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3, padding=1)),
        (1, 5, 5),
        "input",
        "behind it: conv2d in 1 pads its input with zeros",
    ),
    "after relu": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)),
        (1, 5, 5),
        "nonlinear",
        "relu in 1 bends at zero, and a shift moves it there",
    ),
    "after a maximum, with a negative scale": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), _set(nn.BatchNorm2d(3), weight=(1, -1, 1))),
        (1, 6, 6),
        "nonlinear",
        "max_pool2d in 1 takes a maximum, and a scale is negative",
    ),
    "after cat of slices": (AfterCat, (1, 5, 5), "between", "no convolution or linear layer before it, but slice"),
    "axis 1 is not the layer's outputs": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(4)),
        (4, 6),
        "another-axis",
        "it normalises axis 1, the outputs of 0 lie along axis 2",
    ),
    "axis 1 is not the layer's outputs, of the same size": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
        (4, 4),
        "another-axis",
        "it normalises axis 1, the outputs of 0 lie along axis 2",
    ),
}


@pytest.mark.parametrize(("build", "shape", "code", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_norm_is_kept_and_says_why(build: Callable[[], nn.Module], shape: tuple[int, ...], code: str, reason: str) -> None:
    model = build()
    keep = model[2].weight.detach().clone() if "negative" in reason else None  # type: ignore[index]
    model = randomise_norms(model).double()
    if keep is not None:
        _set(model[2], weight=keep.tolist())
    inputs = spec(*shape, dtype="float64")
    graph, report = fold(model, inputs)
    assert error(graph, model, inputs) <= EXACT
    assert report.folded == ()
    (kept,) = report.kept
    assert reason in kept.reason
    assert kept.obstacles[0].code == code
    assert kept.nodes == norm_nodes(graph) == 1


@pytest.mark.parametrize(
    "build", [PartOfAWeight, Tied, lambda: nn.Sequential(weight_norm(nn.Conv2d(1, 3, 3)), nn.BatchNorm2d(3))]
)
def test_a_weight_that_is_computed_and_a_shared_bias_become_plain_ones(build: Callable[[], nn.Module]) -> None:
    graph, report = fold_exactly(build(), 1, 5, 5)
    assert len(report.folded) == 1
    layers = [node for node in graph.graph.nodes if node.target is torch.ops.aten.conv2d.default]
    assert [[arg.op for arg in node.args[1:3]] for node in layers] == [["get_attr", "get_attr"]]


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, BatchNorm])
def test_a_norm_that_is_not_finite_is_kept_and_says_so(norm: Callable[[int], nn.Module], value: float, name: str) -> None:
    model = randomise_norms(nn.Sequential(nn.Conv2d(1, 3, 3), norm(3)))
    _set(model[1], **{name: (1.0, value, 1.0)})
    _, report = fold(model, spec(1, 5, 5))
    if norm is BatchNorm and (name, value) == ("running_var", float("inf")):  # written out, it divides by infinity: a map to beta
        assert len(report.folded) == 1
        return
    assert [item.reason for item in report.kept] == ["its statistics or parameters are not finite"]


def test_a_negative_variance_is_not_finite_either() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3), _set(nn.BatchNorm2d(1), running_var=(-1.0,)))
    _, report = fold(model, spec(1, 5, 5))
    assert [item.reason for item in report.kept] == ["its statistics or parameters are not finite"]


def test_a_written_out_norm_that_is_kept_leaves_no_batch_norm_node() -> None:
    _, report = fold_exactly(nn.Sequential(BatchNorm(1), nn.Conv2d(1, 2, 3, padding=1)), 1, 5, 5)
    assert [(item.norm, item.kind, item.nodes) for item in report.kept] == [("0", "BatchNorm", 0)]
    _, report = fold_exactly(Skip(BatchNorm(3)), 1, 5, 5)
    assert [item.nodes for item in report.kept] == [0]
    assert report.kept[0].reason.startswith("the output of conv is also used by relu")


# outputs of every kind


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.right = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        left = self.left(x)
        return {"left": left, "right": self.right(x), "positive": left > 0, "best": left.argmax(1), "log": left.log()}


def test_outputs_of_every_kind_fold_also_where_they_are_not_finite() -> None:
    model = randomise_norms(TwoHeads())
    _, report = fold(model, spec(1, 5, 5))
    assert paths(report) == {"left.1": "left.0", "right.1": "right.0"}
    assert (report.error_float64 is None) == (not report.folded)
    assert (report.error_float64 or 0.0) <= EXACT


# models that cannot be traced


class FixedDtype(Skip):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.float()))


def test_a_model_that_fixes_a_dtype_folds_all_the_same() -> None:
    _, report = fold(randomise_norms(FixedDtype()), spec(1, 5, 5))
    assert paths(report) == {"norm": "conv"}
    assert (report.error_float64 or 0.0) <= EXACT


class Amplifier(Skip):
    """Rounding grows by the size of what a sine is taken of."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(1e5 * self.norm(self.conv(x)))


def test_a_model_that_amplifies_rounding_is_held_to_its_own_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomise_norms(Amplifier())
    _, report = fold(model, spec(1, 5, 5))
    assert paths(report) == {"norm": "conv"}
    assert EXACT < (report.error_float64 or 0.0) < 1e-9
    monkeypatch.setattr("edgekit.fold.proof.NOISE_FACTOR", 1e-3)
    with pytest.raises(ModelError, match="changed its float64 outputs"):
        fold(model, spec(1, 5, 5))


def test_a_wrong_input_shape_is_named() -> None:
    with pytest.raises(ModelError, match="Sequential does not take an input of 2x3x5x5") as caught:
        fold(nn.Sequential(nn.Conv2d(1, 2, 3)), spec(3, 5, 5))
    assert "\n" not in str(caught.value)


# any graph


class Step(NamedTuple):
    kind: str
    sources: tuple[int, ...]
    module: str = ""


class Drawn(nn.Module):
    """A program over a list of values; every value that nothing uses is an output."""

    def __init__(self, modules: dict[str, nn.Module], steps: list[Step]) -> None:
        super().__init__()
        self.parts, self.steps = nn.ModuleDict(modules), steps

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for step in self.steps:
            given = [values[index] for index in step.sources]
            if step.module:
                values.append(self.parts[step.module](given[0]))
            elif step.kind == "cat":
                values.append(torch.cat(given, dim=1))
            elif step.kind == "add":
                values.append(given[0] + given[1])
            elif step.kind == "gate":
                weight = torch.sigmoid(given[1].flatten(2).mean(2))
                values.append(given[0] * weight.reshape(*weight.shape, *[1] * (x.dim() - 2)))
            elif step.kind == "mean":
                values.append(given[0].flatten(2).mean(2))
            elif step.kind == "flat":
                values.append(given[0].flatten(1))
            else:
                values.append(torch.tanh(given[0]))
        used = {index for step in self.steps for index in step.sources}
        return tuple(value for index, value in enumerate(values) if index not in used)


class Shuffle(nn.Module):
    """The channels of two groups, interleaved."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class Pointwise(nn.Module):
    """A linear layer over the channels, which are moved last for it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


class LayerScale(nn.Module):
    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(width, *[1] * rank) - 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


# kind -> what it is made of, from the number of channels and of spatial axes; all keep the shape
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
    """Values keep their height and width, so that any two of as many channels can meet."""
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
        # mostly the newest value: chains are what folds
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
                add(Step(kind, (source,), name), modules[name].out_channels)  # type: ignore[arg-type]
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
    """The norms that must fold: directly behind a layer that is called once, whose output nothing else uses."""
    assert isinstance(model, Drawn)
    names = [step.module for step in model.steps]
    uses = Counter(index for step in model.steps for index in step.sources)
    found = set()
    for step in model.steps:
        producer = model.steps[step.sources[0] - 1] if step.sources[0] else None
        alone = producer is not None and names.count(producer.module) == 1 and uses[step.sources[0]] == 1
        if step.kind == "norm" and alone and producer.kind in ("conv", "transposed"):
            found.add(f"parts.{step.module}")
    return found


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(drawn_models())
def test_any_graph_folds_to_one_that_computes_the_same(drawn: tuple[nn.Module, tuple[int, ...]]) -> None:
    model, shape = drawn
    inputs = spec(*shape, dtype="float64")
    graph, report = fold(model, inputs)
    assert error(graph, model, inputs) <= 1e-10
    assert norm_nodes(graph) == sum(item.nodes for item in report.kept)
    assert behind_a_layer_of_its_own(model) <= {item.norm for item in report.folded}
    unfolded, everything = fold(model, inputs, fold_bn=False)
    assert everything.before == report.before
    assert error(unfolded, model, inputs) <= 1e-15


class Aligned(nn.Module):
    """Moves its input to where the weights are, as many published models do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.to(self.conv.bias.dtype)))


def test_a_cast_to_the_dtype_of_the_weights_does_not_stop_a_fold() -> None:
    _, report = fold(randomise_norms(Aligned()), spec(2, 5, 5))
    assert paths(report) == {"norm": "conv"}


class Table(nn.Module):
    """A parameter is looked up by the input in front of a written-out norm, at the end of a long chain."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Parameter(torch.randn(4, 3)), BatchNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.table[x.argmax(1)]
        for _ in range(600):
            y = y + x[:, :3]
        return self.norm(y)


def test_a_looked_up_parameter_and_a_long_chain_are_no_constants() -> None:
    _, report = fold(randomise_norms(Table()), spec(4))
    assert [kept.norm for kept in report.kept] == ["norm"]
