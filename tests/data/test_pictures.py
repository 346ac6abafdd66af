"""Indices spread over a data set, and statistics by channel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data import channel_statistics
from edgekit.data.pictures import spread


@given(total=st.integers(1, 500), count=st.integers(1, 600))
def test_spread_gives_distinct_indices_from_first_to_last(total: int, count: int) -> None:
    chosen = spread(total, count)
    assert len(chosen) == min(total, count)
    assert chosen[0] == 0
    assert len(chosen) == 1 or chosen[-1] == total - 1
    assert (np.diff(chosen) > 0).all()


def test_channel_statistics_are_numpys() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 6, 5)).astype(np.uint8)
    images[:, 1] //= 3
    images[:, 2] = 51
    means, stds = channel_statistics(images)
    scaled = images.astype(np.float64) / 255
    assert means == pytest.approx(scaled.mean((0, 2, 3)), abs=1e-6)
    assert stds[:2] == pytest.approx(scaled.std((0, 2, 3))[:2], abs=1e-6)
    assert stds[:2] != pytest.approx(scaled.std((0, 2, 3))[:2] * 1.01, abs=1e-6)
    assert stds[2] == 1.0
