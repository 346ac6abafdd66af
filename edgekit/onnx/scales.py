"""An ONNX file with other scales in its steps of 8 bits, written without the onnx package: verify does so on a board."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgekit.onnx.arithmetic import constant_tensors
from edgekit.onnx.bodies import alive, bodies
from edgekit.onnx.declared import initializers, of_tensor
from edgekit.onnx.wire import fields
from edgekit.tensors import Array

_STEPS = ("QuantizeLinear", "DequantizeLinear")
_PACKED, _RAW = {4: "<f4", 10: "<f8"}, 9
"""Fields of a tensor that hold its numbers as they lie in memory: float_data and double_data by number, and raw_data."""
_FLOATS = {1: "<f4", 10: "<f2", 11: "<f8"}


def rescaled(content: bytes, change: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> bytes:
    """The file with the scales of the main graph's steps, stored or Constants, as ``change`` gives them.

    ``change`` takes and gives name -> scales, in one axis and of the dtype that they have in the file. Raises ValueError for a
    malformed message.
    """
    copy = bytearray(content)
    body, _ = bodies(content)
    read = dict.fromkeys(node.inputs[1] for node in alive(body) if node.operator[1] in _STEPS and len(node.inputs) > 1)
    tensors = {of_tensor(tensor)[2]: tensor for tensor in initializers(copy)} | constant_tensors(copy)
    scales = {name: numbers for name in read if name in tensors and (numbers := _numbers(tensors[name])) is not None}
    for name, moved in change(scales).items():
        scales[name][:] = moved
    return bytes(copy)


def _numbers(tensor: memoryview) -> Array | None:
    """A float tensor's numbers in the memory of its file; None where they do not lie there as numpy has them."""
    kind = _FLOATS.get(of_tensor(tensor)[0], "")
    for number, value in fields(tensor):
        if isinstance(value, memoryview) and value and kind and kind == (kind if number == _RAW else _PACKED.get(number)):
            return np.frombuffer(value, kind)
    return None
