"""Read weights from a file without unpickling objects, and load them into a module."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from safetensors.torch import save
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.spellings import COUNTER, Spellings, State, check_tied, is_counter, with_counters
from edgekit.models.weight_files import REMEDY, read_weights, some, split_key
from edgekit.spelling import did_you_mean

Fit: TypeAlias = Callable[[State, State], "Fitting | None"]
"""Weights and a model's own state -> the weights as that model takes them, and notes; None where they do not fit."""
_OTHER = "use weights of this model"
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Names that PyTorch's wrappers put into keys, wherever the wrapped module is."""
_DEPTH = 3  # of nested state_dicts


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights into ``model`` from safetensors, or from a state_dict read with ``weights_only=True``.

    Raises ModelError if the file cannot be read safely, or if its names or shapes differ from the model's.
    """
    _load(model, path, _whole(read_weights(path), path))


class Fitting(NamedTuple):
    """Weights with the keys and shapes of a model, and notes on what was done to them."""

    state: State
    notes: tuple[str, ...] = ()


def exactly(state: State, own: State) -> Fitting | None:
    """The weights with the model's own counters where they have none, if all else is of one name and shape."""
    return Fitting(with_counters(state, own)) if same_names(state, own) and all(fits_at(key, state, own) for key in own) else None


def load_checkpoint(model: nn.Module, file: str, fit: Fit = exactly) -> tuple[str, ...]:
    """Load the weights of a checkpoint as training scripts write them; ``file`` is a path, or ``path:key`` of one state_dict.

    Returns a note on each step that the weights needed (a nested state_dict, a prefix, missing counters, another dtype), and the
    notes of ``fit``. Raises ModelError if the file cannot be read safely, or if not exactly one part of it fits ``model``.
    """
    path, key = split_key(file)
    fitting = _fitting(read_weights(path), _tensors(model.state_dict()), path, key, fit)
    _load(model, path, fitting.state)
    return fitting.notes


def weights_bytes(model: nn.Module) -> bytes:
    """The model's state as safetensors; the same weights give the same bytes."""
    # clones: safetensors refuses tensors that share memory
    return save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in _tensors(model.state_dict()).items()})


_OF_OPTIMIZER = re.compile(r"optim|exp_avg|momentum|grad|sched", re.IGNORECASE)
"""Names under which a checkpoint keeps what a training needs and a network does not."""


class _Candidate(NamedTuple):
    """One state_dict of a checkpoint: at ``place`` in its nested dicts; ``prefix`` was cut from its keys."""

    place: tuple[str, ...]
    prefix: str
    state: State

    @property
    def key(self) -> str:
        """What ``--weights FILE:KEY`` calls this part."""
        return ".".join((*self.place, self.prefix.rstrip("."))).strip(".")

    def is_meant_by(self, key: str) -> bool:
        """Whether ``key`` names this part, or the dict that it lies in; an empty key names all."""
        return not key or key in (self.key, ".".join(self.place))


class _Part(NamedTuple):
    """A candidate that fits the model."""

    candidate: _Candidate
    fitting: Fitting


def _fitting(content: Any, own: State, path: Path, key: str, fit: Fit) -> Fitting:
    candidates = [candidate for candidate in _candidates(content, own, key) if candidate.is_meant_by(key)]
    if not candidates:
        raise _no_part(content, own, path, key)
    parts, refusals = _parts(candidates, own, fit)
    if not parts:
        raise refusals[0] if refusals else _misfit(max(candidates, key=lambda each: _overlap(each.state, own)).state, own, path)
    if len({part.candidate.key for part in parts}) > 1:
        keys = [part.candidate.key or "the file itself" for part in parts]
        raise ModelError(
            f"weights {path} hold {len(parts)} sets that fit the model: {', '.join(keys)}",
            f"say which: --weights {path}:{parts[-1].candidate.key}",
        )
    candidate, fitting = parts[0]
    check_tied(fitting.state, own)
    return Fitting(fitting.state, (*_notes(candidate, content, own, path), *fitting.notes))


def _no_part(content: Any, own: State, path: Path, key: str) -> ModelError:
    """The error for a file without a state_dict, or without the one that is meant."""
    if not any(_dicts(content)):
        return ModelError(f"weights {path} hold no state_dict", REMEDY)
    keys = list(dict.fromkeys(each.key for each in _candidates(content, own) if each.key and _overlap(each.state, own)))
    keys = keys or sorted({".".join(place) for place, _ in _dicts(content) if place})
    if not keys:
        return ModelError(f"weights {path} hold no {key!r}: the file is one state_dict", "leave the key out")
    return ModelError(f"weights {path} hold no {key!r}; they hold {some(keys, 12)}", f"check the key{did_you_mean(key, keys)}")


def _parts(candidates: Sequence[_Candidate], own: State, fit: Fit) -> tuple[list[_Part], list[ModelError]]:
    """The candidates that fit the model, and why others that nearly do are refused."""
    parts, refusals, spellings = list[_Part](), list[ModelError](), Spellings(own)
    for candidate in candidates:
        spelt = spellings.spelt(candidate.state)
        try:
            fitting = fit(spelt.state, own)
        except ModelError as problem:
            refusals.append(problem)
            continue
        if fitting is not None:
            parts.append(_Part(candidate, Fitting(fitting.state, (*spelt.notes, *fitting.notes))))
    return parts, refusals


def _dicts(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], State]]:
    """The tensors of every nested dict by name, with its place: the state_dicts of a checkpoint.

    What is beside them, such as an epoch, is left out. An optimizer keeps tensors of the weights' own shapes: they are none.
    """
    if not isinstance(content, Mapping) or len(place) > _DEPTH or (place and _OF_OPTIMIZER.match(place[-1])):
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for name, value in named.items():
        yield from _dicts(value, (*place, name))


def _candidates(content: Any, own: State, key: str = "") -> Iterator[_Candidate]:
    """Every state_dict of a checkpoint, as it is and without each prefix of its names; of those that ``key`` may name."""
    for place, state in _dicts(content):
        name = ".".join(place)
        if not key or not name or key == name or key.startswith(f"{name}."):
            for prefix, part in (*_without_prefixes(state), *_beside_a_copy(state, own)):
                yield _Candidate(place, prefix, part)


def _beside_a_copy(state: State, own: State) -> Iterator[tuple[str, State]]:
    """The model's own names, where a copy of all of them under one prefix, such as an average, is all that is beside them."""
    bare = {key: value for key, value in state.items() if key in own}
    prefixes = {key.partition(".")[0] for key in state if key not in own}
    if len(prefixes) == 1 and {f"{prefix}.{key}" for prefix in prefixes for key in bare} >= state.keys() - bare.keys():
        yield "", bare


def _without_prefixes(state: State) -> Iterator[tuple[str, State]]:
    """The state as it is, then the keys below each prefix, without it and without the names of wrappers."""
    yield "", state
    bare = {_unwrapped(key): value for key, value in state.items()}
    if len(bare) < len(state):
        both = next(key for key in state if key != _unwrapped(key) and _unwrapped(key) in state)
        raise ModelError(f"the weights hold {both!r} and {_unwrapped(both)!r}, which are one tensor of the model", REMEDY)
    if bare.keys() != state.keys():
        yield "", bare
    prefixes = {key[: index + 1] for key in bare for index, letter in enumerate(key) if letter == "."}
    for prefix in sorted(prefixes, key=len):
        yield prefix, {key.removeprefix(prefix): value for key, value in bare.items() if key.startswith(prefix)}


def _unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def same_names(state: State, own: State) -> bool:
    """Whether both have the same tensors, counters aside."""
    return {key for key in state if not is_counter(key)} == {key for key in own if not is_counter(key)}


def fits_at(key: str, state: State, own: State) -> bool:
    """Whether the tensor ``key`` has the model's shape and a dtype that can become the model's, or is a counter."""
    if is_counter(key):
        return True
    return key in state and state[key].shape == own[key].shape and _convertible(state[key], own[key])


def _convertible(value: Tensor, own: Tensor) -> bool:
    return value.is_floating_point() == own.is_floating_point() and not value.is_quantized


def _notes(part: _Candidate, content: Any, own: State, path: Path) -> Iterator[str]:
    if part.place:
        yield f"the weights are {'.'.join(part.place)!r} of {path.name}"
    original = dict(_dicts(content))[part.place]
    if part.prefix:
        yield f"the prefix {part.prefix!r} was cut from the weights' names"
    wrappers = sorted({name for key in original for name in key.split(".") if name in _WRAPPERS})
    if wrappers and not same_names(original, own):
        yield f"the wrapper's name {', '.join(wrappers)} was cut from the weights' names"
    others = [key for key in original if not _unwrapped(key).startswith(part.prefix)]
    if others:
        yield f"{len(others)} of the file's tensors are not of this model: {some(sorted(others))}"
    missing = [key for key in own if is_counter(key) and key not in part.state]
    if missing:
        yield f"{len(missing)} {COUNTER} are not in the weights; inference does not read them"
    dtypes = sorted(
        {
            f"{_dtype(value)} became {_dtype(own[key])}"
            for key, value in part.state.items()
            if key in own and value.is_floating_point() and value.dtype != own[key].dtype
        }
    )
    if dtypes:
        yield f"the weights' {' and '.join(dtypes)}, as the model has it"


def _load(model: nn.Module, path: Path, state: State) -> None:
    whole = model.state_dict()
    own = _tensors(whole)
    if set(own) != set(state) or any(state[key].shape != value.shape for key, value in own.items()):
        raise _misfit(state, own, path)
    trained = {name for name, _ in model.named_parameters()} | {
        key for key in own if key.endswith(("running_mean", "running_var"))
    }
    # as the model's dtype, because PyTorch lacks it for 8 bits; a mask may hold -inf
    broken = next((key for key in own if key in trained and not state[key].to(own[key].dtype).isfinite().all()), None)
    if broken is not None:
        raise ModelError(f"weights {path}: {broken} is not finite", "use weights of a training that went well")
    others = {key: value for key, value in whole.items() if key not in own}  # of get_extra_state()
    versioned = OrderedDict({**state, **others})
    versioned._metadata = getattr(whole, "_metadata", {})  # type: ignore[attr-defined]  # some modules read their version
    try:
        model.load_state_dict(versioned)
    except Exception as problem:
        raise ModelError(f"weights {path} do not fit the model: {problem}", _OTHER) from problem


def _misfit(state: State, own: State, path: Path) -> ModelError:
    """The error for weights that do not fit, told of the prefix under which most names agree."""
    state = max((part for _, part in _without_prefixes(state)), key=lambda part: _overlap(part, own))
    state = Spellings(own).spelt(state).state
    missing = sorted(key for key in set(own) - set(state) if not is_counter(key))
    unknown = sorted(key for key in set(state) - set(own) if not is_counter(key))
    fault = f"weights {path} do not fit the model: "
    if missing or unknown:
        parts = [f"lacks {some(missing)}"] if missing else []
        parts += [f"has unknown {some(unknown)}"] if unknown else []
        return ModelError(f"{fault}the file {' and '.join(parts)}", _OTHER)
    for key, value in own.items():
        if key in state and state[key].shape != value.shape:
            return ModelError(
                f"{fault}{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} in the model", _OTHER
            )
        if key in state and not _convertible(state[key], value):
            return ModelError(f"{fault}{key} is {_dtype(state[key])} in the file and {_dtype(value)} in the model", _OTHER)
    return ModelError(f"{fault}the file lacks {some(sorted(set(own) - set(state)))}", _OTHER)


def _tensors(state: Mapping[str, Any]) -> State:
    """What a file of tensors can hold of a state; a module's ``get_extra_state()`` may be any object."""
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _overlap(state: State, own: State) -> int:
    return len(set(state) & set(own))


def _whole(content: Any, path: Path) -> State:
    states = [state for place, state in _dicts(content) if place in ((), ("state_dict",))]
    state = max(states, key=len, default=None)  # beside a state_dict a training keeps a number or two
    if state is None:
        raise ModelError(f"weights {path} hold no state_dict", REMEDY)
    return state


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
