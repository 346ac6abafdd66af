"""What rounding in float32 does to the outputs of an int8 file: a value between two codes may become either."""

from __future__ import annotations

from functools import partial

from edgekit.onnx.scales import rescaled
from edgekit.parity.inputs import Recorded
from edgekit.parity.noise import jittered
from edgekit.parity.rounding import steps_moved
from edgekit.tensors import Array
from edgekit.variants.int8_network import FloatNetwork

DRAWS = 4
"""Files with other last places of the scales that are run."""


def rounding_steps(network: FloatNetwork, content: bytes, recorded: Recorded, own: dict[str, Array]) -> float:
    """The most steps by which the outputs ``own`` move when every stored scale moves by a unit in its last place.

    Kernels of other CPUs sum in another order, which moves values that lie between two codes to the other one. Where that moves
    more than a few samples, the steps of the usual sample count more (see ``edgekit.parity.rounding.steps_moved``).
    """
    files = (rescaled(content, partial(jittered, seed=seed)) for seed in range(DRAWS))
    return max(steps_moved(network.outputs(file, recorded.arrays.inputs), own, recorded.sizes) for file in files)
