"""Folding's other rewrites change no outputs: writes in place, repeats, spellings, dead branches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.errors import ModelError
from edgekit.fold import fold, graph
from edgekit.graphs.trace import output_specs, tensors_of
from edgekit.graphs.write import export_onnx
from edgekit.onnx.read import batch_norms
from tests.fold.checks import EXACT, Calls, error, spec
from tests.networks import randomise_norms


def piece(split: Callable[[Tensor], Any]) -> Callable[[Any, Tensor], Tensor]:
    """A ``forward`` that writes into a piece of the norm's output, and returns the whole output."""

    def forward(model: Any, x: Tensor) -> Any:
        y = model.norm(model.conv(x))
        split(y)[0].relu_()
        return y

    return forward


WRITES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "chunk": piece(lambda y: y.chunk(2, 1)),
    "split": piece(lambda y: y.split(2, 1)),  # type: ignore[no-untyped-call]  # torch has not typed it
    "unbind": piece(lambda y: y.unbind(1)),
    "tensor_split": piece(lambda y: y.tensor_split(2, 1)),
    "hsplit": piece(lambda y: y.hsplit(2)),
    "unsafe_chunk": piece(lambda y: y.unsafe_chunk(2, 1)),
    "einsum": piece(lambda y: [torch.einsum("nchw->nhwc", y)]),
    "dropout of a view": piece(lambda y: [F.dropout1d(y.flatten(2), 0.5, training=False)]),
    "view": piece(lambda y: [y.flatten(1)]),
    "the whole": piece(lambda y: [y]),
}


def conv_and_norm(forward: Callable[..., Any], channels: int = 4) -> nn.Module:
    return randomise_norms(Calls(forward, conv=nn.Conv2d(3, channels, 3), norm=nn.BatchNorm2d(channels)))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("forward", WRITES.values(), ids=WRITES)
def test_a_write_through_another_name_is_seen(forward: Callable[[Any, Tensor], Tensor], frozen: bool) -> None:
    model = conv_and_norm(forward).double().requires_grad_(not frozen)
    inputs = spec(3, 6, 6, dtype="float64")
    assert error(fold(model, inputs)[0], model, inputs) <= EXACT


def test_a_write_that_the_analysis_misses_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_memory", id)
    with pytest.raises(ModelError, match="changed its float64 outputs"):
        fold(conv_and_norm(WRITES["chunk"]), spec(3, 6, 6))


def test_a_norm_is_not_taken_out_from_before_a_later_write() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        u = torch.tanh(x)
        y = model.norm(u)
        u[:, :1].mul_(2)
        return model.conv(y) + u.mean()

    model = randomise_norms(Calls(forward, norm=nn.BatchNorm2d(3), conv=nn.Conv2d(3, 4, 3))).double()
    inputs = spec(3, 6, 6, dtype="float64")
    folded, report = fold(model, inputs)
    assert error(folded, model, inputs) <= EXACT
    assert report.kept[0].obstacles[-1].code == "in-place"


def test_a_write_that_keeps_its_dtype_still_does() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        y = model.conv(x)
        y.add_(x[:, :1, 1:-1, 1:-1].double())
        return model.norm(y)

    model = conv_and_norm(forward)
    folded, _ = fold(model, spec(3, 6, 6))
    (x,) = tensors_of(spec(3, 6, 6), 2)
    assert folded(x).dtype == torch.float32
    assert torch.allclose(folded(x), model.eval()(x), atol=1e-5)


def test_a_model_that_draws_random_numbers_folds() -> None:
    model = conv_and_norm(lambda model, x: model.norm(model.conv(x)) + 1e-3 * torch.randn_like(x[:, :1, 2:, 2:]))
    assert len(fold(model, spec(3, 6, 6))[1].folded) == 1


REPEATS: dict[str, Callable[[Any, Tensor], Any]] = {
    "one norm called twice": lambda m, x: F.silu(m.norm(x)) + torch.sigmoid(m.norm(x)),
    "equal norms": lambda m, x: F.silu(m.norm(x)) + torch.sigmoid(m.twin(x)),
    "dead": lambda m, x: (m.norm(x).sigmoid(), x * 2)[1],
    "dead behind dropout": lambda m, x: (F.dropout(m.norm(x), 0.5, False), m.twin(x) * 2)[1],
    "dead behind a cast": lambda m, x: (m.norm(x).to(torch.float32), m.twin(x) * 2)[1],
    "two outputs of one sum": lambda m, x: {"a": m.norm(x), "b": m.norm(x) + 0},
}


@pytest.mark.parametrize("fold_bn", [False, True])
@pytest.mark.parametrize("forward", REPEATS.values(), ids=REPEATS)
def test_the_file_has_as_many_norms_as_the_report(forward: Callable[[Any, Tensor], Any], fold_bn: bool) -> None:
    model = Calls(forward, norm=nn.BatchNorm2d(3), twin=nn.BatchNorm2d(3))
    folded, report = fold(model, spec(3, 6, 6), fold_bn=fold_bn)
    content = export_onnx(folded, report, spec(3, 6, 6), output_specs(folded, spec(3, 6, 6)))  # raises if the counts differ
    assert batch_norms(onnx.load_from_string(content)) == sum(norm.nodes for norm in report.kept)


SPELLED: dict[str, tuple[Callable[[Any, Tensor], Tensor], tuple[int, ...]]] = {
    "multiply and subtract": (lambda m, x: torch.subtract(torch.multiply(m.conv(x), m.scale), m.shift), (3, 6, 6)),
    "divide": (lambda m, x: torch.true_divide(m.conv(x), m.scale), (3, 6, 6)),
    "from one": (lambda m, x: torch.rsub(m.conv(x) * m.scale, 1), (3, 6, 6)),
    "negative": (lambda m, x: torch.negative(m.conv(x) * m.scale), (3, 6, 6)),
    "in the model itself, and a map of places": (lambda m, x: (m.conv(x) - m.shift) * m.scale + m.shift + m.places, (3, 6, 6)),
}


ATEN = torch.ops.aten
FOLDED_AWAY = {
    *(ATEN.mul.Tensor, ATEN.multiply.Tensor, ATEN.div.Tensor, ATEN.divide.Tensor, ATEN.true_divide.Tensor, ATEN.neg.default),
    *(ATEN.negative.default, ATEN.sub.Tensor, ATEN.subtract.Tensor, ATEN.rsub.Tensor, ATEN.rsub.Scalar),
}
"""The operators in ``SPELLED``, all of which become part of the convolution."""


@pytest.mark.parametrize(("forward", "shape"), SPELLED.values(), ids=SPELLED)
def test_arithmetic_of_many_spellings_folds(forward: Callable[[Any, Tensor], Tensor], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Calls(forward, conv=nn.Conv2d(3, 4, 3))
    model.scale, model.shift = (nn.Parameter(torch.rand(4, 1, 1) + 0.5) for _ in range(2))
    model.places = nn.Parameter(torch.rand(4, 4))
    inputs = spec(*shape, dtype="float64")
    folded, report = fold(model.double(), inputs)
    assert (len(report.folded), len(report.kept)) == (1, 0)
    assert error(folded, model, inputs) <= EXACT
    assert not {node.target for node in folded.graph.nodes} & FOLDED_AWAY


PRODUCTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "matmul": lambda m, x: m.norm(x @ m.weight),
    "matmul with a bias": lambda m, x: m.norm(x @ m.weight + m.bias),
    "addmm": lambda m, x: m.norm(torch.addmm(m.bias, x, m.weight)),
    "mm behind": lambda m, x: torch.mm(m.before(x), m.weight),
}


BEFORE_PRODUCTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "matmul": lambda m, x: m.norm(m.layer(x)) @ m.weight,
    "mm": lambda m, x: torch.mm(m.norm(m.layer(x)), m.weight),
    "addmm": lambda m, x: torch.addmm(m.bias, m.norm(m.layer(x)), m.weight),
}


@pytest.mark.parametrize("forward", BEFORE_PRODUCTS.values(), ids=BEFORE_PRODUCTS)
def test_a_norm_goes_into_the_layer_before_it_and_leaves_a_matrix_product_behind_it(
    forward: Callable[[Any, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model = Calls(forward, layer=nn.Linear(3, 5), norm=nn.BatchNorm1d(5))
    model.weight, model.bias = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(4))
    inputs = spec(3, dtype="float64")
    folded, report = fold(randomise_norms(model).double(), inputs)
    assert [item.into for item in report.folded] == [("layer",)]
    assert error(folded, model, inputs) <= EXACT


@pytest.mark.parametrize("forward", PRODUCTS.values(), ids=PRODUCTS)
def test_matrix_products_are_linear_layers(forward: Callable[[Any, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Calls(forward, norm=nn.BatchNorm1d(4), before=nn.BatchNorm1d(5))
    model.weight, model.bias = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(4))
    inputs = spec(5, dtype="float64")
    folded, report = fold(randomise_norms(model).double(), inputs)
    assert len(report.folded) == 1
    assert error(folded, model, inputs) <= EXACT


def test_a_matrix_product_that_nothing_is_folded_into_stays_one() -> None:
    model = Calls(lambda m, x: m.norm(torch.tanh(x @ m.weight)), norm=nn.BatchNorm1d(4))
    model.weight = nn.Parameter(torch.randn(5, 4))
    folded, report = fold(randomise_norms(model), spec(5))
    assert len(report.kept) == 1
    assert [node.target for node in folded.graph.nodes].count(torch.ops.aten.matmul.default) == 1
    assert torch.ops.aten.permute.default not in [node.target for node in folded.graph.nodes]


# cases without a batch axis, or in which an operator works along the normalised axis
PLACES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "average over channels": (lambda: nn.Sequential(nn.Linear(8, 8), nn.AvgPool1d(2), nn.BatchNorm1d(4)), (8,)),
    "adaptive average over channels": (lambda: nn.Sequential(nn.Linear(8, 8), nn.AdaptiveAvgPool1d(4), nn.BatchNorm1d(4)), (8,)),
    "2d pool of a 3d value": (lambda: nn.Sequential(nn.Conv1d(3, 8, 1), nn.AvgPool2d(2), nn.BatchNorm1d(4)), (3, 10)),
    "2d pool behind": (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.AvgPool2d(2), nn.Conv1d(2, 3, 1)), (4, 10)),
    "mean of all": (lambda: Calls(lambda m, x: m.norm(x).mean(None, keepdim=True) + x, norm=nn.BatchNorm2d(3)), (3, 5, 5)),
    "vector times": (lambda: Calls(lambda m, x: m.norm(F.linear(x, m.norm.weight[:5])), norm=nn.BatchNorm1d(7)), (7, 5)),
    "divided by nothing": (lambda: Calls(lambda m, x: torch.tanh(m.norm(x) / 0.0), norm=nn.BatchNorm2d(3)), (3, 5, 5)),
}


@pytest.mark.parametrize(("build", "shape"), PLACES.values(), ids=PLACES)
def test_operators_over_the_normalised_axis_keep_the_norm(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = randomise_norms(build()).double()
    inputs = spec(*shape, dtype="float64")
    folded, report = fold(model, inputs)
    assert len(report.kept) == 1
    assert error(folded, model, inputs) <= EXACT


def test_views_of_one_storage_that_do_not_overlap_are_not_shared() -> None:
    model = randomise_norms(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)))
    parameters = list(model.parameters())
    torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(parameters), parameters)
    folded, report = fold(model, spec(3, 8, 8))
    assert len(report.folded) == 2
    assert {parameter.untyped_storage().data_ptr() for parameter in folded.parameters()}.isdisjoint(
        {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    )


def test_the_old_weight_norm_folds() -> None:
    with pytest.warns(FutureWarning):
        layer = torch.nn.utils.weight_norm(nn.Conv2d(3, 4, 3))
    assert len(fold(randomise_norms(nn.Sequential(layer, nn.BatchNorm2d(4))), spec(3, 8, 8))[1].folded) == 1


def test_any_number_of_inputs_in_one_parameter() -> None:
    class Any_(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, *images: Tensor) -> Any:
            return self.norm(self.conv(images[0]) + self.conv(images[1]))

    two = [*spec(3, 8, 8), *spec(3, 8, 8)]
    two[1] = type(two[1])("second", "float32", two[1].shape)
    folded, report = fold(randomise_norms(Any_()), two)
    assert len(report.kept) == 1
    assert folded(*tensors_of(two, 3)).shape == (3, 4, 6, 6)


def test_a_model_that_cannot_be_copied_or_exits_says_so() -> None:
    import threading

    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    model.lock = threading.Lock()  # type: ignore[assignment]  # torch's modules take and give Tensor | Module
    with pytest.raises(ModelError, match=r"Sequential cannot be copied: .*; edgekit works on a copy"):
        fold(model, spec(3, 8, 8))

    def leave(model: Any, x: Tensor) -> Tensor:
        raise SystemExit(3)

    with pytest.raises(ModelError, match="does not take an input of"):
        fold(Calls(leave), spec(3, 8, 8))


class Merging(nn.Linear):
    """Writes into its weight when it enters and leaves inference mode, as LoRA layers do."""

    def __init__(self) -> None:
        super().__init__(8, 4)
        self.added, self.merged = nn.Parameter(torch.ones(4, 8)), False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += -self.added if mode else self.added
            self.merged = not mode
        return self


def renormed(m: Any, x: Tensor) -> Any:
    m.conv.weight.data = torch.renorm(m.conv.weight.data, 2, 0, 0.1)
    return m.norm(m.conv(x))


def clamped(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        m.conv.weight.clamp_(-0.1, 0.1)
    return m.norm(m.conv(x))


UNTOUCHED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "merged in eval": (lambda: nn.Sequential(Merging(), nn.BatchNorm1d(4)).train(), (8,)),
    "replaced in forward": (lambda: Calls(renormed, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)), (3, 6, 6)),
    "written in forward": (lambda: Calls(clamped, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)), (3, 6, 6)),
}


@pytest.mark.parametrize(("build", "shape"), UNTOUCHED.values(), ids=UNTOUCHED)
def test_a_model_that_writes_into_its_weights_keeps_them(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = randomise_norms(build())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with contextlib.suppress(ModelError):  # some cannot be traced
        fold(model, spec(*shape))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_value_changed_by_an_earlier_fold_is_not_compared_with_the_original() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.last(m.norm(torch.max_pool2d(m.conv(x), 2)) * m.scale + 10.0)

    torch.manual_seed(0)
    model = Calls(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), last=nn.Conv2d(4, 2, 2))
    model.scale = nn.Parameter(torch.rand(4, 1, 1) + 0.5)
    inputs = spec(3, 8, 8, dtype="float64")
    folded, report = fold(randomise_norms(model).double(), inputs)
    assert len(report.folded) == 2
    assert error(folded, model, inputs) <= EXACT


def test_sums_on_the_way_to_a_fold_beside_may_change() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        total = m.norm(x) + torch.sigmoid(m.a(x)) + torch.tanh(m.b(x))
        return total * m.ones + m.c(x)

    torch.manual_seed(0)
    convs = {name: nn.Conv2d(3, 3, 3, padding=1) for name in "abc"}
    model = Calls(forward, norm=nn.BatchNorm2d(3), **convs)
    model.ones = nn.Parameter(torch.ones(3, 1, 1))
    inputs = spec(3, 6, 6, dtype="float64")
    folded, _ = fold(randomise_norms(model).double(), inputs)
    assert error(folded, model, inputs) <= EXACT


def test_an_operator_that_writes_elsewhere_is_left_alone() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.norm(m.conv(x))
        z = torch.empty_like(y)
        torch.mul(y, y, out=z)
        return z + y

    inputs = spec(3, 6, 6, dtype="float64")
    model = conv_and_norm(forward).double().requires_grad_(False)
    assert error(fold(model, inputs)[0], model, inputs) <= EXACT


def test_a_counter_is_not_advanced_by_the_proof() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        m.count += 1
        return m.norm(m.conv(x)) * m.count

    model = conv_and_norm(forward).double()
    model.register_buffer("count", torch.zeros((), dtype=torch.float64))
    _, report = fold(model, spec(3, 6, 6, dtype="float64"))
    assert len(report.folded) == 1
    assert float(model.count) == 0  # type: ignore[arg-type]  # torch's modules take and give Tensor | Module


def test_a_dead_channel_does_not_keep_a_norm_in_float32() -> None:
    model: Any = conv_and_norm(lambda m, x: m.norm(m.conv(x)))
    with torch.no_grad():
        model.norm.weight[0] = 1e-41
    assert len(fold(model, spec(3, 6, 6))[1].folded) == 1


def test_a_large_beta_is_not_a_mean() -> None:
    model = Calls(lambda m, x: m.conv(x * m.scale + 9.0), conv=nn.Conv2d(3, 4, 3))
    model.scale = nn.Parameter(torch.rand(3, 1, 1) + 0.5)
    assert len(fold(model, spec(3, 6, 6))[1].folded) == 1
