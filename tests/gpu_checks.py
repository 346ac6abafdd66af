"""What the tests on a GPU share: their mark, and what holds for every backend's own clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgekit.machine.gpu import cuda_absence
from edgekit.reports.bench import LatencyReport

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(bool(cuda_absence()), reason=f"no CUDA: {cuda_absence()}")]


def check_own_clock(rows: Sequence[LatencyReport]) -> None:
    """It may not count more than the host's did, unless it waited for the host, which may have slowed down since."""
    timed = [row for row in rows if row.boundary == "device"]
    assert timed
    for row in timed:
        assert np.median(row.device_ms) > 0
        assert row.launch_bound or np.median(row.device_ms) <= 1.1 * row.median_ms
