"""Affine maps y = scale * x + shift on values of any rank: the algebra of folding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Affine(NamedTuple):
    """The map y = scale * x + shift, element by element.

    ``scale`` and ``shift`` are float64 tensors of x's rank, with size 1 along every axis on which they do not depend. For a
    batch norm of an image they have the shape 1 x C x 1 x 1; after a flatten, 1 x CHW. Axes of unknown size always have size 1.
    """

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, scale: Tensor, shift: Tensor) -> Affine:
        """The map with every axis on which nothing depends reduced to size 1."""
        return cls(compact(scale), compact(shift))

    @classmethod
    def identity(cls, rank: int) -> Affine:
        """The map y = x for values of ``rank`` axes."""
        return cls(torch.ones((1,) * rank, dtype=torch.float64), torch.zeros((1,) * rank, dtype=torch.float64))

    def then(self, after: Affine) -> Affine:
        """The composition after(self(x)) = (s2 s1) x + (s2 t1 + t2)."""
        return Affine.of(after.scale * self.scale, after.scale * self.shift + after.shift)

    def without_shift(self) -> Affine:
        """The map y = scale * x."""
        return Affine(self.scale, torch.zeros_like(self.scale[(slice(0, 1),) * self.scale.dim()]))

    @property
    def shifts(self) -> bool:
        """Whether any shift is not zero."""
        return bool(self.shift.any())

    @property
    def is_identity(self) -> bool:
        """Whether the map is y = x."""
        return not self.shifts and bool((self.scale == 1).all())

    @property
    def never_negative(self) -> bool:
        """Whether no scale is negative, so that the order of values is kept."""
        return bool((self.scale >= 0).all())

    @property
    def finite(self) -> bool:
        """Whether every scale and shift is finite."""
        return bool(self.scale.isfinite().all() and self.shift.isfinite().all())

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which the map varies."""
        pairs = enumerate(zip(self.scale.shape, self.shift.shape, strict=True))
        return tuple(axis for axis, sizes in pairs if max(sizes) > 1)

    def along(self, axis: int, size: int) -> tuple[Tensor, Tensor]:
        """Scale and shift as vectors of ``size``; the map may vary along ``axis`` only."""
        assert set(self.axes) <= {axis % self.scale.dim()}
        return self.scale.reshape(-1).expand(size), self.shift.reshape(-1).expand(size)

    def split(self, axis: int, sizes: Sequence[int]) -> list[Affine]:
        """The map of each piece of a concatenation along ``axis``; ``sizes`` are the pieces' sizes."""
        parts = (torch.split(repeated(part, axis, sum(sizes)), list(sizes), axis) for part in self)
        return [Affine.of(scale, shift) for scale, shift in zip(*parts, strict=True)]


def joined(maps: Sequence[Affine], axis: int, sizes: Sequence[int]) -> Affine:
    """The map of a concatenation along ``axis`` of pieces with ``maps`` and ``sizes``."""

    def whole(parts: list[Tensor]) -> Tensor:
        shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
        wide = [part.expand(*shape[:axis], size, *shape[axis + 1 :]) for part, size in zip(parts, sizes, strict=True)]
        return torch.cat(wide, axis)

    return Affine.of(whole([affine.scale for affine in maps]), whole([affine.shift for affine in maps]))


def repeated(part: Tensor, axis: int, size: int) -> Tensor:
    """``part`` repeated along ``axis`` up to ``size``, if it has size 1 there."""
    return part.expand(*part.shape[:axis], size, *part.shape[axis + 1 :])


def reshaped(part: Tensor, sizes: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The scale or shift of a value after the value is reshaped from ``sizes`` to ``shape``."""
    if part.numel() == 1:
        return part.reshape((1,) * len(shape))
    return compact(part.expand(*sizes).reshape(*shape))


def compact(part: Tensor) -> Tensor:
    """``part`` with size 1 along each axis on which it does not depend."""
    for axis, size in enumerate(part.shape):
        if size > 1:
            first = part.narrow(axis, 0, 1)
            if bool((part == first).all()):
                part = first
    return part
