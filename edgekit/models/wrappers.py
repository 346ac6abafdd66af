"""Find the module inside PyTorch's wrappers, and refuse modules that are no networks of float tensors any more."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from edgekit.errors import ModelError

_INSIDE: dict[type[nn.Module], str] = {
    torch._dynamo.OptimizedModule: "_orig_mod",
    DataParallel: "module",
    DistributedDataParallel: "module",
    AveragedModel: "module",
}
_QUANTISED = ("torch.ao.nn.", "torch.nn.quantized.", "torch.nn.intrinsic.", "torch.nn.qat.", "torch.ao.quantization.")


def unwrapped(module: nn.Module, name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """The module without torch.compile, DataParallel and DistributedDataParallel, at any depth, and a note on each.

    Children inside ``module`` are replaced in place. Raises ModelError for TorchScript, and for a module with quantised layers,
    that says what ``name`` should return instead.
    """
    wrappers: dict[str, None] = {}
    module = _inside(module, wrappers)
    for parent in list(module.modules()):
        for key, child in [(key, child) for key, child in parent._modules.items() if child is not None]:
            inner = _inside(child, wrappers)
            if inner is not child:
                setattr(parent, key, inner)
    _plain_parameters(module)
    _check(module, name)
    return module, tuple(f"the model was exported without its wrapper {wrapper}" for wrapper in wrappers)


def _inside(module: nn.Module, wrappers: dict[str, None]) -> nn.Module:
    while type(module) in _INSIDE:
        wrappers["torch.compile" if type(module) is torch._dynamo.OptimizedModule else type(module).__name__] = None
        kind = type(module).__name__
        hooks = [*vars(module)["_forward_hooks"].values(), *vars(module)["_forward_pre_hooks"].values()]
        if hooks:
            hook = getattr(hooks[0], "__name__", type(hooks[0]).__name__)
            raise ModelError(
                f"the wrapper {kind} has the hook {hook}, which the module inside it does not have",
                "register the hook on the module that is wrapped",
            )
        inner = getattr(module, _INSIDE[type(module)])
        inner.train(module.training)
        module = inner
    if getattr(module, "_compiled_call_impl", None) is not None:  # of module.compile()
        module._compiled_call_impl = None
        wrappers["torch.compile"] = None
    compiled = vars(module).get("forward")
    original = inspect.unwrap(getattr(compiled, "_torchdynamo_orig_callable", compiled)) if callable(compiled) else None
    if getattr(original, "__self__", None) is module:  # module.forward = torch.compile(module.forward)
        del module.forward
        wrappers["torch.compile"] = None
    return module


def _plain_parameters(module: nn.Module) -> None:
    """Replace parameters of a class that computes as ``nn.Parameter`` does, such as one with notes of its own, in place."""
    plain: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for key, parameter in part._parameters.items():
            if parameter is not None and _computes_as_parameter(parameter):
                same = plain.setdefault(
                    id(parameter), nn.Parameter(parameter.detach().as_subclass(Tensor), parameter.requires_grad)
                )
                part._parameters[key] = same


def _computes_as_parameter(parameter: nn.Parameter) -> bool:
    kind = type(parameter)
    if kind is nn.Parameter or nn.Parameter not in kind.__mro__:
        return False
    own = any("__torch_function__" in vars(base) for base in kind.__mro__[: kind.__mro__.index(nn.Parameter)])
    return not own and not is_lazy(parameter) and not hasattr(kind, "__tensor_flatten__")


def _check(module: nn.Module, name: str) -> None:
    for path, part in module.named_modules():
        where = f" ({path})" if path else ""
        if isinstance(part, torch.jit.ScriptModule):
            raise ModelError(
                f"{name} returned a TorchScript module{where}, whose Python code is gone",
                "return the module that was traced or scripted, and give its weights with --weights",
            )
        if type(part).__module__.startswith(_QUANTISED):
            raise ModelError(
                f"{name} returned a quantised module: {path or 'the model'} is a {type(part).__module__}.{type(part).__name__}",
                "return the float module from before quantisation",
            )
    tensors: dict[str, Any] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    lazy = next((path for path, tensor in tensors.items() if is_lazy(tensor)), None)
    if lazy is not None:
        raise ModelError(
            f"{name} returned a module whose {lazy} has no shape yet: it is of a Lazy module",
            "run the module once on an example before returning it",
        )
    for path, tensor in tensors.items():
        if tensor.is_quantized or type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
            raise ModelError(
                f"{name} returned a module whose {path} is {_kind(tensor)}, no plain tensor",
                "return the float module it was made from",
            )


def _kind(tensor: Tensor) -> str:
    return (
        f"a quantised tensor ({tensor.dtype})" if tensor.is_quantized else f"a {type(tensor).__module__}.{type(tensor).__name__}"
    )
