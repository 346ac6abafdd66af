"""Trace a module into a graph of ATen operations with ``torch.export``; folding and the ONNX writer work on this graph."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekit.errors import ModelError, first_line
from edgekit.graphs.quiet import quiet
from edgekit.graphs.user_code import fixed_sizes, unrunnable, untraceable
from edgekit.tensors import BATCH, Array, Feed, TensorSpec, sample_feed, shape_text

# a traced batch of 1 would be taken for a constant (pytorch issue 157621)
TRACED_BATCH = 2


def trace(model: nn.Module, inputs: Sequence[TensorSpec]) -> fx.GraphModule:
    """The inference-mode graph of a copy of ``model``, free in every axis that ``inputs`` names; ``model`` is untouched.

    Parameters keep their names. They share memory with ``model`` until ``own_weights`` copies them, so that a large model is not
    held twice too early. Raises ModelError if the model does not take these inputs or cannot be traced.
    """
    example = tensors_of(inputs, TRACED_BATCH)
    frozen = _plain_calls(frozen_copy(model, example), example)
    try:
        with quiet(), torch.no_grad(), fixed_sizes() as fixed:
            shapes = dynamic_shapes(inputs)
            program = torch.export.export(frozen, example, dynamic_shapes=(shapes,) if _takes_any_number(frozen) else shapes)
            graph = program.module(check_guards=False)
    except Exception as problem:
        refusal = untraceable(problem, fixed)
        raise ModelError(
            f"{type(model).__name__} runs but cannot be traced with a free batch axis: {refusal.reason}", refusal.remedy
        ) from problem
    _read_late(graph)
    return graph


class FirstRun(NamedTuple):
    """A copy of a model in inference mode, and its first run: the inputs as it left them, and what ``forward`` returned."""

    module: nn.Module
    given: tuple[Tensor, ...]
    result: object


def frozen_copy(model: nn.Module, example: tuple[Tensor, ...]) -> FirstRun:
    """A copy of ``model`` in inference mode that has run once: the model's own error is clearer than the tracer's.

    The copy shares the parameters' memory with ``model`` unless ``eval()`` or ``forward()`` write into it, as merging LoRA does.
    """
    try:
        with _Unwritten(model):
            first = _first_run(inference_copy(model, share=True), example)
    except _Written:
        first = _first_run(inference_copy(model), example)
    for name, tensor in named_outputs(first.result).items():  # raises for outputs that are no tensors
        _check_real(name, tensor)
    return first


def _check_real(name: str, tensor: Tensor) -> None:
    if tensor.is_complex():
        raise ModelError(f"output {name!r} is complex, which no backend takes", "return its real and imaginary parts")


def _first_run(frozen: nn.Module, example: tuple[Tensor, ...]) -> FirstRun:
    given = own_copies(example)
    return FirstRun(frozen, given, _called(frozen, given))


def _plain_calls(first: FirstRun, example: tuple[Tensor, ...]) -> nn.Module:
    """The copy with what the tracer needs: inputs that it may write to, and outputs without None and dataclasses."""
    frozen, result = first.module, first.result
    if written_inputs(example, first.given):
        frozen.register_forward_pre_hook(lambda module, args: own_copies(args))
    if not isinstance(result, Tensor) and (_has_dataclass(result) or any(value is None for _, value in flat_outputs(result))):
        frozen.register_forward_hook(lambda module, args, outputs: named_outputs(outputs))
    return frozen


def written_inputs(before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> tuple[int, ...]:
    """The positions of the tensors that changed."""
    pairs = enumerate(zip(before, after, strict=True))
    return tuple(index for index, (old, new) in pairs if old.shape != new.shape or not torch.equal(old, new))


def _has_dataclass(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_dataclass, value.values()))
    if isinstance(value, (tuple, list)):
        return any(map(_has_dataclass, value))
    return is_dataclass(value)


class _Written(BaseException):  # not for user code to catch
    """A parameter's memory was about to be written to."""


class _Unwritten(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises _Written before an operator writes into a parameter of ``model``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory = {parameter.untyped_storage().data_ptr() for parameter in model.parameters() if parameter.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Check which arguments the operator writes to, then call it."""
        options = kwargs or {}
        if func._schema.is_mutable:
            parameters = func._schema.arguments
            values = {**{parameter.name: value for parameter, value in zip(parameters, args, strict=False)}, **options}
            for parameter in parameters:
                value = values.get(parameter.name)
                if parameter.is_write and isinstance(value, Tensor) and value.untyped_storage().data_ptr() in self._memory:
                    raise _Written
        return func(*args, **options)


def inference_copy(model: nn.Module, *, share: bool = False) -> nn.Module:
    """A copy of ``model`` in inference mode; with ``share`` the copy's parameters use the memory of the model's.

    A tensor computed from parameters (as by the old ``weight_norm``) is copied as a constant. Raises ModelError if the model
    cannot be copied.
    """
    copied: dict[int, Any] = {}
    if share:  # new Parameter objects, so that ``weight.data = ...`` in the copy does not reach the model
        copied = {
            id(parameter): nn.Parameter(parameter.detach(), parameter.requires_grad)
            for parameter in model.parameters()
            if type(parameter) is nn.Parameter
        }
    for module in model.modules():
        copied |= {
            id(value): value.detach() for value in vars(module).values() if isinstance(value, Tensor) and not value.is_leaf
        }
    try:
        return copy.deepcopy(model, copied).eval()
    except Exception as problem:  # whatever a user's object raises
        raise ModelError(
            f"{type(model).__name__} cannot be copied: {first_line(problem)}",
            "edgekit works on a copy, so make copy.deepcopy of the model work",
        ) from problem


def _takes_any_number(model: nn.Module) -> bool:
    """Whether ``forward`` is ``forward(self, *tensors)``: the tracer then needs the dynamic shapes as one tuple."""
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    return kinds[:1] == [inspect.Parameter.VAR_POSITIONAL]


def _read_late(graph: fx.GraphModule) -> None:
    """Move each read of a stored tensor to just before its first use, so that a run holds few tensors at a time."""
    position = {node: index for index, node in enumerate(graph.graph.nodes)}
    for node in [stored for stored in position if stored.op == "get_attr" and stored.users]:
        min(node.users, key=position.__getitem__).prepend(node)


def own_weights(graph: fx.GraphModule, model: nn.Module) -> None:
    """Copy the parameters that a traced graph shares with ``model``; a tensor with two names is copied once."""
    shared = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    copies: dict[int, nn.Parameter] = {}
    for name, parameter in list(graph.named_parameters(remove_duplicate=False)):
        if parameter.untyped_storage().data_ptr() in shared:
            if id(parameter) not in copies:
                copies[id(parameter)] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            path, _, leaf = name.rpartition(".")
            setattr(graph.get_submodule(path), leaf, copies[id(parameter)])


def torch_version() -> str:
    """The release of the installed PyTorch, as a session on it reports."""
    return str(torch.__version__)


def run_module(model: nn.Module, example: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The named outputs of one inference; raises ModelError naming the input shapes if the model refuses them."""
    return named_outputs(_called(model, example))


def _called(model: nn.Module, example: tuple[Tensor, ...]) -> object:
    """What ``forward`` returns in inference mode; raises ModelError as ``run_module`` does."""
    try:
        with torch.inference_mode():
            return model(*example)
    except ModelError:
        raise
    except (Exception, SystemExit) as problem:
        shapes = ", ".join("x".join(map(str, tensor.shape)) for tensor in example)
        refusal = unrunnable(problem, shapes, _takes_one(model, example))
        raise ModelError(f"{type(model).__name__} {refusal.reason}", refusal.remedy) from problem


def _takes_one(model: nn.Module, example: tuple[Tensor, ...]) -> bool:
    """Whether ``forward`` takes the first of several samples alone."""
    if any(tensor.dim() == 0 or len(tensor) < 2 for tensor in example):
        return False
    try:
        with torch.inference_mode():
            model(*(tensor[:1].clone() for tensor in example))
    except (Exception, SystemExit):
        return False
    return True


def tensors_of(inputs: Sequence[TensorSpec], batch: int) -> tuple[Tensor, ...]:
    """Repeatable example tensors for ``inputs``."""
    return tensors_of_feed(sample_feed(inputs, batch))


def own_copies(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copies for one run, because a model may write to its inputs."""
    return tuple(tensor.clone() for tensor in tensors)


def tensors_of_feed(feed: Feed) -> tuple[Tensor, ...]:
    """Copies of the feed's arrays as tensors, in the feed's order."""
    try:
        return tuple(torch.from_numpy(array.copy()) for array in feed.values())
    except TypeError:
        dtypes = ", ".join(f"{name} is {array.dtype}" for name, array in feed.items())
        raise ModelError(f"PyTorch and numpy do not share the dtype of an input: {dtypes}", "use float32 or float16") from None


def dynamic_shapes(inputs: Sequence[TensorSpec]) -> tuple[tuple[Any, ...]]:
    """The free axes in the form of ``torch.export``: one mapping, axis -> Dim, for each input."""
    dims = {axis: torch.export.Dim(axis) for spec in inputs for axis in spec.shape if isinstance(axis, str)}
    return tuple({index: dims[axis] for index, axis in enumerate(spec.shape) if isinstance(axis, str)} for spec in inputs)  # type: ignore[return-value]


def named_outputs(result: object) -> dict[str, Tensor]:
    """The result of ``forward`` as output name -> tensor: a tensor, or nested sequences, mappings and dataclasses of tensors.

    Names come from a mapping's keys, a dataclass's fields and a sequence's indices; nested ones are joined, as in ``aux_0``.
    None is left out. Raises ModelError that names the first output of another kind.
    """
    if isinstance(result, Tensor):
        return {"output": result}
    items = [(name, value) for name, value in flat_outputs(result) if value is not None]
    other = next((f" as {name!r}" for name, value in items if not isinstance(value, Tensor)), None)
    if not items or other is not None:
        kind = next((type(value).__name__ for _, value in items if not isinstance(value, Tensor)), type(result).__name__)
        raise ModelError(
            f"forward() returned a {kind}{other or ''}", "return tensors alone: one, or a tuple, dict or dataclass of them"
        )
    if len({name for name, _ in items}) != len(items):
        raise ModelError("forward() returned two outputs of one name", "give each key of a nested dict its own")
    return dict(items)


def flat_outputs(result: object) -> list[tuple[str, Any]]:
    """Every value that ``forward`` returned, with its name; an empty list for a value that holds no others."""
    return _flat(result, "")


def _flat(result: object, prefix: str) -> list[tuple[str, Any]]:
    if is_dataclass(result) and not isinstance(result, Mapping):
        result = {field.name: getattr(result, field.name) for field in fields(result)}
    if isinstance(result, Mapping):
        named = [(f"{prefix}{key}", value) for key, value in result.items()]
    elif isinstance(result, (tuple, list)):
        alone = "" if len(result) == 1 else None
        named = [(f"{prefix or 'output'}{index if alone is None else alone}", value) for index, value in enumerate(result)]
    else:
        return []
    nested = [_flat(value, f"{name}_") if _holds_others(value) else [(name, value)] for name, value in named]
    return [item for items in nested for item in items]


def _holds_others(value: object) -> bool:
    return isinstance(value, (Mapping, tuple, list)) or (is_dataclass(value) and not isinstance(value, type))


def output_specs(model: nn.Module, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Specs of the model's outputs; raises ModelError unless the batch is the first axis of each output and no other axis."""
    small, large = (run_module(model, tensors_of(inputs, batch)) for batch in (TRACED_BATCH, TRACED_BATCH + 1))
    specs = []
    for name, tensor in small.items():
        first, second = tuple(tensor.shape), tuple(large[name].shape)
        if first[:1] != (TRACED_BATCH,) or second[:1] != (TRACED_BATCH + 1,) or first[1:] != second[1:]:
            raise ModelError(
                f"output {name!r} is {shape_text(first)} for {TRACED_BATCH} samples and "
                f"{shape_text(second)} for {TRACED_BATCH + 1}",
                "the batch must be the first axis of every output and no other",
            )
        _check_real(name, tensor)
        specs.append(TensorSpec(name, str(tensor.dtype).removeprefix("torch."), (BATCH, *first[1:])))
    return tuple(specs)


def as_arrays(outputs: Mapping[str, Tensor]) -> dict[str, Array]:
    """Copy tensors into numpy arrays."""
    try:
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in outputs.items()}
    except TypeError:
        dtypes = ", ".join(f"{name} is {tensor.dtype}" for name, tensor in outputs.items())
        raise ModelError(f"PyTorch and numpy do not share the dtype of an output: {dtypes}", "use float32 or float16") from None
