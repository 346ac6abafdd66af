"""What rounding in float32 does to the outputs of an int8 file: a value between two codes may become either."""

from __future__ import annotations

import msgspec
import onnx
from onnx import numpy_helper

from edgekit.onnx.qdq import CODES
from edgekit.parity.converted import usual_steps
from edgekit.parity.inputs import Recorded
from edgekit.parity.noise import jittered
from edgekit.tensors import Array
from edgekit.variants.int8_network import FloatNetwork

DRAWS = 4
"""Files with other last places of the scales that are run."""
TIMES_USUAL = 8
"""``verify`` lets the usual sample be off by a 16th of four times the steps that are told here: twice what was seen."""


def rounding_steps(network: FloatNetwork, content: bytes, recorded: Recorded, own: dict[str, Array]) -> float:
    """The most steps by which the outputs ``own`` move when every stored scale moves by a unit in its last place.

    Kernels of other CPUs sum in another order, which moves values that lie between two codes to the other one. Where that moves
    more than a few samples, the steps of the usual sample count ``TIMES_USUAL`` times.
    """
    against_own = recorded._replace(arrays=msgspec.structs.replace(recorded.arrays, float64=own))
    most = 0.0
    for seed in range(DRAWS):
        moved = network.outputs(moved_scales(content, seed), recorded.arrays.inputs)
        usual = max(usual_steps(moved[name], array, recorded.sizes) for name, array in own.items())
        most = max(most, CODES * against_own.error(moved), TIMES_USUAL * usual)
    return most


def moved_scales(content: bytes, seed: int) -> bytes:
    """The file with every float32 scale of its stored codes moved by one unit in the last place, up or down at random."""
    model = onnx.load_from_string(content)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    names = dict.fromkeys(node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear")
    moved = jittered({name: numpy_helper.to_array(stored[name]) for name in names if name in stored}, seed)
    for name, scales in moved.items():
        stored[name].CopyFrom(numpy_helper.from_array(scales, name))
    return bytes(model.SerializeToString())
