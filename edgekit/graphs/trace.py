"""From a module to its graph of ATen operations, by ``torch.export``: what folding rewrites and ONNX is written from."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekit.errors import ModelError, first_line
from edgekit.tensors import BATCH, Array, Feed, TensorSpec, sample_feed, shape_text

# a traced batch of 1 would be taken for a constant (pytorch issue 157621)
TRACED_BATCH = 2


def trace(model: nn.Module, inputs: Sequence[TensorSpec]) -> fx.GraphModule:
    """The inference-mode graph of a copy of ``model``, free in every axis that ``inputs`` names; ``model`` is untouched.

    Parameters keep their names and are those of ``model`` itself until ``own_weights`` copies them: a large model is then
    never held twice before it has to be. Raises ModelError when the model does not take these inputs or cannot be traced.
    """
    example = tensors_of(inputs, TRACED_BATCH)
    frozen = _run_once(model, example)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            shapes = dynamic_shapes(inputs)
            program = torch.export.export(frozen, example, dynamic_shapes=(shapes,) if _takes_any_number(frozen) else shapes)
            graph = program.module(check_guards=False)
    except Exception as problem:
        reason = first_line(problem)
        raise ModelError(
            f"{type(model).__name__} runs but cannot be traced with a free batch axis: {reason}",
            "keep Python branches on tensor values and fixed batch sizes out of forward()",
        ) from problem
    _read_late(graph)
    return graph


def _run_once(model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
    """A copy in inference mode that has been run once, because its own error is clearer than the tracer's.

    It shares the parameters' memory with ``model``, unless ``eval()`` or ``forward()`` write into it (as merging LoRA does).
    """
    try:
        with _Unwritten(model):
            frozen = inference_copy(model, share=True)
            run_module(frozen, example)
    except _Written:
        frozen = inference_copy(model)
        run_module(frozen, example)
    return frozen


class _Written(BaseException):  # not for user code to catch
    """A parameter's memory was about to be written to."""


class _Unwritten(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises _Written before an operator writes into a parameter of ``model``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory = {parameter.untyped_storage().data_ptr() for parameter in model.parameters() if parameter.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at what an operator writes to, then call it."""
        options = kwargs or {}
        if func._schema.is_mutable:
            given = {**{known.name: value for known, value in zip(func._schema.arguments, args, strict=False)}, **options}
            for known in func._schema.arguments:
                value = given.get(known.name)
                if known.is_write and isinstance(value, Tensor) and value.untyped_storage().data_ptr() in self._memory:
                    raise _Written
        return func(*args, **options)


def inference_copy(model: nn.Module, *, share: bool = False) -> nn.Module:
    """A copy in inference mode, with parameters of its own or, with ``share``, in the memory of those of ``model``.

    Raises ModelError when it cannot be copied.

    A tensor that is computed from parameters (as by the old ``weight_norm``) is copied as it is.
    """
    known: dict[int, Any] = {}
    if share:  # parameters of its own, so that ``weight.data = ...`` stays its own too
        known = {
            id(parameter): nn.Parameter(parameter.detach(), parameter.requires_grad)
            for parameter in model.parameters()
            if type(parameter) is nn.Parameter
        }
    for module in model.modules():
        known |= {id(value): value.detach() for value in vars(module).values() if isinstance(value, Tensor) and not value.is_leaf}
    try:
        return copy.deepcopy(model, known).eval()
    except Exception as problem:  # whatever a user's object raises
        raise ModelError(
            f"{type(model).__name__} cannot be copied: {first_line(problem)}",
            "edgekit works on a copy, so make copy.deepcopy of the model work",
        ) from problem


def _takes_any_number(model: nn.Module) -> bool:
    """Whether it is ``forward(self, *tensors)``: the tracer then wants its inputs as one tuple."""
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    return kinds == [inspect.Parameter.VAR_POSITIONAL]


def _read_late(graph: fx.GraphModule) -> None:
    """Read each stored tensor just before its first use, so that running the graph holds few of them at a time."""
    position = {node: index for index, node in enumerate(graph.graph.nodes)}
    for node in [stored for stored in position if stored.op == "get_attr" and stored.users]:
        min(node.users, key=position.__getitem__).prepend(node)


def own_weights(graph: fx.GraphModule, model: nn.Module) -> None:
    """Copy the parameters that a traced graph still shares with ``model``; what is one tensor under two names stays one."""
    shared = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    copies: dict[int, nn.Parameter] = {}
    for name, parameter in list(graph.named_parameters(remove_duplicate=False)):
        if parameter.untyped_storage().data_ptr() in shared:
            if id(parameter) not in copies:
                copies[id(parameter)] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            path, _, leaf = name.rpartition(".")
            setattr(graph.get_submodule(path), leaf, copies[id(parameter)])


def run_module(model: nn.Module, example: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The named outputs of one inference; raises ModelError naming the input shapes when the model refuses them."""
    try:
        with torch.inference_mode():
            return named_outputs(model(*example))
    except ModelError:
        raise
    except (Exception, SystemExit) as problem:
        shapes = ", ".join("x".join(map(str, tensor.shape)) for tensor in example)
        raise ModelError(
            f"{type(model).__name__} does not take an input of {shapes} (the batch in front): {first_line(problem)}",
            "check --input-shape",
        ) from problem


def tensors_of(inputs: Sequence[TensorSpec], batch: int) -> tuple[Tensor, ...]:
    """Repeatable example tensors for ``inputs``."""
    return tensors_of_feed(sample_feed(inputs, batch))


def tensors_of_feed(feed: Feed) -> tuple[Tensor, ...]:
    """The feed's arrays as tensors, in its order."""
    try:
        return tuple(torch.from_numpy(array) for array in feed.values())
    except TypeError:
        dtypes = ", ".join(f"{name} is {array.dtype}" for name, array in feed.items())
        raise ModelError(f"PyTorch and numpy do not share the dtype of an input: {dtypes}", "use float32 or float16") from None


def dynamic_shapes(inputs: Sequence[TensorSpec]) -> tuple[tuple[Any, ...]]:
    """What ``torch.export`` wants to know about free axes, one mapping for each input."""
    dims = {axis: torch.export.Dim(axis) for spec in inputs for axis in spec.shape if isinstance(axis, str)}
    return tuple({index: dims[axis] for index, axis in enumerate(spec.shape) if isinstance(axis, str)} for spec in inputs)  # type: ignore[return-value]


def named_outputs(result: object) -> dict[str, Tensor]:
    """A tensor, or sequences and mappings of tensors -> output name -> tensor; mappings keep their keys, ``aux_0`` is nested."""
    if isinstance(result, Tensor):
        return {"output": result}
    items = _flat(result, "")
    if not items or not all(isinstance(value, Tensor) for _, value in items):
        raise ModelError(f"forward() returned a {type(result).__name__}", "return a tensor, or a tuple or dict of tensors")
    if len({name for name, _ in items}) != len(items):
        raise ModelError("forward() returned two outputs of one name", "give each key of a nested dict its own")
    return dict(items)


def _flat(result: object, prefix: str) -> list[tuple[str, Any]]:
    if isinstance(result, Mapping):
        named = [(f"{prefix}{key}", value) for key, value in result.items()]
    elif isinstance(result, (tuple, list)):
        alone = "" if len(result) == 1 else None
        named = [(f"{prefix or 'output'}{index if alone is None else alone}", value) for index, value in enumerate(result)]
    else:
        return []
    nested = [_flat(value, f"{name}_") if isinstance(value, (Mapping, tuple, list)) else [(name, value)] for name, value in named]
    return [item for items in nested for item in items]


def output_specs(model: nn.Module, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Specs of the model's outputs; raises ModelError unless the batch is the first axis of each, and no other's size."""
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
        if tensor.is_complex():
            raise ModelError(f"output {name!r} is complex, which no runtime here takes", "return its real and imaginary parts")
        specs.append(TensorSpec(name, str(tensor.dtype).removeprefix("torch."), (BATCH, *first[1:])))
    return tuple(specs)


def as_arrays(outputs: Mapping[str, Tensor]) -> dict[str, Array]:
    """Tensors -> numpy arrays of their own."""
    try:
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in outputs.items()}
    except TypeError:
        dtypes = ", ".join(f"{name} is {tensor.dtype}" for name, tensor in outputs.items())
        raise ModelError(f"PyTorch and numpy do not share the dtype of an output: {dtypes}", "use float32 or float16") from None
