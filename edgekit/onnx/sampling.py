"""ONNX's Resize, Upsample and GridSample in PyTorch's float64: ONNX's own go from pixel to pixel in Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx.reference.op_run import OpRun
from torch import Tensor
from torch.nn import functional as F

from edgekit.onnx.refusal import Unhandled
from edgekit.onnx.windows import tensor_of
from edgekit.tensors import Array


class _Axis(NamedTuple):
    """One axis of a resize: its size before and after, and the factor that maps coordinates."""

    before: int
    after: int
    scale: float


class Resize(OpRun):
    """ONNX's Resize, axis by axis: nearest, linear and cubic, without antialiasing and cropping."""

    op_domain = ""

    def _run(self, x: Array, roi: Any = None, scales: Any = None, sizes: Any = None, **attributes: Any) -> Any:
        if attributes.get("antialias") or attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise Unhandled("Resize is antialiased, or keeps the aspect")
        if self.run_params["opsets"].get("", 11) < 11:  # then its second input is what scales is now
            scales, attributes = roi, {"mode": attributes["mode"], **_AS_UPSAMPLE}
        which = attributes.get("axes") or range(x.ndim)
        axes = dict(zip([axis % x.ndim for axis in which], _axes_of(x, which, scales, sizes), strict=True))
        return (_resized(x, axes, attributes).numpy(),)


class Upsample(OpRun):
    """ONNX's Upsample, which Resize replaced in opset 10; its coordinates are ``asymmetric``."""

    op_domain = ""

    def _run(self, x: Array, factors: Any = None, mode: str = "nearest", scales: Any = None) -> Any:
        axes = dict(enumerate(_axes_of(x, range(x.ndim), np.asarray(scales if factors is None else factors), None)))
        return (_resized(x, axes, {"mode": mode, **_AS_UPSAMPLE}).numpy(),)


_AS_UPSAMPLE = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


class GridSample(OpRun):
    """ONNX's GridSample; x is N x C x ..., the grid N x ... x rank with its last axis in the order x, y, z."""

    op_domain = ""

    def _run(self, x: Array, grid: Array, mode: str = "linear", padding_mode: str = "zeros", align_corners: int = 0) -> Any:
        name = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
        return (F.grid_sample(tensor_of(x), tensor_of(grid), name, padding_mode, bool(align_corners)).numpy(),)


def _axes_of(x: Array, which: Sequence[int], scales: Any, sizes: Any) -> list[_Axis]:
    """Sizes and scales of the axes ``which``, from the scales or from the sizes after."""
    before = [x.shape[axis] for axis in which]
    if scales is not None and len(scales):
        return [_Axis(size, math.floor(size * float(scale)), float(scale)) for size, scale in zip(before, scales, strict=True)]
    if sizes is None:
        raise Unhandled("Resize has neither scales nor sizes")
    return [_Axis(size, int(after), int(after) / size) for size, after in zip(before, sizes, strict=True)]


def _resized(x: Array, axes: dict[int, _Axis], attributes: dict[str, Any]) -> Tensor:
    values = tensor_of(x)
    for number, axis in axes.items():
        if axis.before == axis.after and axis.scale == 1:
            continue
        places = _places(axis, attributes.get("coordinate_transformation_mode", "half_pixel"))
        total: Tensor | None = None
        for index, weight in _taps(axis, places, attributes):
            shape = [-1 if position == number else 1 for position in range(x.ndim)]
            part = values.index_select(number, torch.from_numpy(index)) * torch.from_numpy(weight).reshape(shape)
            total = part if total is None else total + part
        assert total is not None
        values = total
    return values


def _places(axis: _Axis, mode: str) -> Array:
    """Where the pixels after lie among the pixels before, counted in pixels from the middle of the first."""
    after = np.arange(axis.after, dtype=np.float64)
    if mode == "align_corners":
        return after * (axis.before - 1) / (axis.after - 1) if axis.after > 1 else after
    if mode == "asymmetric":
        return after / axis.scale
    if mode == "pytorch_half_pixel" and axis.after == 1:
        return after - 0.5
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (after + 0.5) / axis.scale - 0.5
    if mode == "half_pixel_symmetric":
        adjusted = axis.after / (axis.scale * axis.before)
        return axis.before / 2 * (1 - adjusted) + (after + 0.5) / axis.scale - 0.5
    raise Unhandled(f"Resize has the coordinates {mode}")


def _taps(axis: _Axis, places: Array, attributes: dict[str, Any]) -> list[tuple[Array, Array]]:
    """Pairs of indices and weights, whose weighted sum is the result."""
    mode, last = attributes.get("mode", "nearest"), axis.before - 1
    if mode == "nearest":
        nearest = _NEAREST[attributes.get("nearest_mode", "round_prefer_floor")](places)
        return [(np.clip(nearest, 0, last).astype(np.int64), np.ones(len(places)))]
    first = np.floor(places)
    if mode == "linear":
        places = np.clip(places, 0, last)
        first = np.floor(places)
        share = places - first
        weights = {0: 1 - share, 1: share}
    else:
        weights = _cubic(places - first, attributes.get("cubic_coeff_a", -0.75))
    inside = {shift: (first + shift >= 0) & (first + shift <= last) for shift in weights}
    if attributes.get("exclude_outside"):
        weights = {shift: weight * inside[shift] for shift, weight in weights.items()}
        total = sum(weights.values())
        weights = {shift: weight / total for shift, weight in weights.items()}
    return [(np.clip(first + shift, 0, last).astype(np.int64), weight) for shift, weight in weights.items()]


_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda places: np.ceil(places - 0.5),
    "round_prefer_ceil": lambda places: np.floor(places + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _cubic(share: Array, a: float) -> dict[int, Array]:
    """Keys' cubic weights of the four pixels around a place that is ``share`` of a pixel behind the second."""
    near = {shift: np.abs(share - shift) for shift in (0, 1)}
    far = {shift: np.abs(share - shift) for shift in (-1, 2)}
    weights = {shift: ((a + 2) * away - (a + 3)) * away**2 + 1 for shift, away in near.items()}
    return weights | {shift: ((away - 5) * away + 8) * away * a - 4 * a for shift, away in far.items()}
