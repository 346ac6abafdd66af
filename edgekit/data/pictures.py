"""Labelled pictures in memory."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray


class Pictures(msgspec.Struct, frozen=True):
    """``images`` uint8 N x C x H x W; ``labels`` int64 N."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def spread(total: int, count: int) -> NDArray[np.int64]:
    """At most ``count`` indices spread evenly over ``range(total)``."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
