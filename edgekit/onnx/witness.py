"""ONNX Runtime as the witness of the float64 values: a node is believed if rounding explains what the two differ by.

A node is compared in place first, and if it differs there, alone: its kernel gets ONNX Runtime's own input values, so that no
node before it counts. A kernel that disagrees alone is replaced by the next one for this node.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekit.errors import ModelError
from edgekit.onnx.evaluator import Step
from edgekit.onnx.exact import ExactFile, Moment
from edgekit.onnx.refusal import Inexact, Unhandled
from edgekit.onnx.rounding import rounding_limit, rounding_unit
from edgekit.onnx.run import open_every_value
from edgekit.onnx.widen import inlined, is_float, widen_array
from edgekit.tensors import Array, Feed

_DRAWS, _WIDENING = 2, 8.0  # an error may be so many times what moving the inputs by a unit moves the output
_CROSSINGS = 16  # draws after which hardly a place on a step has not crossed it
_FINER, _LESS = 16, 4  # inputs moved so many times less move a continuous output at least so many times less
_ROUNDS_NOTHING = frozenset(
    {"Abs", "ArgMax", "ArgMin", "Ceil", "Clip", "Concat", "Equal", "Expand", "Flatten", "Floor", "Gather", "GatherElements",
     "GatherND", "Greater", "GreaterOrEqual", "Hardmax", "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual", "Max", "MaxPool",
     "Min", "Neg", "NonZero", "Not", "OneHot", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "Round", "ScatterElements",
     "ScatterND", "Sign", "Slice", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where"}
)  # fmt: skip
"""Operators that pick, move or step: given the same numbers, two right kernels of one give the same numbers in any dtype."""


class RuntimeWitness:
    """Compares every node of the first ``samples`` samples with ONNX Runtime; ``kernels`` says which kernel was believed.

    ``kernels`` maps a node's first output to the place of its kernel; nodes that are absent have the first. ``overflow`` is the
    first node that was seen to overflow float16; empty if none was.
    """

    def __init__(self, model: onnx.ModelProto, path: Path, samples: int = 2) -> None:
        self.samples = samples
        self.kernels: dict[str, int] = {}
        self.overflow = ""
        self._model, self._path = model, path
        self._feed: dict[str, Array] = {}
        self._theirs: dict[str, Array] = {}
        self._file: ExactFile | None = None
        self._run: Any = None

    def believed(self) -> RuntimeWitness:
        """A witness that asks nobody and has the same kernels, for a copy of the file."""
        other = RuntimeWitness(self._model, self._path, samples=0)
        other.kernels, other.overflow = self.kernels, self.overflow
        return other

    def hear(self, file: ExactFile, feed: Feed) -> None:
        """Run ``feed`` in ONNX Runtime; raises Inexact if it does not give every node's outputs."""
        try:
            self._run = self._run or open_every_value(inlined(self._model), self._path)
            self._theirs = self._run(feed)
        except ModelError as problem:
            raise Inexact(f"no node can be compared: {problem.reason}") from None
        self._feed, self._file = dict(feed), file

    def leave(self) -> None:
        """Forget ONNX Runtime's values, because no further run is judged."""
        self._run, self._theirs, self._feed, self._file = None, {}, {}, None

    def judge(self, moment: Moment) -> None:
        """Believe the outputs, or replace the kernel and the outputs, or raise Inexact that names the node."""
        step = moment.step
        theirs = {name: self._theirs[name] for name in step.used if name in self._theirs}
        if not self.overflow and any(array.dtype == np.float16 and np.isinf(array).any() for array in theirs.values()):
            read = [array for name in step.reads if (array := self._theirs.get(name, self._feed.get(name))) is not None]
            self.overflow = "" if any(is_float(array) and np.isinf(array).any() for array in read) else step.name
        if self._agree(step, moment.outputs, theirs) <= 1:
            return self._settle(step)
        inputs = self._inputs(step, moment.values)
        worst = np.inf
        for place in range(step.place, len(step.kernels)):
            try:
                alone = step.compute(inputs, place)
                error = self._agree(step, alone, theirs)
                if error > 1 and not self._explained(step, place, inputs, alone, theirs):
                    worst = min(worst, error * self._limit(step, theirs))
                    continue
                moment.outputs.update(step.compute(moment.values, place) if place != step.place else {})
            except Unhandled:
                continue
            step.place = place
            return self._settle(step)
        change = f"differs from ONNX Runtime by {worst:.1e} of its scale"
        if not np.isfinite(worst):
            change = "gives other integers, infinities or shapes than ONNX Runtime"
        raise Inexact(f"node {step.name!r} ({step.op_type}) {change}, given its inputs")

    def _settle(self, step: Step) -> None:
        if step.place:
            self.kernels[step.key] = step.place

    def _inputs(self, step: Step, values: Mapping[str, Any]) -> dict[str, Any]:
        """ONNX Runtime's values of what the node reads, widened."""
        assert self._file is not None
        known = {**self._feed, **self._theirs}
        inputs: dict[str, Any] = {"": None}
        for name in step.reads:
            if name in known:
                inputs[name] = widen_array(known[name])
            elif self._file.holds(name):
                inputs[name] = values[name]
            elif name in step.input and name:
                raise Inexact(f"node {step.name!r} ({step.op_type}) cannot be compared: ONNX Runtime does not show its inputs")
        return inputs

    def _agree(self, step: Step, ours: Mapping[str, Any], theirs: Mapping[str, Array]) -> float:
        """The largest error of an output, in units of the limit."""
        return max((error_of_scale(ours[name], array) for name, array in theirs.items()), default=0.0) / self._limit(step, theirs)

    def _limit(self, step: Step, theirs: Mapping[str, Array]) -> float:
        """The limit of the coarsest dtype that the node reads or writes."""
        return max(rounding_limit(kind) for kind in self._kinds(step, theirs))

    def _kinds(self, step: Step, theirs: Mapping[str, Array]) -> set[str]:
        read = [array for name in step.reads if (array := self._theirs.get(name, self._feed.get(name))) is not None]
        return {array.dtype.name for array in (*theirs.values(), *read) if is_float(array)} or {"float32"}

    def _explained(
        self, step: Step, place: int, inputs: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Array]
    ) -> bool:
        """Whether inputs moved by a unit in their last place move the outputs as far as they differ.

        A step in the operator is one that inputs moved by a sixteenth of that cross as well, as often and as far; it explains the
        places that cross it, by its own height.
        """
        if step.op_type in _ROUNDS_NOTHING:
            return False
        unit = max(rounding_unit(kind) for kind in self._kinds(step, theirs))
        moved = [self._moves(step, place, inputs, ours, unit / finer) for finer in (1, _FINER)]
        if moved[0] is None or moved[1] is None:  # a size among the inputs has moved
            return False
        limit = self._limit(step, theirs)
        for name, array in theirs.items():
            far, near = moved[0][name], moved[1][name]
            spread, error = float(far.max(initial=0)), error_of_scale(ours[name], array)
            if not np.isfinite(spread) or not np.isfinite(error):
                return False
            scale = float(np.abs(array[np.isfinite(array)]).max(initial=0)) or 1.0
            if _LESS * float(near.max(initial=0)) <= spread:
                if error > limit + _WIDENING * spread / scale:
                    return False
            elif not self._crossed(step, place, inputs, ours, theirs):
                return False
        return True

    def _crossed(
        self, step: Step, place: int, inputs: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Array]
    ) -> bool:
        """Whether every place that is off crosses a step of that height when the inputs move by a unit."""
        unit = max(rounding_unit(kind) for kind in self._kinds(step, theirs))
        heights = self._moves(step, place, inputs, ours, unit, _CROSSINGS)
        for name, array in theirs.items():
            off = _distance(ours[name], array)
            scale = float(np.abs(array[np.isfinite(array)]).max(initial=0)) or 1.0
            if heights is None or (off > self._limit(step, theirs) * scale + heights[name]).any():
                return False
        return True

    def _moves(
        self,
        step: Step,
        place: int,
        inputs: Mapping[str, Any],
        ours: Mapping[str, Any],
        unit: float,
        draws: int = _DRAWS,
    ) -> dict[str, Array] | None:
        """By how much each place of each output moves when the inputs move by ``unit``; None if a kernel refuses such inputs."""
        rng = np.random.default_rng(0)
        spread: dict[str, Array] = {}
        for _ in range(draws):
            try:
                outputs = step.compute({name: _moved(value, unit, rng) for name, value in inputs.items()}, place)
            except Unhandled:
                return None
            for name in step.used:
                spread[name] = np.maximum(spread.get(name, np.zeros(())), _distance(outputs[name], ours[name]))
        return spread


def _distance(moved: Any, before: Any) -> Array:
    """|moved - before| place by place; infinite if shapes, integers, or places that are not finite differ."""
    if not isinstance(moved, np.ndarray) or not isinstance(before, np.ndarray) or moved.shape != before.shape:
        return np.asarray(np.inf)
    if not is_float(before):
        return np.where(moved == before, 0.0, np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        same = (moved == before) | (np.isnan(moved) & np.isnan(before))
        return np.where(same, 0.0, np.nan_to_num(np.abs(moved - before), nan=np.inf))


def error_of_scale(ours: Any, theirs: Any) -> float:
    """max|ours - theirs| / max|theirs| over finite places; infinite if shapes, integers, or places that are not finite differ."""
    if not isinstance(ours, np.ndarray) or ours.shape != theirs.shape:
        return np.inf
    if not is_float(theirs) or not is_float(ours):
        return 0.0 if np.array_equal(ours, theirs) else np.inf
    smallest = 6e-5 if theirs.dtype == np.float16 else 1e-37
    with np.errstate(all="ignore"):
        apart = np.asarray(np.subtract(ours, theirs, dtype=np.float64))
        difference = float(np.abs(apart, out=apart).max(initial=0))
        largest = max(float(theirs.max(initial=0)), -float(theirs.min(initial=0)))
    if not np.isfinite(difference) or not np.isfinite(largest):
        finite = np.isfinite(theirs)
        if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True) or not np.isfinite(ours[finite]).all():
            return np.inf
        return error_of_scale(ours[finite], theirs[finite])
    if largest < smallest:  # of numbers that underflow no digit is left
        return 0.0 if difference < smallest else np.inf
    return difference / largest


def _moved(value: Any, unit: float, rng: np.random.Generator) -> Any:
    if not isinstance(value, np.ndarray) or not is_float(value):
        return value
    return value * (1 + unit * rng.choice([-1.0, 1.0], value.shape))
