"""Weights as a model spells them: norms of weights under their old and new names, tied tensors under one name, counters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from torch import Tensor

from edgekit.errors import ModelError

State: TypeAlias = Mapping[str, Tensor]
COUNTER = "num_batches_tracked"  # inference does not read it
_PARTS = {"original0": "_g", "original1": "_v", "original": "_orig", "0._u": "_u", "0._v": "_v"}
"""What ``torch.nn.utils.parametrizations`` calls the parts of ``weight_norm`` and ``spectral_norm``, and what ``utils`` does."""
_NEW = re.compile(r"(?P<path>(?:.+\.)?)parametrizations\.(?P<name>[^.]+)\.(?P<part>original0|original1|original|0\._u|0\._v)")
_OLD = re.compile(r"(?P<path>(?:.+\.)?)(?P<name>[^.]+)(?P<part>_g|_v|_orig|_u)")


class Spelt(NamedTuple):
    """A file's weights with the names of a model, and notes on what was renamed or taken twice."""

    state: State
    notes: tuple[str, ...] = ()


class Spellings:
    """The names of a model's ``own`` tensors, and what files may call them."""

    def __init__(self, own: State) -> None:
        self._others = {key: tuple(other for other in _spellings(key) if other not in own) for key in own}
        self._tied = _tied(own)

    def spelt(self, state: State) -> Spelt:
        """The weights ``state`` with the model's names; a tensor that the model has under several names gets all of them."""
        named = [(key, next((other for other in others if other in state), "")) for key, others in self._others.items()]
        names = {other: key for key, other in named if other and key not in state}
        notes = []
        if names:
            state = {names.get(key, key): value for key, value in state.items()}
            first = next(iter(names))
            notes.append(f"{len(names)} of the weights have another name in the model, like {first}: {names[first]}")
        for keys in self._tied:
            held = [key for key in keys if key in state]
            lacking = [key for key in keys if key not in state]
            if held and lacking:
                state = {**state, **dict.fromkeys(lacking, state[held[0]])}
                notes.append(f"{', '.join(lacking)} is {held[0]}, and the file holds it under that name only")
        return Spelt(state, tuple(notes))


def check_tied(state: State, own: State) -> None:
    """Raise ModelError where a file holds two tensors for one of the model."""
    for first, *others in _tied(own):
        for other in others:
            if not (state[first].shape == state[other].shape and bool((state[first].double() == state[other].double()).all())):
                raise ModelError(
                    f"the weights hold different numbers for {first} and {other}, which are one tensor of the model",
                    "build the model without sharing them, or use weights of this model",
                )


def _spellings(key: str) -> Iterator[str]:
    """Other names that PyTorch gives to the part of a normed weight that a model calls ``key``."""
    new, old = _NEW.fullmatch(key), _OLD.fullmatch(key)
    if new:
        yield f"{new['path']}{new['name']}{_PARTS[new['part']]}"
    elif old:
        for part in (part for part, suffix in _PARTS.items() if suffix == old["part"]):
            yield f"{old['path']}parametrizations.{old['name']}.{part}"


def _tied(own: State) -> list[list[str]]:
    """The names of each tensor that a model holds under several."""
    places: dict[tuple[object, ...], list[str]] = {}
    for key, value in own.items():
        if isinstance(value, Tensor) and value.numel() and value.device.type != "meta":
            places.setdefault((value.data_ptr(), tuple(value.shape), value.stride(), value.dtype), []).append(key)
    return [keys for keys in places.values() if len(keys) > 1]


def is_counter(key: str) -> bool:
    """Whether a tensor is a count of batches."""
    return key.rpartition(".")[2] == COUNTER


def with_counters(state: State, own: State) -> State:
    """The state with exactly the model's counters, each of the model's shape; a counter of several numbers is the model's own."""
    return {key: _counter(state, key, value) if is_counter(key) else state[key] for key, value in own.items()}


def _counter(state: State, key: str, own: Tensor) -> Tensor:
    value = state.get(key, own)
    return value.reshape(own.shape).to(own.dtype) if value.numel() == own.numel() else own
