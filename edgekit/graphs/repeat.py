"""Find out whether a model's outputs depend on its inputs alone.

Random operators are found in one run: by what takes numbers from a generator, and what is computed of these. Everything else is
found by running twice and comparing every operator. A traced graph holds one run; a model that draws random numbers, reads the
clock or keeps state computes another in the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekit.errors import ModelError
from edgekit.graphs.trace import TRACED_BATCH, flat_outputs, frozen_copy, named_outputs, own_copies, tensors_of, written_inputs
from edgekit.tensors import TensorSpec, normalised_error
from edgekit.tolerance import finite_scale

_SAME = 1e-6  # error of scale: threads may add in another order
_ALONE = "let the outputs of forward() depend on its inputs alone"


class _Call(NamedTuple):
    """One operator of a run: its place in the model, its numbers, and hashes of what went in and out (if they were taken)."""

    operator: str
    place: str
    numbers: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    random: bool

    def __str__(self) -> str:
        return f"{self.operator} in {self.place}" if self.place else self.operator


def check_repeatable(model: nn.Module, inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Run a copy of ``model`` twice; returns notes on inputs that it writes to and on outputs that are None.

    Raises ModelError that names the operator if an output depends on random numbers, however small or seldom, or if the second
    run computes something else.
    """
    example = tensors_of(inputs, TRACED_BATCH)
    frozen = frozen_copy(model, example).module
    first = _Run(frozen, example)
    if first.random is not None:
        raise _random(first.random)
    second = _Run(frozen, example)
    if first.numbers() != second.numbers() or _apart(first.outputs, second.outputs):
        raise _unrepeatable(frozen, example)
    notes = [f"forward() writes to its input {inputs[index].name!r}: every run gets a copy of its own" for index in first.written]
    notes += [f"output {name!r} is None and was left out" for name in first.none]
    return tuple(notes)


class _Run:
    """One inference on a copy of ``example``, with every operator recorded; with ``hashed``, what went in and out of it too."""

    def __init__(self, model: nn.Module, example: tuple[Tensor, ...], *, hashed: bool = False) -> None:
        given = own_copies(example)
        with torch.inference_mode(), _places(model) as place, _Recorder(place, hashed) as recorder:
            result = model(*given)
        self.calls = recorder.calls
        self.random = next(filter(None, map(recorder.random_in, named_outputs(result).values())), recorder.escaped)
        self.outputs = {name: tensor.detach().clone() for name, tensor in named_outputs(result).items()}
        self.written = written_inputs(example, given)
        self.none = [name for name, value in flat_outputs(result) if value is None]

    def numbers(self) -> list[tuple[str, tuple[Any, ...]]]:
        """What the run did, apart from the tensors' values."""
        return [(call.operator, call.numbers) for call in self.calls]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator that is called, and follows what comes from random ones.

    ``escaped`` is the random operator whose numbers Python has read, or None.
    """

    def __init__(self, place: list[str], hashed: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Call] = []
        self.escaped: _Call | None = None
        self._place, self._hashed = place, hashed
        self._random: dict[int, tuple[Tensor, _Call]] = {}  # memory -> a tensor that keeps it, and the operator it comes from
        self._unset: dict[int, Tensor] = {}  # memory that nobody has written to

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operator, and record it."""
        options = kwargs or {}
        values = torch.utils._pytree.tree_leaves((args, options))
        going_in = self._hashes(values)
        before = _generator_state(func, options)
        result = func(*args, **options)
        written = [value for value in values if isinstance(value, Tensor)] if func._schema.is_mutable else []
        coming_out = [value for value in torch.utils._pytree.tree_leaves(result) if isinstance(value, Tensor)]
        for value in written:
            self._unset.pop(_memory(value), None)
        if func.overloadpacket in _EMPTY:
            self._unset |= {_memory(value): value for value in coming_out if _memory(value)}
        call = _Call(
            str(func.overloadpacket),
            self._place[-1],
            tuple(repr(value) for value in values if isinstance(value, (bool, int, float, complex, str))),
            going_in,
            self._hashes(coming_out),
            before is not None and not torch.equal(before, _state_of(options)),
        )
        self.calls.append(call)
        self._follow(call, values, [*written, *coming_out])
        return result

    def random_in(self, value: Tensor) -> _Call | None:
        """The random operator that ``value`` comes from, or None."""
        return self._random[_memory(value)][1] if _memory(value) in self._random else None

    def _follow(self, call: _Call, values: Sequence[Any], outputs: Sequence[Tensor]) -> None:
        sources = (self.random_in(value) for value in values if isinstance(value, Tensor)) if self._random else ()
        source = call if call.random else next(filter(None, sources), None)
        if source is not None:
            self._random |= {_memory(value): (value, source) for value in outputs if _memory(value)}
            if not outputs and not call.random:
                self.escaped = self.escaped or source

    def _hashes(self, values: Sequence[Any]) -> tuple[int, ...]:
        if not self._hashed:
            return ()
        return tuple(0 if _memory(value) in self._unset else _hash(value) for value in values if isinstance(value, Tensor))


aten = torch.ops.aten
_EMPTY = (aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided)


def _memory(tensor: Tensor) -> int:
    """Where the tensor's numbers lie; 0 for a tensor without, or a sparse one."""
    return tensor.untyped_storage().data_ptr() if tensor.numel() and tensor.layout is torch.strided else 0


def _generator_state(func: Any, options: dict[str, Any]) -> Tensor | None:
    """The state of the generator that an operator may take numbers from; None for an operator that takes none."""
    return _state_of(options) if torch.Tag.nondeterministic_seeded in func.tags else None


def _state_of(options: dict[str, Any]) -> Tensor:
    generator = options.get("generator")
    return torch.get_rng_state() if generator is None else generator.get_state().clone()


def _hash(tensor: Tensor) -> int:
    return hash((tuple(tensor.shape), tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()))


@contextmanager
def _places(model: nn.Module) -> Iterator[list[str]]:
    """A stack whose last element is the path of the module that runs, while the context is open."""
    stack, handles = [""], []
    for path, module in model.named_modules():

        def enter(module: nn.Module, args: Any, path: str = path) -> None:
            stack.append(path)

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            stack.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def _apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        return True
    pairs = [(first[name].double().numpy(), second[name].double().numpy()) for name in first]
    return any(
        not normalised_error(new, old, scale=finite_scale(old) or 1.0) <= _SAME and old.tobytes() != new.tobytes()
        for old, new in pairs
    )


def _unrepeatable(model: nn.Module, example: tuple[Tensor, ...]) -> ModelError:
    """The error that names the first operator in which two runs differ, and why."""
    stored = _stored(model)
    first = _Run(model, example, hashed=True)
    changed = [name for name, value in _stored(model).items() if stored.get(name) != value]
    second = _Run(model, example, hashed=True)
    for old, new in zip(first.calls, second.calls, strict=False):
        if old == new:
            continue
        if old.random and (old.operator, old.inputs, old.numbers) == (new.operator, new.inputs, new.numbers):
            return _random(old)
        if changed:
            break
        if old.operator != new.operator:
            return ModelError(f"forward() took another way the second time: {old}, then {new}", _ALONE)
        if old.numbers != new.numbers:
            before, after = next(pair for pair in zip(old.numbers, new.numbers, strict=False) if pair[0] != pair[1])
            return ModelError(
                "forward() depends on more than its inputs, such as the clock or Python's random numbers: "
                f"{old} was given {before}, then {after}",
                _ALONE,
            )
        return ModelError(f"forward() does not repeat: {old} computed something else the second time", _ALONE)
    if changed:
        return ModelError(
            f"forward() keeps state from run to run: it changes {changed[0]!r}, and its outputs depend on it, first in {old}",
            _ALONE,
        )
    return ModelError("forward() computed other outputs the second time", _ALONE)


def _random(call: _Call) -> ModelError:
    return ModelError(
        f"forward() draws random numbers in inference mode: {call}",
        "switch that off there, as F.dropout(x, p, self.training) does",
    )


def _stored(model: nn.Module) -> dict[str, Any]:
    """Hashes of everything stored in the modules by name: parameters, buffers, and plain numbers and tensors in attributes."""
    stored: dict[str, Any] = {}
    for path, module in model.named_modules():
        own = {**module._parameters, **module._buffers, **vars(module)}
        for name, value in own.items():
            if isinstance(value, Tensor):
                stored[f"{path}.{name}".lstrip(".")] = _hash(value)
            elif isinstance(value, (bool, int, float, str)):
                stored[f"{path}.{name}".lstrip(".")] = value
            elif isinstance(value, (list, dict)) and not name.startswith("_"):
                stored[f"{path}.{name}".lstrip(".")] = len(value)
    return stored
