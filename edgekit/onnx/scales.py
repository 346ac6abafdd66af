"""An ONNX file with other scales in its steps of 8 bits, written without the onnx package: verify does so on a board."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from edgekit.onnx.arithmetic import FLOATS, constant_floats, constant_tensors, read_through
from edgekit.onnx.bodies import Body, alive, bodies
from edgekit.onnx.declared import initializers, of_tensor
from edgekit.onnx.wire import fields, singles
from edgekit.tensors import Array

_STEPS = ("QuantizeLinear", "DequantizeLinear")
_RAW, _PACKED = 9, {"float32": 4, "float64": 10}
"""Fields of a tensor that hold its numbers as they lie in memory: raw_data, and float_data and double_data."""
_ATTRIBUTE_FLOAT, _ATTRIBUTE_FLOATS = 2, 7


def rescaled(content: bytes, change: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> bytes:
    """The file with the scales of the main graph's steps as ``change`` gives them, wherever their float32 or float64 numbers lie.

    They may be stored or Constants, also behind a Cast or in another shape. ``change`` takes and gives name -> scales, in one
    axis and of the dtype that they have in the file. Scales of 16 bits stay: a unit of theirs moves a network further than
    rounding in float32 does. Raises ValueError for a malformed message.
    """
    copy, read = bytearray(content), set(_read(bodies(content)[0]))
    pieces = {name: lying for name, lying in _numbers(copy).items() if name in read}
    for name, moved in change({name: np.concatenate(lying) for name, lying in pieces.items()}).items():
        start = 0
        for piece in pieces[name]:
            piece[:] = moved[start : start + len(piece)]
            start += len(piece)
    return bytes(copy)


def scales_in_half(content: bytes) -> bool:
    """Whether a scale of the main graph's steps is stored in float16; values are rounded to that before they are codes."""
    half = {name for name, tensor in _tensors(content).items() if FLOATS.get(of_tensor(tensor)[0]) == "float16"}
    return not half.isdisjoint(_read(bodies(content)[0]))


def scales_unknown(content: bytes) -> tuple[str, ...]:
    """The scales of the main graph's steps that no stored floats are: those that nodes compute, or that are inputs."""
    stored = {name for name, tensor in _tensors(content).items() if of_tensor(tensor)[0] in FLOATS}
    known = stored | set(constant_floats(content))
    return tuple(name for name in dict.fromkeys(_read(bodies(content)[0])) if name not in known)


def _read(body: Body) -> Iterator[str]:
    """Where the scales of the steps of ``body`` lie; those that are in steps themselves are moved by the scale of these."""
    for node in alive(body):
        if node.operator[1] in _STEPS and len(node.inputs) > 1:
            *passed, name = read_through(node.inputs[1], body)
            if not any(body.producers[each].operator[1] == "DequantizeLinear" for each in passed):
                yield name


def _tensors(content: bytes | bytearray) -> dict[str, memoryview]:
    """Value -> the tensor that is stored for it, as an initializer or a Constant, in the memory of ``content``."""
    return {of_tensor(tensor)[2]: tensor for tensor in initializers(content)} | constant_tensors(content)


def _numbers(content: bytearray) -> dict[str, list[Array]]:
    """Value -> the float32 or float64 numbers that are stored for it, in pieces that lie in the memory of ``content``."""
    found = {name: _of_tensor(tensor) for name, tensor in _tensors(content).items()}
    for name, attribute in constant_floats(content).items():
        found[name] = _floats(attribute, "float32", (_ATTRIBUTE_FLOAT, _ATTRIBUTE_FLOATS))
    return {name: pieces for name, pieces in found.items() if pieces}


def _of_tensor(tensor: memoryview) -> list[Array]:
    """The float32 or float64 numbers of a tensor; none of any other."""
    dtype = FLOATS.get(of_tensor(tensor)[0], "")
    return _floats(tensor, dtype, (_RAW, _PACKED[dtype])) if dtype in _PACKED else []


def _floats(message: memoryview, dtype: str, numbers: tuple[int, ...]) -> list[Array]:
    """The floats of a message's fields ``numbers``, packed or each by itself."""
    packed = (value for number, value in fields(message) if number in numbers and isinstance(value, memoryview) and value)
    alone = (value for number, value in singles(message) if number in numbers and dtype == "float32")
    return [np.frombuffer(value, np.dtype(dtype).newbyteorder("<")) for value in (*packed, *alone)]
