"""Normalisations in PyTorch's float64, and the table of all kernels that come before those of ONNX's reference evaluator.

ONNX's LRN sums along the wrong axis (onnx/onnx#7805), its BatchNormalization of opset 9 always trains, its Softmax knows opset 13
only, and its Loop joins what it should stack.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_loop import Loop as OnnxLoop
from torch import Tensor

from edgekit.onnx.refusal import Inexact, Unhandled
from edgekit.onnx.sampling import GridSample, Resize, Upsample
from edgekit.onnx.widen import is_float
from edgekit.onnx.windows import AveragePool, Conv, ConvTranspose, LpPool, MaxPool, tensor_of
from edgekit.tensors import Array


class BatchNormalization(OpRun):
    """ONNX's BatchNormalization: y = scale (x - mean) / sqrt(var + epsilon) + shift, per channel."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, shift: Array, mean: Array, var: Array, epsilon: float = 1e-5, **attributes: Any
    ) -> Any:
        if attributes.get("training_mode") or sum(map(bool, self.output)) > 1 or var.ndim != 1:
            raise Inexact("BatchNormalization uses statistics of the batch or per position")
        factor = tensor_of(scale) / torch.sqrt(tensor_of(var) + epsilon)
        centred = tensor_of(x) - _per_channel(mean, x.ndim)
        return (centred.mul_(_per_channel(factor.numpy(), x.ndim)).add_(_per_channel(shift, x.ndim)).numpy(),)


class LRN(OpRun):
    """ONNX's LRN: y = x / (bias + alpha / size * sum of x^2 over ``size`` neighbouring channels) ^ beta; x is N x C x ..."""

    op_domain = ""

    def _run(self, x: Array, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int = 1) -> Any:
        values = tensor_of(x)
        before, channels = (size - 1) // 2, x.shape[1]
        total = torch.zeros_like(values)
        for offset in range(-before, size - before):
            first, last = max(0, -offset), min(channels, channels - offset)
            if first < last:
                total[:, first:last] += values[:, first + offset : last + offset].square()
        return ((values / total.mul_(alpha / size).add_(bias).pow_(beta)).numpy(),)


class InstanceNormalization(OpRun):
    """ONNX's InstanceNormalization: every channel of every sample by its own mean and variance; x is N x C x ..."""

    op_domain = ""

    def _run(self, x: Array, scale: Array, shift: Array, epsilon: float = 1e-5) -> Any:
        normal = _standardised(tensor_of(x), tuple(range(2, x.ndim)), epsilon)[0]
        return ((normal * _per_channel(scale, x.ndim) + _per_channel(shift, x.ndim)).numpy(),)


class GroupNormalization(OpRun):
    """ONNX's GroupNormalization: groups of channels by their own mean and variance; x is N x C x ...

    Scale and shift are per channel from opset 21 on, per group before.
    """

    op_domain = ""

    def _run(self, x: Array, scale: Array, shift: Array, num_groups: int = 1, epsilon: float = 1e-5, **attributes: Any) -> Any:
        grouped = tensor_of(x).reshape(len(x), num_groups, -1)
        normal = _standardised(grouped, (2,), epsilon)[0].reshape(x.shape)
        factors = [value.repeat(x.shape[1] // len(value)) for value in (scale, shift)]
        return ((normal * _per_channel(factors[0], x.ndim) + _per_channel(factors[1], x.ndim)).numpy(),)


class LayerNormalization(OpRun):
    """ONNX's LayerNormalization over the axes from ``axis`` on; the outputs are y, the mean and 1 / the deviation."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, shift: Array | None = None, axis: int = -1, epsilon: float = 1e-5, **attributes: Any
    ) -> Any:
        normal, mean, inverse = _standardised(tensor_of(x), tuple(range(axis % x.ndim, x.ndim)), epsilon)
        y = normal * tensor_of(scale)
        y = y if shift is None else y + tensor_of(shift)
        return (y.numpy(), mean.numpy(), inverse.numpy())[: max(1, len(self.output))]


class Softmax(OpRun):
    """ONNX's Softmax: over one axis from opset 13 on, before over all axes from ``axis`` on, which is 1 unless the node says."""

    op_domain = ""

    def _run(self, x: Array, axis: int = -1) -> Any:
        if self.run_params["opsets"].get("", 13) >= 13:
            return (self.over(tensor_of(x), axis % x.ndim).numpy(),)
        axis = next((each.i for each in self.onnx_node.attribute if each.name == "axis"), 1) % max(1, x.ndim)
        flat = tensor_of(x).reshape(math.prod(x.shape[:axis]), -1)
        return (self.over(flat, 1).reshape(x.shape).numpy(),)

    def over(self, values: Tensor, axis: int) -> Tensor:
        """The function over one axis."""
        return values.softmax(axis)


class LogSoftmax(Softmax):
    """ONNX's LogSoftmax; its axes are those of Softmax."""

    def over(self, values: Tensor, axis: int) -> Tensor:
        """The function over one axis."""
        return values.log_softmax(axis)


class Hardmax(Softmax):
    """ONNX's Hardmax; its axes are those of Softmax."""

    def over(self, values: Tensor, axis: int) -> Tensor:
        """The function over one axis: one at the first of the largest values, zero elsewhere."""
        first = torch.from_numpy(values.numpy().argmax(axis)).unsqueeze(axis)
        return torch.zeros_like(values).scatter_(axis, first, 1.0)


class Dropout(OpRun):
    """ONNX's Dropout outside of training: y = x, and a mask of ones; with a ratio above 0 in training it is random."""

    op_domain = ""

    def _run(self, x: Array, ratio: Any = None, training: Any = None, **attributes: Any) -> Any:
        trains = attributes.get("is_test", 1) == 0 or (training is not None and np.any(training))
        if trains and not (isinstance(ratio, np.ndarray) and np.all(ratio == 0)):
            raise Inexact("Dropout is in training mode, so it is random")
        mask = np.ones(x.shape, x.dtype if "is_test" in attributes else bool)
        return (x, mask)[: max(1, len(self.output))]


class Loop(OnnxLoop):
    """ONNX's Loop: what each iteration gives is stacked along a new first axis, where ONNX's evaluator joins along the first."""

    op_domain = ""

    def _run(self, M: Any, cond: Any, *args: Any, context: Any = None, attributes: Any = None, **more: Any) -> Any:
        body, state, count, limit, condition = more["body"], list(args), 0, M, cond
        scans: list[list[Any]] = [[] for _ in body.output_names[1 + len(state) :]]
        while (limit is None or count < int(np.asarray(limit).item())) and (condition is None or bool(np.all(condition))):
            feed = dict(context or {}) | dict(zip(body.input_names, [np.array(count), np.array(True), *state], strict=True))
            condition, *results = body.run(None, feed, attributes=attributes)
            state = results[: len(state)]
            for scan, value in zip(scans, results[len(state) :], strict=True):
                scan.append(value)
            count += 1
        stacked = [np.stack(scan) if scan else np.empty((0,)) for scan in scans]
        return (*state, *stacked)


class ConstantOfShape(OpRun):
    """ONNX's ConstantOfShape of a float64 number; several threads fill a large array sooner than numpy's one."""

    op_domain = ""

    def _run(self, shape: Array, value: Any = None) -> Any:
        if value is None or value.dtype != np.float64:
            raise Unhandled("ConstantOfShape fills with integers")
        return (torch.full(tuple(shape.tolist()), value.item(), dtype=torch.float64).numpy(),)


class Cast(OpRun):
    """ONNX's Cast to a float that holds less: the numbers are rounded to its type, and given in float64."""

    op_domain = ""

    def _run(self, x: Array, to: int = 0, **attributes: Any) -> Any:
        if to not in _NARROW or not (is_float(x) or x.dtype.kind in "iub"):
            raise Unhandled("Cast to a type that is not narrower")
        return (x.astype(onnx.helper.tensor_dtype_to_np_dtype(to)).astype(np.float64),)


_NARROW = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


class Scatter(OpRun):
    """ONNX's Scatter, which ScatterElements replaced in opset 11."""

    op_domain = ""

    def _run(self, x: Array, indices: Array, updates: Array, axis: int = 0) -> Any:
        y = x.copy()
        np.put_along_axis(y, indices, updates, axis)
        return (y,)


class Erf(OpRun):
    """ONNX's Erf, which ONNX's evaluator computes in float32."""

    op_domain = ""

    def _run(self, x: Array) -> Any:
        return (torch.erf(tensor_of(x)).numpy(),)


class GlobalLpPool(OpRun):
    """ONNX's GlobalLpPool: the p-norm of every channel; x is N x C x ..."""

    op_domain = ""

    def _run(self, x: Array, p: float = 2) -> Any:
        return (torch.linalg.vector_norm(tensor_of(x), p, tuple(range(2, x.ndim)), keepdim=True).numpy(),)


KERNELS: tuple[type[OpRun], ...] = (
    AveragePool, BatchNormalization, Cast, ConstantOfShape, Conv, ConvTranspose, Dropout, Erf, GlobalLpPool, GridSample,
    GroupNormalization, Hardmax, InstanceNormalization, LRN, LayerNormalization, LogSoftmax, Loop, LpPool, MaxPool, Resize,
    Scatter, Softmax, Upsample,
)  # fmt: skip
"""The kernels of edgekit, each named after its operator."""


def _standardised(x: Tensor, axes: tuple[int, ...], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean) / sqrt(variance + epsilon) over ``axes``, the mean, and 1 / sqrt(variance + epsilon)."""
    if not axes or not math.prod(x.shape):
        raise Unhandled("nothing to take a mean of")
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    inverse = torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    return centred * inverse, mean, inverse


def _per_channel(value: Array, rank: int) -> Tensor:
    """A value per channel, to be used with an array of ``rank`` axes."""
    return tensor_of(value).reshape(-1, *([1] * (rank - 2)))
