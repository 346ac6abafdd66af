"""Build a module from a name, and load weights into it without unpickling anything."""

from __future__ import annotations

import importlib
import os
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from edgekit.errors import ModelError, first_line, printable
from edgekit.models import MODELS
from edgekit.spelling import did_you_mean


def call_factory(name: str, args: Mapping[str, Any] | None = None) -> Any:
    """The result of the factory of a shipped model, or of an import path ``package.module:factory``.

    An import path is resolved as by Python in the current folder. Raises ModelError that says which part failed.
    """
    path = MODELS[name].factory if name in MODELS else name
    module_name, _, factory_name = path.partition(":")
    if not module_name or not factory_name:
        names, near = ", ".join(MODELS), did_you_mean(name, MODELS)
        raise ModelError(f"no model {name!r}", f"use one of {names}, or an import path like torchvision.models:resnet18{near}")
    factory = _find(module_name, factory_name, name)
    try:
        return factory(**(args or {}))
    except (Exception, SystemExit) as problem:
        raise ModelError(f"{name} could not be built: {type(problem).__name__}: {problem}", "check its arguments") from problem


def build_module(name: str, args: Mapping[str, Any] | None = None) -> nn.Module:
    """The module that a factory returns; raises ModelError if the factory fails or returns anything else."""
    module = call_factory(name, args)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{name} returned a {type(module).__name__}, not a torch.nn.Module", "name a factory of modules")
    return module


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights into ``model`` from safetensors, or from a state_dict read with ``weights_only=True``.

    Raises ModelError if the file cannot be read safely, or if its names or shapes differ from the model's.
    """
    state = _read_state(path)
    own_state = model.state_dict()
    missing, unknown = sorted(set(own_state) - set(state)), sorted(set(state) - set(own_state))
    if missing or unknown:
        parts = [f"lacks {_some(missing)}"] if missing else []
        parts += [f"has unknown {_some(unknown)}"] if unknown else []
        raise ModelError(f"weights {path} do not fit the model: the file {' and '.join(parts)}", "use this model's weights")
    for key, tensor in state.items():
        if tensor.shape != own_state[key].shape:
            raise ModelError(
                f"weights {path} do not fit the model: {key} is {tuple(tensor.shape)} in the file and "
                f"{tuple(own_state[key].shape)} in the model",
                "use this model's weights",
            )
    versioned = OrderedDict(state)
    versioned._metadata = getattr(own_state, "_metadata", {})  # type: ignore[attr-defined]  # some modules read their version
    try:
        model.load_state_dict(versioned)
    except Exception as problem:
        raise ModelError(f"weights {path} do not fit the model: {problem}", "use this model's weights") from problem


def weights_bytes(model: nn.Module) -> bytes:
    """The model's state as safetensors; the same weights give the same bytes."""
    # clones: safetensors refuses tensors that share memory
    return save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items()})


def _find(module_name: str, factory_name: str, name: str) -> Any:
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as problem:
        raise ModelError(
            f"{name}: cannot import {module_name}: {type(problem).__name__}: {problem}", "check the path"
        ) from problem
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise ModelError(f"{name}: {module_name} has no function or class {factory_name!r}", "check the spelling")
    return factory


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"weights {path} do not exist", "check the path")
    if path.suffix == ".safetensors":
        try:
            # a file is mapped, not read; safetensors opens only names that are UTF-8
            return load_file(path) if printable(str(path)) == str(path) else load(path.read_bytes())
        except (SafetensorError, OSError, ValueError) as problem:
            raise ModelError(f"weights {path} are not valid safetensors: {problem}", "make the file again") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        reason = first_line(problem)
        if "weights only load failed" in reason.lower():  # torch's message goes on to suggest an unsafe load
            reason = "the file holds pickled objects besides tensors, or is damaged"
        raise ModelError(
            f"weights {path} cannot be loaded safely: {reason}", "save model.state_dict() with torch.save or as safetensors"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(key, str) and isinstance(state[key], Tensor) for key in state):
        raise ModelError(f"weights {path} hold no state_dict", "save model.state_dict() with torch.save or as safetensors")
    return state


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
