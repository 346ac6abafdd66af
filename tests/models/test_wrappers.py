"""Models inside PyTorch's wrappers, and modules that are no networks of float tensors any more."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from edgekit.errors import ModelError
from edgekit.models.wrappers import unwrapped

pytestmark = pytest.mark.filterwarnings("ignore")  # what PyTorch says of its own wrappers


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval()


def compiled_call() -> nn.Module:
    model = net()
    model.compile()
    return model


def compiled_forward() -> nn.Module:
    model: Any = net()
    model.forward = torch.compile(model.forward)
    return model  # type: ignore[no-any-return]


def compiled_inside() -> nn.Module:
    model = net()
    model[0] = torch.compile(model[0])  # type: ignore[assignment]
    return model


@pytest.mark.parametrize(
    ("make", "wrappers"),
    [
        (lambda: torch.compile(net()), ["torch.compile"]),
        (lambda: nn.DataParallel(net()), ["DataParallel"]),
        (lambda: torch.compile(nn.DataParallel(net())), ["torch.compile", "DataParallel"]),
        (lambda: AveragedModel(net()), ["AveragedModel"]),
        (compiled_call, ["torch.compile"]),
        (compiled_forward, ["torch.compile"]),
        (compiled_inside, ["torch.compile"]),
    ],
    ids=["compile", "DataParallel", "both", "AveragedModel", "compile()", "compiled forward", "compiled child"],
)
def test_a_wrapped_module_is_unwrapped_and_noted(make: Callable[[], nn.Module], wrappers: list[str]) -> None:
    model, notes = unwrapped(make(), "nets:make")
    assert list(notes) == [f"the model was exported without its wrapper {wrapper}" for wrapper in wrappers]
    assert model.state_dict().keys() == net().state_dict().keys()
    assert torch.equal(model(torch.ones(1, 1, 4, 4)), net()(torch.ones(1, 1, 4, 4)))


def test_a_plain_module_is_left_as_it_is() -> None:
    model = net()
    assert unwrapped(model, "nets:make") == (model, ())


def test_the_mode_of_the_wrapper_becomes_the_modules() -> None:
    wrapped = nn.DataParallel(net())
    wrapped.training = True
    assert unwrapped(wrapped, "nets:make")[0].training


def quantised(dynamic: bool) -> nn.Module:
    from torch.ao import quantization

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamic:
            return quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call,no-any-return]
        model: Any = nn.Sequential(quantization.QuantStub(), net(), quantization.DeQuantStub()).eval()
        model.qconfig = quantization.get_default_qconfig("x86")  # type: ignore[no-untyped-call]
        quantization.prepare(model, inplace=True)  # type: ignore[no-untyped-call]
        model(torch.ones(1, 1, 4, 4))
        return quantization.convert(model)  # type: ignore[no-untyped-call,no-any-return]


def traced() -> nn.Module:
    return torch.jit.trace(net(), torch.ones(1, 1, 4, 4))  # type: ignore[no-untyped-call,no-any-return]


class OwnTensor(Tensor):
    """A tensor subclass, as libraries of quantisation keep weights in."""


def with_own_tensor() -> nn.Module:
    model = net()
    model[3].weight = nn.Parameter(torch.ones(2, 8).as_subclass(OwnTensor))
    return model


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (traced, "a TorchScript module, whose Python code is gone"),
        (lambda: torch.jit.script(net()), "a TorchScript module, whose Python code is gone"),
        (lambda: nn.Sequential(torch.jit.script(net())), r"a TorchScript module \(0\), whose Python code is gone"),
        (lambda: quantised(dynamic=True), r"a quantised module: 3 is a torch.ao.nn.quantized.dynamic"),
        (lambda: quantised(dynamic=False), r"a quantised module: 0 is a torch.ao.nn.quantized"),
        (with_own_tensor, r"a module whose 3.weight is a .*OwnTensor, no plain tensor"),
    ],
    ids=["traced", "scripted", "scripted child", "dynamic", "static", "subclass"],
)
def test_a_module_without_float_layers_says_what_to_give_instead(make: Callable[[], nn.Module], fault: str) -> None:
    with pytest.raises(ModelError, match=f"nets:make returned {fault}.*; return the ") as caught:
        unwrapped(make(), "nets:make")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_a_hook_of_a_wrapper_is_refused_by_name(wrap: Callable[[nn.Module], Any]) -> None:
    def doubled(module: nn.Module, inputs: Any, output: Any) -> Any:
        return output * 2

    wrapped = wrap(nn.Linear(4, 4))
    wrapped.register_forward_hook(doubled)
    with pytest.raises(ModelError, match=r"has the hook doubled, which the module inside it does not have"):
        unwrapped(wrapped, "net")


class Noted(nn.Parameter):
    """A parameter that computes as any other."""


def test_a_parameter_of_a_class_that_changes_nothing_becomes_a_plain_one_and_stays_tied() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight = model[1].weight = Noted(torch.ones(4, 4))
    unwrapped(model, "nets:make")
    assert type(model[0].weight) is nn.Parameter
    assert model[0].weight is model[1].weight
    assert torch.equal(model[0].weight, torch.ones(4, 4))


def test_a_lazy_module_that_has_not_run_is_refused_with_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"whose 0.weight has no shape yet.* run the module once on an example"):
        unwrapped(nn.Sequential(nn.LazyConv2d(4, 3)), "nets:make")
