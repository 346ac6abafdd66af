"""Run an ONNX file in float64: a copy with every number in float64, run by ONNX's reference evaluator.

The evaluator's convolutions and pools are slow loops, its ConvTranspose is wrong for groups and its BatchNormalization of opset 9
always trains, so PyTorch computes these operators. The caller compares the result with ONNX Runtime first.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx.inliner
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor
from torch.nn import functional as F

from edgekit.errors import first_line
from edgekit.tensors import Array, Feed, joined_outputs

SECONDS = 300.0  # much more than a convolutional network of everyday size takes
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_DOUBLE = onnx.TensorProto.DOUBLE
_STEPS = ("QuantizeLinear", "DynamicQuantizeLinear")  # rounding decides their results, so float64 proves nothing
_TYPES = ("to", "dtype", "output_dtype", "output_datatype")  # attributes that name the type of a result


class Inexact(Exception):
    """An ONNX file cannot be run in float64; the message says why."""


def run_file_exact(model: onnx.ModelProto, feed: Feed, seconds: float = SECONDS, batch: int = 1) -> dict[str, Array]:
    """The outputs in float64, in batches of ``batch``; raises Inexact that names the operator or the reason in the way."""
    try:
        evaluator = _Evaluator(widened(model), new_ops=[Conv, ConvTranspose, MaxPool, AveragePool, BatchNormalization])
    except Exception as problem:
        raise Inexact(first_line(problem)) from None
    wide = {name: array.astype(np.float64) if _is_float(array) else array for name, array in feed.items()}
    samples, start = len(next(iter(feed.values()))), time.monotonic()
    evaluator.deadline = start + seconds
    parts = []
    for index in range(0, samples, batch):
        parts.append(evaluator.outputs({name: array[index : index + batch] for name, array in wide.items()}))
        if time.monotonic() - start > seconds * (index + batch) / samples:
            raise Inexact(f"float64 would take more than {seconds:.0f} s")
    return joined_outputs(parts)


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` without functions, in which every float16, bfloat16 and float32 number and type is float64."""
    wide = onnx.inliner.inline_local_functions(model) if model.functions else onnx.ModelProto()
    if not model.functions:
        wide.CopyFrom(model)
    _widen_graph(wide.graph)
    return wide


def _widen_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = _DOUBLE
    for node in graph.node:
        if node.op_type in _STEPS:
            raise Inexact(f"{node.op_type} rounds to steps")
        for attribute in node.attribute:
            _widen_attribute(attribute)
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.zeros(1))))


def _widen_attribute(attribute: onnx.AttributeProto) -> None:
    for graph in _graphs(attribute):
        _widen_graph(graph)
    if attribute.type == onnx.AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    elif attribute.name in _TYPES and attribute.type == onnx.AttributeProto.INT and attribute.i in _FLOATS:
        attribute.i = _DOUBLE
    elif attribute.name in ("value_float", "value_floats"):
        numbers = np.array(attribute.f if attribute.name == "value_float" else list(attribute.floats), np.float64)
        attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(numbers)))


def _graphs(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    return (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


class _Evaluator(ReferenceEvaluator):
    """ONNX's evaluator with a deadline between operators; refuses any float result that is not float64."""

    deadline = math.inf

    def outputs(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        try:
            with np.errstate(all="ignore"), torch.inference_mode():
                results = dict(self.run(None, dict(feed), intermediate=True))
        except Inexact:
            raise
        except Exception as problem:
            raise Inexact(first_line(problem)) from None
        for node in self.rt_nodes_:
            for name in node.output:
                array = results.get(name)
                if isinstance(array, np.ndarray) and _is_float(array) and array.dtype != np.float64:
                    raise Inexact(f"{node.op_type} computes in {array.dtype} only")
        outputs = {name: results[name] for name in self.output_names}
        if not all(isinstance(array, np.ndarray) and array.ndim for array in outputs.values()):
            raise Inexact("an output has no batch axis")
        return outputs

    def _log(self, level: int, pattern: str, *args: Any) -> None:
        """Check the deadline; the evaluator calls this before every operator."""
        if level == 1 and time.monotonic() > self.deadline:
            raise Inexact(f"float64 would take more than {SECONDS:.0f} s")


class Conv(OpRun):
    """ONNX's Conv in PyTorch; the weight is out x in / group x kernel."""

    op_domain = ""

    def _run(self, x: Array, weight: Array, bias: Array | None = None, group: int = 1, **attributes: Any) -> tuple[Array]:
        window = _Window(x, weight.shape[2:], attributes)
        padded = window.padded(_tensor(x), 0.0)
        if weight.shape[1] == 1 and group == len(weight) == x.shape[1]:
            total = window.depthwise(padded, _tensor(weight))
            return ((total if bias is None else total + _tensor(bias).reshape(-1, *([1] * len(window.kernel)))).numpy(),)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(window.kernel) - 1]
        offset = None if bias is None else _tensor(bias)
        return (convolve(padded, _tensor(weight), offset, window.strides, 0, window.dilations, group).numpy(),)


class ConvTranspose(OpRun):
    """ONNX's ConvTranspose in PyTorch; the weight is in x out / group x kernel.

    The whole overlap is computed, then the padding is cut off.
    """

    op_domain = ""

    def _run(self, x: Array, weight: Array, bias: Array | None = None, group: int = 1, **attributes: Any) -> tuple[Array]:
        window = _Window(x, weight.shape[2:], attributes)
        rank = len(window.kernel)
        transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        whole = transpose(_tensor(x), _tensor(weight), None, window.strides, 0, 0, group, window.dilations)
        extra = attributes.get("output_padding") or [0] * rank
        whole = F.pad(whole, _torch_pads([0] * rank, extra))
        begin, size = window.cut(tuple(whole.shape[2:]), attributes)
        for axis in range(rank):
            whole = whole.narrow(axis + 2, begin[axis], size[axis])
        if bias is not None:
            whole = whole + _tensor(bias).reshape(-1, *([1] * rank))
        return (whole.numpy(),)


class MaxPool(OpRun):
    """ONNX's MaxPool in PyTorch, without the second output (indices)."""

    op_domain = ""

    def _run(self, x: Array, kernel_shape: Sequence[int] = (), ceil_mode: int = 0, **attributes: Any) -> tuple[Array]:
        if sum(map(bool, self.output)) > 1:
            raise Inexact("MaxPool gives indices")
        window = _Window(x, kernel_shape, attributes)
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(window.kernel) - 1]
        padded = window.filled(window.padded(_tensor(x), -math.inf), x, -math.inf, ceil_mode)
        return (pool(padded, window.kernel, window.strides, 0, window.dilations).numpy(),)


class AveragePool(OpRun):
    """ONNX's AveragePool in PyTorch: sum over count.

    ``count_include_pad`` decides whether padding counts; positions that ``ceil_mode`` adds never count.
    """

    op_domain = ""

    def _run(
        self, x: Array, kernel_shape: Sequence[int] = (), ceil_mode: int = 0, count_include_pad: int = 0, **attributes: Any
    ) -> tuple[Array]:
        window = _Window(x, kernel_shape, attributes)
        if any(step != 1 for step in window.dilations):
            raise Inexact("AveragePool is dilated")
        pool: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(window.kernel) - 1]

        def mean(padded: Tensor) -> Tensor:
            return pool(window.filled(padded, x, 0.0, ceil_mode), window.kernel, window.strides)

        values = window.padded(_tensor(x), 0.0)
        counted = torch.ones_like(values) if count_include_pad else window.padded(torch.ones_like(_tensor(x)), 0.0)
        return ((mean(values) / mean(counted)).numpy(),)


class BatchNormalization(OpRun):
    """ONNX's BatchNormalization: y = scale (x - mean) / sqrt(var + epsilon) + shift, per channel."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, shift: Array, mean: Array, var: Array, epsilon: float = 1e-5, **attributes: Any
    ) -> Any:
        if attributes.get("training_mode") or sum(map(bool, self.output)) > 1 or var.ndim != 1:
            raise Inexact("BatchNormalization uses statistics of the batch or per position")
        scale, shift, mean, var = (value.reshape(-1, *([1] * (x.ndim - 2))) for value in (scale, shift, mean, var))
        return (scale * (x - mean) / np.sqrt(var + epsilon) + shift,)


class _Window:
    """Attributes common to convolutions and pools, with ONNX's defaults; ``begin`` and ``end`` are paddings per axis."""

    def __init__(self, x: Array, kernel: Sequence[int], attributes: Mapping[str, Any]) -> None:
        rank = len(kernel)
        if not 1 <= rank <= 3 or x.ndim != rank + 2:
            raise Inexact(f"a kernel has {rank} axes")
        self.kernel = tuple(int(size) for size in kernel)
        self.strides = tuple(attributes.get("strides") or [1] * rank)
        self.dilations = tuple(attributes.get("dilations") or [1] * rank)
        self.auto = attributes.get("auto_pad") or "NOTSET"
        pads = (attributes.get("pads") if self.auto == "NOTSET" else None) or [0] * (2 * rank)
        self.begin, self.end = tuple(pads[:rank]), tuple(pads[rank:])
        if self.auto.startswith("SAME"):
            spans = [(size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True)]
            total = [
                max(0, (math.ceil(size / stride) - 1) * stride + span - size)
                for size, stride, span in zip(x.shape[2:], self.strides, spans, strict=True)
            ]
            less, more = tuple(size // 2 for size in total), tuple(size - size // 2 for size in total)
            self.begin, self.end = (less, more) if self.auto == "SAME_UPPER" else (more, less)

    def padded(self, values: Tensor, number: float) -> Tensor:
        """``values`` padded with ``number``."""
        return F.pad(values, _torch_pads(self.begin, self.end), value=number)

    def depthwise(self, padded: Tensor, weight: Tensor) -> Tensor:
        """A depthwise convolution, kernel element by kernel element: PyTorch has no fast float64 kernel for it."""
        spans = zip(padded.shape[2:], self.kernel, self.strides, self.dilations, strict=True)
        reach = [(size - (kernel - 1) * step - 1) // stride * stride + 1 for size, kernel, stride, step in spans]
        total = torch.zeros((), dtype=torch.float64)
        for position, place in enumerate(itertools.product(*map(range, self.kernel))):
            starts = [index * step for index, step in zip(place, self.dilations, strict=True)]
            windows = [slice(first, first + far, by) for first, far, by in zip(starts, reach, self.strides, strict=True)]
            where: tuple[Any, ...] = (slice(None), slice(None), *windows)
            tap = weight[:, 0].reshape(len(weight), -1)[:, position].reshape(-1, *([1] * len(self.kernel)))
            total = total + padded[where] * tap
        return total

    def filled(self, padded: Tensor, x: Array, number: float, ceil_mode: int) -> Tensor:
        """``padded`` extended by what ``ceil_mode`` needs for the last window.

        A window that would start in the padding at the end is left out, as ONNX says.
        """
        if not ceil_mode:
            return padded
        extra = []
        for axis, size in enumerate(padded.shape[2:]):
            stride, span = self.strides[axis], (self.kernel[axis] - 1) * self.dilations[axis] + 1
            last = math.ceil((size - span) / stride)
            last -= last * stride >= x.shape[axis + 2] + self.begin[axis]
            extra.append(max(0, last * stride + span - size))
        return F.pad(padded, _torch_pads([0] * len(extra), extra), value=number)

    def cut(self, whole: Sequence[int], attributes: Mapping[str, Any]) -> tuple[Sequence[int], Sequence[int]]:
        """Start and size, per axis, of a transposed convolution's output in the whole overlap."""
        if attributes.get("output_shape") or self.auto.startswith("SAME"):
            raise Inexact("ConvTranspose sets its output's shape")
        return self.begin, [size - first - last for size, first, last in zip(whole, self.begin, self.end, strict=True)]


def _torch_pads(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Paddings in PyTorch's order: the last axis first."""
    return [size for pair in reversed(list(zip(begin, end, strict=True))) for size in pair]


def _tensor(array: Array) -> Tensor:
    if array.dtype != np.float64:
        raise Inexact(f"a convolution or pool takes {array.dtype}")
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
