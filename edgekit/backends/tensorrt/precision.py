"""The precision in which each layer of a network is to compute.

The ONNX file decides. Where networks are typed strongly its types are binding; TensorRT 8.6 is held to them layer by layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from edgekit.backends.tensorrt.flavour import Flavour
from edgekit.backends.tensorrt.names import onnx_nodes
from edgekit.reports.build import LayerCount

_NUMPY_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8",
    "FP4": "float4",
    "E8M0": "float8e8m0",
}
COMPUTING = ("CONVOLUTION", "DECONVOLUTION", "FULLY_CONNECTED", "MATRIX_MULTIPLY", "EINSUM", "ATTENTION_INPUT")
"""Layers whose precision costs time and accuracy; the others take what these leave them."""
TRANSPARENT, LONGEST_WAY = ("SHUFFLE", "UNSQUEEZE", "SQUEEZE", "POOLING", "CONCATENATION"), 8
TYPELESS = ("CONSTANT", "SHAPE", "QUANTIZE", "DEQUANTIZE", "CAST", "IDENTITY")


class NetworkLayers(NamedTuple):
    """The precisions in which a parsed network is to compute.

    ``counts``: kinds of layer with their precision, the most frequent first; ``nodes``: of each ONNX node whose precision costs
    time and accuracy, what its layer computes in.
    """

    counts: tuple[LayerCount, ...]
    nodes: Mapping[str, str]

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions of the layers that multiply; of all floating point layers where none multiplies."""
        computing = [count.precision for count in self.counts if count.kind in COMPUTING]
        floating = [count.precision for count in self.counts if count.precision.startswith(("float", "bfloat"))]
        return tuple(dict.fromkeys(computing or floating))


def numpy_name(dtype: Any) -> str:
    """``DataType.HALF`` -> ``float16``."""
    name = str(dtype.name)
    return _NUMPY_NAMES.get(name, name.lower())


def network_layers(network: Any, asked: Mapping[int, str]) -> NetworkLayers:
    """Read off a parsed network; ``asked``: what was asked of a layer, by its number.

    A layer computes in the type it puts out; fed by DEQUANTIZE it becomes a layer of the type that was dequantised.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    made_by: dict[str, Any] = {}
    for layer in layers:
        for index in range(layer.num_outputs):
            tensor = layer.get_output(index)
            made_by[tensor.name] = layer
    counts: Counter[tuple[str, str]] = Counter()
    nodes: dict[str, str] = {}
    for index, layer in enumerate(layers):
        kind, precision = str(layer.type.name), asked.get(index) or _precision(layer, made_by)
        counts[kind, precision] += 1
        if kind in COMPUTING:
            nodes.update(dict.fromkeys(onnx_nodes(str(layer.metadata)) or (str(layer.name),), precision))
    return NetworkLayers(tuple(LayerCount(kind, precision, count) for (kind, precision), count in counts.most_common()), nodes)


def _precision(layer: Any, made_by: dict[str, Any]) -> str:
    source = _dequantize(layer, made_by) if layer.type.name in COMPUTING else None
    if source is not None:
        tensor = source.get_input(0)
        return numpy_name(tensor.dtype)
    if layer.num_outputs == 0:
        return ""
    tensor = layer.get_output(0)
    return numpy_name(tensor.dtype)


def _dequantize(layer: Any, made_by: Mapping[str, Any]) -> Any:
    """The DEQUANTIZE layer that feeds this one, or None; TensorRT moves it behind what leaves the numbers as they are."""
    source = layer
    for _ in range(LONGEST_WAY):
        tensor = source.get_input(0) if source.num_inputs else None
        source = made_by.get(tensor.name) if tensor is not None else None
        if source is None or source.type.name not in TRANSPARENT:
            break
    return source if source is not None and source.type.name == "DEQUANTIZE" else None


def constrain(api: Any, flavour: Flavour, config: Any, network: Any, proto: Any) -> dict[int, str]:
    """On a weakly typed flavour: allow the types that the file holds, and ask for each layer's own.

    Gives what was asked of which layer, by its number. Without float16 in the file there is nothing to choose: all is float32, or
    int8 between Q and DQ nodes, which TensorRT fuses only where nothing is asked of the layer between.
    """
    assert flavour.precision_flags
    import onnx

    types = _element_types(proto)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in proto.graph.node):
        config.set_flag(api.BuilderFlag.INT8)
    if onnx.TensorProto.FLOAT16 not in types.values():
        return {}
    config.set_flag(api.BuilderFlag.FP16)
    config.set_flag(api.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    wanted: dict[int, Any] = {onnx.TensorProto.FLOAT: api.DataType.FLOAT, onnx.TensorProto.FLOAT16: api.DataType.HALF}
    constrained: dict[int, str] = {}
    made_by: dict[str, Any] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs == 0:
            continue
        dtype = wanted.get(_element_type(layer, types))
        free = layer.type.name in TYPELESS or _dequantize(layer, made_by) is not None
        tensor = layer.get_output(0)
        made_by[tensor.name] = layer
        # a comparison puts out bools, of whatever type its inputs are
        if dtype is not None and not free and tensor.dtype in wanted.values():
            layer.precision = dtype
            layer.set_output_type(0, dtype)
            constrained[index] = numpy_name(dtype)
    return constrained


def _element_types(proto: Any) -> dict[str, int]:
    """The type of each of the file's tensors."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    weights = {held.name: held.data_type for held in proto.graph.initializer}
    return weights | {value.name: value.type.tensor_type.elem_type for value in values}


def _element_type(layer: Any, types: dict[str, int]) -> int:
    """The type of what a layer puts out; of a Gemm the parser makes several, and what lies between has its input's type."""
    tensor = layer.get_output(0)
    name = tensor.name
    for index in range(layer.num_inputs if layer.type.name not in TYPELESS else 0):
        tensor = layer.get_input(index)
        if name not in types and tensor is not None and tensor.name in types:
            types[name] = types[tensor.name]
    return types.get(name, 0)
