"""What rounding in float32 does to an int8 file is the most that any reading shows, and eight times the usual sample's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import GoldenPart
from edgekit.parity.inputs import Recorded
from edgekit.tensors import Array
from edgekit.variants.int8_rounding import rounding_steps
from tests.onnx.crafted import model_of, node

OWN = np.random.default_rng(0).uniform(-1, 1, (40, 10))
OWN[0, 0] = 1.0  # the scale
RECORDED = Recorded(GoldenArrays({"x": np.zeros((40, 1))}, {"y": OWN}, {"y": OWN}, None), (GoldenPart("normal", 40),))
CONTENT = model_of([node("Relu", ["x"], "y")], []).SerializeToString()


class Moved:
    """A network whose files give ``OWN``, moved by so many steps in the first samples, one reading after the other."""

    def __init__(self, steps: Sequence[float], samples: int) -> None:
        self.steps, self.samples = iter(steps), samples

    def outputs(self, content: bytes, feed: dict[str, Array]) -> dict[str, Array]:
        moved = OWN.copy()
        moved[: self.samples] += next(self.steps) / 127
        return {"y": moved}


@pytest.mark.parametrize(
    ("steps", "samples", "told"),
    [((0,) * 7 + (2.0,), 4, 2.0), ((0.5, 0.1) + (0,) * 6, 4, 0.5), ((0, 0.1) + (0,) * 6, 40, 0.8), ((0,) * 8, 40, 0)],
)
def test_the_worst_draw_counts_and_one_that_moves_most_samples_counts_eight_times(
    steps: Sequence[float], samples: int, told: float
) -> None:
    network: Any = Moved(steps, samples)
    assert rounding_steps(network, CONTENT, RECORDED, {"y": OWN}) == pytest.approx(told)
