"""ONNX's convolutions and pools in PyTorch's float64: ONNX's own are slow loops, and wrong for some attributes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from onnx.reference.op_run import OpRun
from torch import Tensor
from torch.nn import functional as F

from edgekit.onnx.refusal import Unhandled
from edgekit.tensors import Array

_UNFOLDED = 2**21  # numbers


class Conv(OpRun):
    """ONNX's Conv in PyTorch; the weight is out x in / group x kernel."""

    op_domain = ""

    def _run(self, x: Array, weight: Array, bias: Array | None = None, group: int = 1, **attributes: Any) -> tuple[Array]:
        window = _Window(x, weight.shape[2:], attributes)
        padded = window.padded(tensor_of(x), 0.0)
        if weight.shape[1] == 1 and group == len(weight) == x.shape[1]:
            total = window.depthwise(padded, tensor_of(weight))
            return ((total if bias is None else total + tensor_of(bias).reshape(-1, *([1] * len(window.kernel)))).numpy(),)
        convolve: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[len(window.kernel) - 1]
        offset = None if bias is None else tensor_of(bias)
        slabs = [
            convolve(slab, tensor_of(weight), offset, window.strides, 0, window.dilations, group) for slab in window.slabs(padded)
        ]
        return ((slabs[0] if len(slabs) == 1 else torch.cat(slabs, 2)).numpy(),)


class ConvTranspose(OpRun):
    """ONNX's ConvTranspose in PyTorch; the weight is in x out / group x kernel.

    The whole overlap is computed, then the padding is cut off.
    """

    op_domain = ""

    def _run(self, x: Array, weight: Array, bias: Array | None = None, group: int = 1, **attributes: Any) -> tuple[Array]:
        window = _Window(x, weight.shape[2:], attributes)
        rank = len(window.kernel)
        transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        whole = transpose(tensor_of(x), tensor_of(weight), None, window.strides, 0, 0, group, window.dilations)
        extra = attributes.get("output_padding") or [0] * rank
        whole = F.pad(whole, _torch_pads([0] * rank, extra))
        begin, size = window.cut(tuple(whole.shape[2:]), attributes)
        for axis in range(rank):
            whole = whole.narrow(axis + 2, begin[axis], size[axis])
        if bias is not None:
            whole = whole + tensor_of(bias).reshape(-1, *([1] * rank))
        return (whole.numpy(),)


class MaxPool(OpRun):
    """ONNX's MaxPool in PyTorch, without the second output (indices)."""

    op_domain = ""

    def _run(self, x: Array, kernel_shape: Sequence[int] = (), ceil_mode: int = 0, **attributes: Any) -> tuple[Array]:
        if sum(map(bool, self.output)) > 1:
            raise Unhandled("MaxPool gives indices")
        window = _Window(x, kernel_shape, attributes)
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(window.kernel) - 1]
        padded = window.filled(window.padded(tensor_of(x), -math.inf), x, -math.inf, ceil_mode)
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
        values = window.padded(tensor_of(x), 0.0)
        ones = torch.ones_like(tensor_of(x)[:1, :1])
        counted = window.padded(ones, float(bool(count_include_pad)))
        return ((window.means(values, x, ceil_mode) / window.means(counted, x, ceil_mode)).numpy(),)


class LpPool(OpRun):
    """ONNX's LpPool in PyTorch: the p-norm of every window."""

    op_domain = ""

    def _run(
        self, x: Array, kernel_shape: Sequence[int] = (), ceil_mode: int = 0, p: float = 2, **attributes: Any
    ) -> tuple[Array]:
        window = _Window(x, kernel_shape, attributes)
        powers = window.padded(tensor_of(x).abs().pow_(p), 0.0)
        sums = window.means(powers, x, ceil_mode) * math.prod(window.kernel)
        return (sums.pow_(1 / p).numpy(),)


class _Window:
    """Attributes common to convolutions and pools, with ONNX's defaults; ``begin`` and ``end`` are paddings per axis."""

    def __init__(self, x: Array, kernel: Sequence[int], attributes: Mapping[str, Any]) -> None:
        rank = len(kernel)
        if not 1 <= rank <= 3 or x.ndim != rank + 2:
            raise Unhandled(f"a kernel has {rank} axes")
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

    def slabs(self, padded: Tensor) -> Iterator[Tensor]:
        """``padded`` cut along its first axis in space, for as many rows of windows as PyTorch unfolds within a cache's reach."""
        stride, span = self.strides[0], (self.kernel[0] - 1) * self.dilations[0] + 1
        rows = (padded.shape[2] - span) // stride + 1
        unfolded = padded.shape[1] * math.prod(self.kernel) * math.prod(padded.shape[3:]) / math.prod(self.strides[1:])
        step = rows if math.prod(self.kernel) == 1 else max(1, min(rows, int(_UNFOLDED / unfolded)))
        for first in range(0, rows, step):
            last = min(rows, first + step) - 1
            yield padded[:, :, first * stride : last * stride + span]

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

    def means(self, padded: Tensor, x: Array, ceil_mode: int) -> Tensor:
        """The mean of every window; ``x`` is the array before padding."""
        values = self.filled(padded, x, 0.0, ceil_mode)
        if any(step != 1 for step in self.dilations):
            ones = torch.ones((values.shape[1], 1, *self.kernel), dtype=torch.float64)
            return self.depthwise(values, ones / math.prod(self.kernel))
        pool: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(self.kernel) - 1]
        return pool(values, self.kernel, self.strides)

    def filled(self, padded: Tensor, x: Array, number: float, ceil_mode: int) -> Tensor:
        """``padded`` extended, or cut, to the end of the last window that ``ceil_mode`` gives.

        A window that would start in the padding at the end is left out, as ONNX says.
        """
        if not ceil_mode:
            return padded
        extra = []
        for axis, size in enumerate(padded.shape[2:]):
            stride, span = self.strides[axis], (self.kernel[axis] - 1) * self.dilations[axis] + 1
            last = math.ceil((size - span) / stride)
            last -= last * stride >= x.shape[axis + 2] + self.begin[axis]
            extra.append(last * stride + span - size)
        return F.pad(padded, _torch_pads([0] * len(extra), extra), value=number)

    def cut(self, whole: Sequence[int], attributes: Mapping[str, Any]) -> tuple[Sequence[int], Sequence[int]]:
        """Start and size, per axis, of a transposed convolution's output in the whole overlap."""
        if attributes.get("output_shape") or self.auto.startswith("SAME"):
            raise Unhandled("ConvTranspose sets its output's shape")
        return self.begin, [size - first - last for size, first, last in zip(whole, self.begin, self.end, strict=True)]


def _torch_pads(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Paddings in PyTorch's order: the last axis first."""
    return [size for pair in reversed(list(zip(begin, end, strict=True))) for size in pair]


def tensor_of(array: Array) -> Tensor:
    """A float64 array as a tensor that shares its memory where it can; raises Unhandled for another dtype."""
    if array.dtype != np.float64:
        raise Unhandled(f"a convolution or pool takes {array.dtype}")
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
