"""Run an ONNX file in float64, node by node.

A copy with every number in float64 is run by edgekit's kernels and, where there is none, by those of ONNX's reference evaluator.
Both can be wrong: ``witness.py`` compares them with ONNX Runtime, and a kernel that disagrees is replaced by the next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx

from edgekit.errors import first_line
from edgekit.onnx.evaluator import Evaluator, Step, one_thread
from edgekit.onnx.kernels import KERNELS
from edgekit.onnx.refusal import Inexact, Unhandled
from edgekit.onnx.run import IN_THE_FILE
from edgekit.onnx.widen import widen_array, widened
from edgekit.tensors import Array, Feed, batches_of, joined_outputs, real_samples

__all__ = ["ExactFile", "Inexact", "Moment", "NodeValue", "Witness", "node_values", "run_file_exact"]
_TIMED = 2  # batches that are computed one after the other; the last of them says what the others will take
_SLACK = 4  # times the limit that a run may take whose estimate was within the limit
_BESIDE = 4  # batches that are computed beside each other at most, because each takes memory
SECONDS = 600.0  # of a processor's own time, 5 minutes of two cores: much more than an everyday network takes


class NodeValue(NamedTuple):
    """A node of the main graph, its operator, and its outputs by name: arrays, floats among them in float64."""

    name: str
    operator: str
    outputs: dict[str, Array]


class Witness(Protocol):
    """Sees every node of the first samples as it is computed, and may replace the node's outputs; see ``witness.py``."""

    samples: int
    kernels: dict[str, int]

    def hear(self, file: ExactFile, feed: Feed) -> None:
        """A run on ``feed`` begins."""

    def judge(self, moment: Moment) -> None:
        """Raise Inexact that names the node unless its outputs are believed."""

    def leave(self) -> None:
        """No further run is judged."""


def run_file_exact(
    model: onnx.ModelProto, feed: Feed, seconds: float = SECONDS, batch: int = 1, witness: Witness | None = None
) -> dict[str, Array]:
    """The outputs by name, float64 where they are floats, computed in batches of ``batch`` samples and joined.

    Raises Inexact that names the operator or the reason in the way: a random operator, one that rounds to steps, no kernel, a
    node whose kernels all disagree with the ``witness``, an output without a batch axis, or more of a processor's own time than
    ``seconds``, as the second batch tells: what else the machine does changes nothing.
    """
    return ExactFile(model).run(feed, seconds, batch, witness)


def node_values(model: onnx.ModelProto, feed: Feed, witness: Witness | None = None) -> Iterator[NodeValue]:
    """Every node of the main graph with its float64 outputs for the whole ``feed``, in order.

    A model's own functions are inlined first. A value is kept as long as a later node reads it. Raises Inexact as
    ``run_file_exact`` does, when the node is reached.
    """
    file = ExactFile(model)
    for moment in file.moments(feed, witness=witness):
        arrays = {name: value for name, value in moment.outputs.items() if isinstance(value, np.ndarray)}
        yield NodeValue(moment.step.name, moment.step.op_type, arrays)


class ExactFile:
    """An ONNX file in float64; what depends on no input is computed once. Raises Inexact for an operator without a kernel."""

    def __init__(self, model: onnx.ModelProto) -> None:
        try:
            wide, stored = widened(model)
            evaluator = Evaluator(wide, new_ops=list(KERNELS))
        except Inexact:
            raise
        except Exception as problem:
            raise Inexact(first_line(problem)) from None
        self.steps: list[Step] = evaluator.rt_nodes_
        self.outputs: list[str] = evaluator.output_names
        self._stored: dict[str, Any] = {**evaluator.rt_inits_, **stored}
        self._clock, self._constants_known = evaluator.clock, False
        self._fed: set[str] | None = None
        self._held = set(self._stored).union(*(step.output for step in self.steps if step.op_type in IN_THE_FILE))

    def _plan(self, fed: set[str]) -> None:
        """Find the nodes that depend on nothing in a feed of the names ``fed``, and the values that no later node reads."""
        self._fed, self._constants_known = fed, False
        constant = {*self._stored, ""} - fed
        for step in self.steps:
            step.constant = constant.issuperset(step.reads)
            constant.update(step.output if step.constant else ())
        kept = {*self.outputs, *self._stored, ""}
        kept |= {name for step in self.steps if not step.constant for name in step.reads if name in constant}
        read = {*self.outputs, *(name for step in self.steps for name in step.reads)}
        for step in self.steps:
            step.last_reads.clear()
            step.used = read.intersection(step.output) - {""}
        last = {name: step for step in self.steps for name in (*step.output, *step.reads)}
        for name, step in last.items():
            if name not in kept:
                step.last_reads.append(name)

    def run(self, feed: Feed, seconds: float = SECONDS, batch: int = 1, witness: Witness | None = None) -> dict[str, Array]:
        """The outputs for all samples of ``feed``; as ``run_file_exact``."""
        self._clock.seconds = seconds
        for step in self.steps:
            known = 0 if witness is None else witness.kernels.get(step.key, 0)
            step.place = min(known, len(step.kernels) - 1)
        batches, parts, seen = list(batches_of(feed, batch)), list[dict[str, Array]](), 0
        judging = witness is not None and witness.samples > 0
        end = time.process_time() + seconds
        with one_thread() as threads:
            while len(parts) < len(batches) and (len(parts) < _TIMED or (witness is not None and seen < witness.samples)):
                part, real = batches[len(parts)]
                self._clock.compared = (seen < witness.samples) if witness is not None and judging else None
                start = time.thread_time()
                parts.append(self._joinable(part, end, witness if judging and self._clock.compared else None))
                seen += real
                if len(parts) == _TIMED:  # the first batch takes what the others do not: constants, and memory
                    self._check_estimate((time.thread_time() - start) * len(batches), seconds)
                    end = time.process_time() + _SLACK * seconds  # for a loop that one of the samples makes endless
            if witness is not None:
                witness.leave()
            self._clock.compared = False if judging else None
            rest = [part for part, _ in batches[len(parts) :]]
            with ThreadPoolExecutor(min(threads, _BESIDE)) as pool:
                parts += pool.map(lambda part: self._joinable(part, end), rest)
        return joined_outputs([real_samples(outputs, batch, real) for outputs, (_, real) in zip(parts, batches, strict=True)])

    def _check_estimate(self, estimate: float, seconds: float) -> None:
        """Raise Inexact if all batches would take longer than ``seconds``, by what one of them has taken of a processor."""
        if not estimate <= seconds:
            raise Inexact(f"float64 would take about {estimate:.0f} s of a processor's time, and {seconds:.0f} s are allowed")

    def _joinable(self, feed: Feed, deadline: float, witness: Witness | None = None) -> dict[str, Array]:
        """The outputs of one batch; raises Inexact for one without a batch axis."""
        outputs = self.whole(feed, deadline, witness)
        if not all(isinstance(array, np.ndarray) and array.ndim for array in outputs.values()):
            raise Inexact("an output has no batch axis")
        return outputs

    def whole(self, feed: Feed, deadline: float = math.inf, witness: Witness | None = None) -> dict[str, Array]:
        """The outputs for the whole ``feed`` in one batch, of any shape; raises Inexact, also at ``deadline`` on the clock."""
        values: Mapping[str, Any] = {**self._stored, **feed}
        for moment in self.moments(feed, deadline, witness):
            values = moment.values
        return {name: _widen_value(values[name]) for name in self.outputs}

    def moments(self, feed: Feed, deadline: float = math.inf, witness: Witness | None = None) -> Iterator[Moment]:
        """Compute node by node; constant nodes in the first run only. Raises Inexact."""
        if self._fed != set(feed):
            self._plan(set(feed))
        values: dict[str, Any] = {**self._stored, **{name: _widen_value(value) for name, value in feed.items()}, "": None}
        if witness is not None:
            witness.hear(self, feed)
        self._clock.deadline = deadline
        for step in self.steps:
            if step.constant and self._constants_known:
                continue
            self._clock.check()
            try:
                moment = Moment(step, values, step.compute(values))
            except Unhandled as problem:
                raise Inexact(str(problem)) from None
            if witness is not None:
                witness.judge(moment)
            values.update(moment.outputs)
            if step.constant:
                self._stored.update(moment.outputs)
            yield moment
            for name in step.last_reads:
                values.pop(name, None)
                self._stored.pop(name, None)
        self._constants_known = True

    @property
    def stored(self) -> Mapping[str, Any]:
        """The values by name that stand in the file, or are known from an earlier run."""
        return self._stored

    def holds(self, name: str) -> bool:
        """Whether the value stands in the file: an initializer, or the output of a Constant or ConstantOfShape."""
        return name in self._held


class Moment(NamedTuple):
    """A node that has just been computed: ``values`` are all that later nodes read, by name, ``outputs`` the node's own."""

    step: Step
    values: MutableMapping[str, Any]
    outputs: dict[str, Any]


def _widen_value(value: Any) -> Any:
    """An array, or a sequence of arrays, in float64."""
    if isinstance(value, np.ndarray):
        return widen_array(value)
    return [_widen_value(each) for each in value] if isinstance(value, list) else value
