"""An ONNX file with other scales in its steps of 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
from onnx import numpy_helper

from edgekit.tensors import Array


def rescaled(content: bytes, change: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> bytes:
    """The file with the stored scales of its DequantizeLinear nodes, which QuantizeLinear nodes share, as ``change`` gives them.

    ``change`` takes and gives name -> scales, of the dtype and shape that they have in the file.
    """
    model = onnx.load_from_string(content)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    names = dict.fromkeys(node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear")
    for name, scales in change({name: numpy_helper.to_array(stored[name]) for name in names if name in stored}).items():
        stored[name].CopyFrom(numpy_helper.from_array(scales, name))
    return bytes(model.SerializeToString())
