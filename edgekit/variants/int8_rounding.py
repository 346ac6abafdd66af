"""What rounding in float32 does to the outputs of an int8 file: a value between two codes may become either."""

from __future__ import annotations

from functools import partial

from edgekit.onnx.scales import rescaled
from edgekit.parity.inputs import Recorded
from edgekit.parity.noise import jittered
from edgekit.parity.rounding import steps_moved
from edgekit.tensors import Array
from edgekit.variants.int8_network import FloatNetwork

DRAWS = 2
"""Pairs of files with other last places of the scales that are run: in one of a pair all go the other way."""


def rounding_steps(network: FloatNetwork, content: bytes, recorded: Recorded, own: dict[str, Array]) -> float:
    """The most steps by which the outputs ``own`` move when every stored scale moves by a unit in its last place.

    Kernels of other CPUs sum in another order, which moves values that lie between two codes to the other one. Where that moves
    more than a few samples, the steps of the usual sample count more (see ``edgekit.parity.rounding.steps_moved``).
    """
    ways = ((seed, way) for seed in range(DRAWS) for way in (1, -1))  # a value between two codes falls to the other one in one
    files = (rescaled(content, partial(jittered, seed=seed, units=way)) for seed, way in ways)
    return max(steps_moved(network.outputs(file, recorded.arrays.inputs), own, recorded.sizes) for file in files)
