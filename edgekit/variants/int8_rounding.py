"""What rounding in float32 does to the outputs of an int8 file: a value between two codes may become either."""

from __future__ import annotations

from edgekit.parity.inputs import Recorded
from edgekit.parity.noise import moved_readings
from edgekit.parity.rounding import steps_moved
from edgekit.tensors import Array
from edgekit.variants.int8_network import FloatNetwork


def rounding_steps(network: FloatNetwork, content: bytes, recorded: Recorded, own: dict[str, Array]) -> float:
    """The most steps by which the outputs ``own`` move when inputs and stored scales move by a unit in the last place.

    Kernels of other CPUs sum in another order, which moves values that lie between two codes to the other one. Where that moves
    more than a few samples, the steps of the usual sample count more (see ``edgekit.parity.rounding.steps_moved``).
    """
    readings = moved_readings(content, recorded.arrays.inputs)
    return max(steps_moved(network.outputs(*reading), own, recorded.sizes) for reading in readings)
