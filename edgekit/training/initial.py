"""Hashes of a model as its factory built it: a file that the factory reads shows in the model, or has no effect."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import FunctionType, SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, np.generic, enum.Enum, torch.dtype, torch.device, type(None), range, slice)
_OF_ATTRIBUTES = (nn.Module, SimpleNamespace, argparse.Namespace)
_OF_TORCH = frozenset(nn.Module().__dict__)
"""Attributes that every module has: its state and its modules, hashed by their names, and hooks, whose numbers grow."""


def state_sha256(model: nn.Module) -> str:
    """A hash of names, types, shapes and values of the model's state."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {_tensor(tensor)}".encode())
    return digest.hexdigest()


def structure_sha256(model: nn.Module) -> str:
    """A hash of the model's modules by name: their classes and what they keep as attributes, like a rate of dropout."""
    modules = [(name, _told(module, ())) for name, module in model.named_modules()]
    return hashlib.sha256(repr(modules).encode()).hexdigest()


def _told(value: Any, above: tuple[int, ...]) -> Any:
    """A value in terms that are the same in every process; of objects that are none of a model's settings only the type."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, _PLAIN) or id(value) in above:
        return kind, repr(value) if isinstance(value, _PLAIN) else ""
    parts = next(parts for kinds, parts in _PARTS if isinstance(value, kinds))
    return kind, [_told(part, (*above, id(value))) for part in parts(value)]


def _settings(value: Any) -> dict[str, Any]:
    if isinstance(value, _OF_ATTRIBUTES):
        torchs = _OF_TORCH if isinstance(value, nn.Module) else frozenset[str]()
        return {name: item for name, item in vars(value).items() if name not in torchs}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return {}


def _of_function(function: FunctionType) -> tuple[Any, ...]:
    """Its name, its defaults, and what it keeps of the function around it."""
    with suppress(ValueError):  # of a variable that was never given a value
        return (
            function.__module__,
            function.__qualname__,
            function.__defaults__,
            [cell.cell_contents for cell in function.__closure__ or ()],
        )
    return function.__module__, function.__qualname__


def _tensor(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(content.data).hexdigest()}"


_PARTS: tuple[tuple[type | tuple[type, ...], Callable[[Any], Iterable[Any]]], ...] = (
    (Tensor, lambda tensor: (_tensor(tensor),)),
    (np.ndarray, lambda array: (array.dtype.str, array.tolist())),
    (Mapping, lambda mapping: mapping.items()),
    ((list, tuple), lambda items: items),
    ((set, frozenset), lambda items: sorted(repr(_told(item, ())) for item in items)),
    (functools.partial, lambda partial: (partial.func, partial.args, partial.keywords)),
    (FunctionType, _of_function),
    (type, lambda kind: (kind.__module__, kind.__qualname__)),
    (object, lambda value: _settings(value).items()),
)
"""What a value of a type consists of; the first row that fits counts."""
