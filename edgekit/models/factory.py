"""Build a module from a shipped model's name or an import path."""

from __future__ import annotations

import importlib
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.files import check_name
from edgekit.models import MODELS
from edgekit.models.wrappers import unwrapped
from edgekit.spelling import did_you_mean

SEED = 0
"""The seed while a factory is called: without weights, the same export twice is the same bundle."""


def call_factory(name: str, args: Mapping[str, Any] | None = None) -> Any:
    """The result of the factory of a shipped model, or of an import path ``package.module:factory``.

    An import path is resolved as by Python in the current folder, and so is what the factory imports; what forward() imports is
    found there too, after the rest of the search path. Raises ModelError that says which part failed.
    """
    path = MODELS[name].factory if name in MODELS else name
    module_name, _, factory_name = path.partition(":")
    if not module_name or not factory_name:
        names, near = ", ".join(MODELS), did_you_mean(name, MODELS)
        raise ModelError(f"no model {name!r}", f"use one of {names}, or an import path like torchvision.models:resnet18{near}")
    with _current_folder():
        factory = _find(module_name, factory_name, name)
        _check_args(factory, name, args or {})
        try:
            return factory(**(args or {}))
        except (Exception, SystemExit) as problem:
            reason = f"{type(problem).__name__}: {problem}"
            raise ModelError(f"{name} could not be built: {reason}", "check its arguments") from problem


def _check_args(factory: Callable[..., Any], name: str, args: Mapping[str, Any]) -> None:
    """Raise ModelError for an argument that no parameter of the factory takes; a factory that does not tell is left to itself."""
    try:
        parameters = inspect.signature(factory, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY]
    unknown = next((key for key in args if key not in names), None)
    if unknown is not None:
        takes = f"use one of {', '.join(names)}{did_you_mean(unknown, names)}" if names else "it takes none: leave them out"
        raise ModelError(f"{name} has no argument {unknown!r}", takes)


class Built(NamedTuple):
    """A factory's module, and name -> (dtype, shape) of its example inputs if it returned ``(module, example_inputs)``.

    ``widened`` says that the module's floats became float32, and so do those of its example inputs.
    """

    module: nn.Module
    example: dict[str, tuple[str, tuple[int, ...]]]
    notes: tuple[str, ...]
    widened: bool


def build(name: str, args: Mapping[str, Any] | None = None) -> Built:
    """What a factory returns, a module or ``(module, example_inputs)``, without wrappers and in dtypes that runtimes have.

    Raises ModelError if the factory fails or returns anything else.
    """
    made = call_factory(name, args)
    example: dict[str, tuple[str, tuple[int, ...]]] = {}
    if isinstance(made, tuple) and len(made) == 2:
        made, inputs = made
        example = _described(inputs, name)
    module, notes = checked_module(made, name)
    note = _widened(module)
    return Built(module, example, (*notes, *note), bool(note))


def build_module(name: str, args: Mapping[str, Any] | None = None) -> nn.Module:
    """The module of ``build``."""
    return build(name, args).module


def rebuild_module(name: str, args: Mapping[str, Any] | None = None) -> nn.Module:
    """The module of ``build``, ``seeded``: what a factory draws and no file of weights holds is that of the export."""
    with seeded():
        return build_module(name, args)


@contextmanager
def seeded() -> Iterator[None]:
    """Python's, numpy's and torch's generators begin with ``SEED`` while the context is open, and go on afterwards as before."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)  # what factories draw from
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def _described(inputs: object, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (dtype, shape) of example inputs: a tensor, several, or a dict by the names of ``forward``'s parameters."""
    if not isinstance(inputs, dict):
        tensors = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        inputs = {"input" if len(tensors) == 1 else f"input{index}": tensor for index, tensor in enumerate(tensors)}
    if not all(check_name(str(key)) and isinstance(tensor, Tensor) and tensor.dim() for key, tensor in inputs.items()):
        raise ModelError(
            f"{name} returned example inputs that are not tensors with a batch axis",
            "return (module, tensors), or a dict of tensors by the names of forward()'s parameters",
        )
    return {str(key): (dtype_name(tensor.dtype), tuple(tensor.shape)) for key, tensor in inputs.items()}


def _widened(module: nn.Module) -> tuple[str, ...]:
    """Make a bfloat16 or float64 module float32, because CPU runtimes lack such convolutions; returns a note if it was one."""
    dtypes = {value.dtype for value in module.state_dict().values() if isinstance(value, Tensor) and value.is_floating_point()}
    unusual = sorted(map(dtype_name, dtypes & {torch.bfloat16, torch.float64}))
    if not unusual:
        return ()
    module.float()
    return (f"the model's {' and '.join(unusual)} was exported as float32, because runtimes lack it for convolutions on CPUs",)


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def checked_module(built: object, name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """What a factory returned as a module without wrappers, and notes; raises ModelError for anything else."""
    if not isinstance(built, nn.Module):
        raise ModelError(f"{name} returned a {type(built).__name__}, not a torch.nn.Module", "name a factory of modules")
    meta = next((key for key, value in built.state_dict().items() if getattr(value, "is_meta", False)), None)
    if meta is not None:
        raise ModelError(f"{name} returned a module whose {meta} has no numbers: it is on the meta device", "build it on the CPU")
    return unwrapped(built, name)


def _find(module_name: str, factory_name: str, name: str) -> Any:
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as problem:
        raise ModelError(
            f"{name}: cannot import {module_name}: {type(problem).__name__}: {problem}", "check the path"
        ) from problem
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise ModelError(f"{name}: {module_name} has no function or class {factory_name!r}", "check the spelling")
    return factory


@contextmanager
def _current_folder() -> Iterator[None]:
    """Python's search path with the current folder before all else, and afterwards after all else, where it shadows nothing."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
