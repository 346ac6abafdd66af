"""ONNX's reference evaluator, made of Steps: every node has a list of kernels, and one that fails is followed by the next.

The list has edgekit's kernel, that of ONNX's evaluator, and ONNX's definition of the operator by others, as far as they exist.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import _op_list

from edgekit.errors import first_line
from edgekit.onnx.kernels import KERNELS
from edgekit.onnx.refusal import Inexact, Unhandled
from edgekit.onnx.widen import is_float, subgraphs, widen_nodes

_IN_FLOAT32 = ("CausalConvWithState", "LinearAttention")  # inside, though what ONNX's kernels give is float64


class Clock:
    """The processor time of this process at which a run must end, and whether it is compared.

    It is shared with the evaluators of branches and loops. On a busy machine it stands while others run.
    """

    deadline, seconds = math.inf, math.inf
    compared: bool | None = None
    """Whether the nodes that run are compared with another runtime; None where nothing is."""

    def check(self) -> None:
        """Raise Inexact if the time has come."""
        if time.process_time() > self.deadline:
            raise Inexact(too_slow(self.seconds))


def too_slow(seconds: float) -> str:
    """The sentence of a run that takes longer than ``seconds``."""
    return f"float64 would take more than {seconds:.0f} s of a processor's time"


@contextlib.contextmanager
def one_thread() -> Iterator[int]:
    """Let PyTorch compute each operator in one thread; gives the number of threads that it had, which is restored after.

    Two threads that wait for each other after every small operator crawl on a busy machine; two samples beside each other do not.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


class Step:
    """A node with its kernels, in order of trust; ``place`` is the kernel in use, ``used`` the outputs that anybody reads.

    It stands where ONNX's evaluator expects one of its operators.
    """

    def __init__(self, node: onnx.NodeProto, params: dict[str, Any], classes: list[Any], clock: Clock) -> None:
        self.node, self.op_type, self.input, self.output = node, node.op_type, node.input, node.output
        self.name = node.name or (node.output[0] if node.output else "")
        self.key = next((name for name in node.output if name), "")
        self.captured = _captured(node)
        self.reads = (*node.input, *self.captured)
        self.place, self.constant, self.compared = 0, False, False
        self._clock = clock
        self.used, self.last_reads = set[str](), list[str]()
        self.kernels, problems = [], []
        for kernel in classes:
            try:
                self.kernels.append(_with_wide_attributes(kernel(node, params)))
            except Exception as problem:
                problems.append(problem)
        if not self.kernels:
            raise problems[0]
        self.has_linked_attribute = self.kernels[0].has_linked_attribute

    def need_context(self) -> bool:
        """Whether the node holds a branch or a body, which may read any value around it."""
        return bool(self.kernels[0].need_context())

    def compute(self, values: Mapping[str, Any], place: int | None = None) -> dict[str, Any]:
        """The outputs by name, of the kernel at ``place`` alone, or of the first that can from the one in use on."""
        context = {"context": {name: values[name] for name in self.captured if name in values}} if self.need_context() else {}
        inputs = [values[name] for name in self.input]
        with np.errstate(all="ignore"), torch.inference_mode():
            outputs = self.run(*inputs, **context) if place is None else self._outputs(place, *inputs, **context)
        return {name: value for name, value in zip(self.output, outputs, strict=False) if name}

    def run(self, *inputs: Any, **more: Any) -> tuple[Any, ...]:
        """The outputs of the first kernel that computes the node; raises Unhandled with the reason of the first if none does.

        Raises Inexact for a node in a branch that no compared sample has taken.
        """
        self.compared = self.compared or self._clock.compared is True
        if self._clock.compared is False and not self.compared:
            raise Inexact(f"node {self.name!r} ({self.op_type}) is in a branch that no sample took which was compared")
        first: Unhandled | None = None
        for place in range(self.place, len(self.kernels)):
            try:
                outputs = self._outputs(place, *inputs, **more)
            except Unhandled as problem:
                first = first or problem
            else:
                self.place = place
                return outputs
        raise first or Unhandled(f"{self.op_type} has no kernel")

    def _outputs(self, place: int, *inputs: Any, **more: Any) -> tuple[Any, ...]:
        """The outputs of one kernel; raises Unhandled unless it computes the node, in float64."""
        try:
            outputs: tuple[Any, ...] = self.kernels[place].run(*inputs, **more)
        except (Inexact, Unhandled):
            raise
        except Exception as problem:
            raise Unhandled(f"{self.op_type}: {first_line(problem)}") from None
        for value in outputs:
            if isinstance(value, np.ndarray) and is_float(value) and value.dtype != np.float64:
                raise Unhandled(f"{self.op_type} computes in {value.dtype} only")
        return outputs


def _with_wide_attributes(kernel: Any) -> Any:
    """The kernel, with floats for its attributes; ONNX gives numpy's float32, and what is computed of these alone is float32."""
    for name, value in vars(kernel).items():
        if isinstance(value, np.floating):
            setattr(kernel, name, float(value))
    return kernel


class Evaluator(ReferenceEvaluator):
    """ONNX's evaluator, made of Steps; branches and loops run in evaluators of this class too, with the clock of the first."""

    _clocks: list[Clock] = []  # noqa: RUF012  # that of the file being opened; ONNX makes the inner evaluators

    def __init__(self, proto: Any, *arguments: Any, **options: Any) -> None:
        self.clock = self._clocks[-1] if self._clocks else Clock()
        self._clocks.append(self.clock)
        try:
            super().__init__(proto, *arguments, **options)
        finally:
            self._clocks.pop()

    def _load_impl(self, node: onnx.NodeProto, input_types: Any = None) -> Any:
        """What ONNX's evaluator makes an operator of: a Step with every kernel that there is."""
        ours = self.new_ops_.get((node.domain, node.op_type))
        classes = [] if ours is None else [ours]
        body = _body_of(node, self.opsets)
        try:
            if node.op_type not in _IN_FLOAT32 and (body is None or _is_registered(node.op_type)):
                classes.append(_onnx_kernel(self, node, input_types))
        except Exception:
            if not classes and body is None:
                raise
        classes += [] if body is None else [body]
        return lambda node, params: Step(node, params, classes, self.clock)

    def _log(self, level: int, pattern: str, *args: Any) -> None:
        """Check the clock; ONNX's evaluator calls this before every operator of a branch or a loop."""
        if level == 1:
            self.clock.check()


def _onnx_kernel(evaluator: Evaluator, node: onnx.NodeProto, input_types: Any) -> Any:
    """ONNX's own operator for the node."""
    ours, evaluator.new_ops_ = evaluator.new_ops_, {}
    try:
        return super(Evaluator, evaluator)._load_impl(node, input_types)
    finally:
        evaluator.new_ops_ = ours


def _body_of(node: onnx.NodeProto, opsets: Mapping[str, int]) -> Any:
    """A kernel that computes the function by which ONNX defines the operator; None if it is defined by words."""
    version = opsets.get(node.domain, 0)
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return None
    if not schema.has_function and not schema.has_context_dependent_function:
        return None
    return lambda node, params: _Body(node, params, schema)


class _Body(OpRun):
    """An operator's definition by other operators, in float64."""

    def __init__(self, node: onnx.NodeProto, params: dict[str, Any], schema: Any) -> None:
        super().__init__(node, params, schema)
        self.schema = schema

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        """The outputs; the definition may depend on the inputs' types."""
        evaluator = Evaluator(self._function(inputs), new_ops=list(KERNELS))
        feed = dict.fromkeys(evaluator.input_names) | dict(zip(evaluator.input_names, inputs, strict=False))
        return tuple(evaluator.run(None, feed, attributes={name: attributes[name] for name in evaluator.attributes_}))

    def _function(self, inputs: Sequence[Any]) -> onnx.FunctionProto:
        function = onnx.FunctionProto()
        if self.schema.has_function:
            function.CopyFrom(self.schema.function_body)
        else:
            types = [
                onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                if isinstance(value, np.ndarray) else onnx.TypeProto()
                for value in inputs
            ]  # fmt: skip
            content = self.schema.get_context_dependent_function(
                self.onnx_node.SerializeToString(), [each.SerializeToString() for each in types]
            )
            function.ParseFromString(content)
        named = {opset.domain for opset in function.opset_import}
        for domain, version in self.run_params["opsets"].items():
            if domain not in named:  # onnx leaves out ONNX's own for operators of its other domains
                function.opset_import.append(onnx.helper.make_opsetid(domain, version))
        widen_nodes(function.node)
        return function


@functools.cache
def _is_registered(operator: str) -> bool:
    """Whether ONNX's evaluator computes the operator by code of its own, not by its definition."""
    return operator in _op_list._build_registered_operators()


def _captured(node: onnx.NodeProto) -> tuple[str, ...]:
    """The names that the node's branches and bodies read; those that they define themselves are among them."""
    names: list[str] = []
    for graph in subgraphs(node):
        names += [value.name for value in graph.output]
        for inner in graph.node:
            names += [*inner.input, *_captured(inner)]
    return tuple(dict.fromkeys(names))
