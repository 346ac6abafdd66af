"""Read weights from a file without unpickling objects, and load them into a module."""

from __future__ import annotations

import argparse
import pathlib
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from edgekit.errors import ModelError, printable

State: TypeAlias = Mapping[str, Tensor]
Fit: TypeAlias = Callable[[State, State], "Fitting | None"]
"""Weights and a model's own state -> the weights as that model takes them, and notes; None where they do not fit."""
_REMEDY = "save model.state_dict() with torch.save or as safetensors"
_OTHER = "use weights of this model"
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Names that PyTorch's wrappers put into keys, wherever the wrapped module is."""
_COUNTER = "num_batches_tracked"  # inference does not read it
_DEPTH = 3  # of nested state_dicts
# data without behaviour that training scripts put beside the weights
_PLAIN = (argparse.Namespace, pathlib.PosixPath, np.dtype, type(np.dtype("f4")), type(np.dtype("f8")), type(np.dtype("i8")))


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights into ``model`` from safetensors, or from a state_dict read with ``weights_only=True``.

    Raises ModelError if the file cannot be read safely, or if its names or shapes differ from the model's.
    """
    _load(model, path, _whole(_read(path), path))


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
    fitting = _fitting(_read(path), model.state_dict(), path, key, fit)
    _load(model, path, fitting.state)
    return fitting.notes


def split_key(file: str) -> tuple[Path, str]:
    """``FILE:KEY`` -> path and key; the key is empty where the whole text is the path of a file."""
    path, colon, key = file.rpartition(":")
    return (Path(path), key) if colon and not Path(file).is_file() and Path(path).is_file() else (Path(file), "")


def weights_bytes(model: nn.Module) -> bytes:
    """The model's state as safetensors; the same weights give the same bytes."""
    # clones: safetensors refuses tensors that share memory
    return save(
        {
            key: tensor.detach().cpu().contiguous().clone()
            for key, tensor in model.state_dict().items()
            if isinstance(tensor, Tensor)
        }
    )


_OF_OPTIMIZER = re.compile(r"optim|exp_avg|momentum|grad|sched", re.IGNORECASE)
"""Names under which a checkpoint keeps what a training needs and a network does not."""


class _Part(NamedTuple):
    """One state_dict of a checkpoint: at ``place`` in its nested dicts; ``prefix`` was cut from its keys."""

    place: tuple[str, ...]
    prefix: str
    state: State
    fitting: Fitting

    @property
    def key(self) -> str:
        """What ``--weights FILE:KEY`` calls this part."""
        return ".".join((*self.place, self.prefix.rstrip("."))).strip(".")


def _fitting(content: Any, own: State, path: Path, key: str, fit: Fit) -> Fitting:
    parts = [part for part in _parts(content, own, fit) if not key or part.key == key or ".".join(part.place) == key]
    if not parts:
        keys = sorted({".".join(place) for place, _ in _dicts(content) if place})
        named = f"; it has {', '.join(keys)}" if keys else ""
        if key and key not in keys:
            raise ModelError(f"weights {path} hold no state_dict {key!r} that fits the model{named}", "check the key")
        found = [state for place, state in _dicts(content) if not key or ".".join(place) == key]
        if not found:
            raise ModelError(f"weights {path} hold no state_dict", _REMEDY)
        raise _misfit(max(found, key=lambda state: _overlap(state, own)), own, path)
    if len({part.key for part in parts}) > 1:
        keys = [part.key or "the file itself" for part in parts]
        raise ModelError(
            f"weights {path} hold {len(parts)} sets that fit the model: {', '.join(keys)}",
            f"say which: --weights {path}:{parts[-1].key}",
        )
    fitting = parts[0].fitting
    return Fitting(fitting.state, (*_notes(parts[0], content, own, path), *fitting.notes))


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


def _parts(content: Any, own: State, fit: Fit) -> Iterator[_Part]:
    """The parts of a checkpoint that fit the model."""
    for place, state in _dicts(content):
        for prefix, part in (*_without_prefixes(state), *_beside_a_copy(state, own)):
            fitting = fit(part, own)
            if fitting is not None:
                yield _Part(place, prefix, part, fitting)


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
        raise ModelError(f"the weights hold {both!r} and {_unwrapped(both)!r}, which are one tensor of the model", _REMEDY)
    if bare.keys() != state.keys():
        yield "", bare
    prefixes = {key[: index + 1] for key in bare for index, letter in enumerate(key) if letter == "."}
    for prefix in sorted(prefixes, key=len):
        yield prefix, {key.removeprefix(prefix): value for key, value in bare.items() if key.startswith(prefix)}


def _unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def same_names(state: State, own: State) -> bool:
    """Whether both have the same tensors, counters aside."""
    return {key for key in state if not _is_counter(key)} == {key for key in own if not _is_counter(key)}


def fits_at(key: str, state: State, own: State) -> bool:
    """Whether the tensor ``key`` has the model's shape and a dtype that can become the model's, or is a missing counter."""
    return key not in state or (state[key].shape == own[key].shape and _convertible(state[key], own[key]))


def _convertible(value: Tensor, own: Tensor) -> bool:
    return value.is_floating_point() == own.is_floating_point() and not value.is_quantized


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == _COUNTER


def with_counters(state: State, own: State) -> State:
    """The state with exactly the model's counters."""
    return {key: state.get(key, value) for key, value in own.items()}


def _notes(part: _Part, content: Any, own: State, path: Path) -> Iterator[str]:
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
        yield f"{len(others)} of the file's tensors are not of this model: {_some(sorted(others))}"
    missing = [key for key in own if _is_counter(key) and key not in part.state]
    if missing:
        yield f"{len(missing)} {_COUNTER} are not in the weights; inference does not read them"
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
    own = model.state_dict()
    if set(own) != set(state) or any(state[key].shape != value.shape for key, value in own.items()):
        raise _misfit(state, own, path)
    trained = {name for name, _ in model.named_parameters()} | {
        key for key in own if key.endswith(("running_mean", "running_var"))
    }
    broken = next((key for key in own if key in trained and not state[key].isfinite().all()), None)  # a mask may hold -inf
    if broken is not None:
        raise ModelError(f"weights {path}: {broken} is not finite", "use weights of a training that went well")
    versioned = OrderedDict(state)
    versioned._metadata = getattr(own, "_metadata", {})  # type: ignore[attr-defined]  # some modules read their version
    try:
        model.load_state_dict(versioned)
    except Exception as problem:
        raise ModelError(f"weights {path} do not fit the model: {problem}", _OTHER) from problem


def _misfit(state: State, own: State, path: Path) -> ModelError:
    """The error for weights that do not fit, told of the prefix under which most names agree."""
    state = max((part for _, part in _without_prefixes(state)), key=lambda part: _overlap(part, own))
    missing = sorted(key for key in set(own) - set(state) if not _is_counter(key))
    unknown = sorted(key for key in set(state) - set(own) if not _is_counter(key))
    fault = f"weights {path} do not fit the model: "
    if missing or unknown:
        parts = [f"lacks {_some(missing)}"] if missing else []
        parts += [f"has unknown {_some(unknown)}"] if unknown else []
        return ModelError(f"{fault}the file {' and '.join(parts)}", _OTHER)
    for key, value in own.items():
        if key in state and state[key].shape != value.shape:
            return ModelError(
                f"{fault}{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} in the model", _OTHER
            )
        if key in state and not _convertible(state[key], value):
            return ModelError(f"{fault}{key} is {_dtype(state[key])} in the file and {_dtype(value)} in the model", _OTHER)
    return ModelError(f"{fault}the file lacks {_some(sorted(set(own) - set(state)))}", _OTHER)


def _overlap(state: State, own: State) -> int:
    return len(set(state) & set(own))


def _whole(content: Any, path: Path) -> State:
    states = [state for place, state in _dicts(content) if place in ((), ("state_dict",))]
    state = max(states, key=len, default=None)  # beside a state_dict a training keeps a number or two
    if state is None:
        raise ModelError(f"weights {path} hold no state_dict", _REMEDY)
    return state


def _read(path: Path) -> Any:
    """The file's content: tensors in nested dicts, beside plain data; raises ModelError that says what else the file is."""
    if not path.is_file():
        raise ModelError(f"weights {path} do not exist", "check the path")
    if path.suffix == ".safetensors":
        try:
            # a file is mapped, not read; safetensors opens only names that are UTF-8
            return load_file(path) if printable(str(path)) == str(path) else load(path.read_bytes())
        except (SafetensorError, OSError, ValueError) as problem:
            raise ModelError(f"weights {path} are not valid safetensors: {problem}", "make the file again") from None
    kind = _archive(path)
    if kind is not None:
        raise ModelError(f"weights {path} are {kind[0]}, not a state_dict", kind[1])
    try:
        with torch.serialization.safe_globals([*_PLAIN, np._core.multiarray.scalar]):  # type: ignore[attr-defined]
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch's message goes on to suggest an unsafe load, so it is not shown
        raise ModelError(f"weights {path} cannot be loaded safely: {_what_it_is(path)}", _REMEDY) from None


def _archive(path: Path) -> tuple[str, str] | None:
    """What a zip archive holds other than a state_dict, and what to give instead; None for one of torch.save."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return None
    if "constants.pkl" in names:
        return "a TorchScript archive", f"take them out: torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
    if "archive_format" in names or "serialized_exported_program.json" in names or "models/model.json" in names:
        return (
            "an archive of torch.export",
            f"take them out: torch.save(torch.export.load({path.name!r}).state_dict, 'weights.pth')",
        )
    if "data.pkl" not in names:
        return "a zip archive", _REMEDY
    return None


def _what_it_is(path: Path) -> str:
    """Why torch refuses the file: the classes of the objects in it, or that it is damaged."""
    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a file that torch cannot take apart is damaged, whatever it raises
        classes = []
    if classes:
        return f"the file holds pickled objects besides tensors ({_some(sorted(classes))})"
    return "the file is damaged, or no file of torch.save"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
