"""y = scale * x + shift, for values of any rank: the whole algebra of folding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Affine(NamedTuple):
    """y = scale * x + shift, element by element.

    Both are float64 and have the rank of x, with size 1 along every axis on which they do not depend. A batch norm of an
    image has the shape 1 x C x 1 x 1; behind a flatten the same map has the shape 1 x CHW. Axes of unknown size are always 1.
    """

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, scale: Tensor, shift: Tensor) -> Affine:
        """With every axis that can be dropped, dropped."""
        return cls(compact(scale), compact(shift))

    @classmethod
    def identity(cls, rank: int) -> Affine:
        """Y = x."""
        return cls(torch.ones((1,) * rank, dtype=torch.float64), torch.zeros((1,) * rank, dtype=torch.float64))

    def then(self, after: Affine) -> Affine:
        """after(self(x)) = (s2 s1) x + (s2 t1 + t2)."""
        return Affine.of(after.scale * self.scale, after.scale * self.shift + after.shift)

    def without_shift(self) -> Affine:
        """Scale * x."""
        return Affine(self.scale, torch.zeros_like(self.scale[(slice(0, 1),) * self.scale.dim()]))

    @property
    def shifts(self) -> bool:
        """Whether any shift is not zero."""
        return bool(self.shift.any())

    @property
    def is_identity(self) -> bool:
        """Y = x."""
        return not self.shifts and bool((self.scale == 1).all())

    @property
    def never_negative(self) -> bool:
        """Whether the order of values is kept."""
        return bool((self.scale >= 0).all())

    @property
    def finite(self) -> bool:
        """Whether every number is."""
        return bool(self.scale.isfinite().all() and self.shift.isfinite().all())

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which the map is not the same everywhere."""
        pairs = enumerate(zip(self.scale.shape, self.shift.shape, strict=True))
        return tuple(axis for axis, sizes in pairs if max(sizes) > 1)

    def along(self, axis: int, size: int) -> tuple[Tensor, Tensor]:
        """Scale and shift as vectors, of a map that varies along no other axis than this one."""
        assert set(self.axes) <= {axis % self.scale.dim()}
        return self.scale.reshape(-1).expand(size), self.shift.reshape(-1).expand(size)

    def split(self, axis: int, sizes: Sequence[int]) -> list[Affine]:
        """The shares of the pieces of a concatenation."""
        parts = (torch.split(repeated(part, axis, sum(sizes)), list(sizes), axis) for part in self)
        return [Affine.of(scale, shift) for scale, shift in zip(*parts, strict=True)]


def joined(maps: Sequence[Affine], axis: int, sizes: Sequence[int]) -> Affine:
    """The map of a concatenation whose pieces have these maps and these sizes along ``axis``."""

    def whole(parts: list[Tensor]) -> Tensor:
        shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
        wide = [part.expand(*shape[:axis], size, *shape[axis + 1 :]) for part, size in zip(parts, sizes, strict=True)]
        return torch.cat(wide, axis)

    return Affine.of(whole([affine.scale for affine in maps]), whole([affine.shift for affine in maps]))


def repeated(part: Tensor, axis: int, size: int) -> Tensor:
    """Repeated along ``axis`` up to ``size`` where it has size 1."""
    return part.expand(*part.shape[:axis], size, *part.shape[axis + 1 :])


def reshaped(part: Tensor, sizes: Sequence[int], wanted: Sequence[int]) -> Tensor:
    """What ``part``, spread over a value of ``sizes``, is after that value is reshaped to ``wanted``."""
    if part.numel() == 1:
        return part.reshape((1,) * len(wanted))
    return compact(part.expand(*sizes).reshape(*wanted))


def compact(part: Tensor) -> Tensor:
    """Of size 1 along each axis on which nothing depends."""
    for axis, size in enumerate(part.shape):
        if size > 1:
            first = part.narrow(axis, 0, 1)
            if bool((part == first).all()):
                part = first
    return part
