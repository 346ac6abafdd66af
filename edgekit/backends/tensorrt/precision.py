"""The precision in which each layer of a network is to compute.

The ONNX file decides. Where networks are typed strongly its types are binding; TensorRT 8.6 is held to them layer by layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
TRANSPARENT = ("SHUFFLE", "UNSQUEEZE", "SQUEEZE", "POOLING", "CONCATENATION")
"""Layers behind which TensorRT moves a DEQUANTIZE: they leave the numbers as they are, or compute in 8 bits as well."""
READS = dict.fromkeys(COMPUTING, 2) | {"ELEMENTWISE": 2, "SHUFFLE": 1, "UNSQUEEZE": 1, "SQUEEZE": 1, "POOLING": 1}
"""How many of a layer's inputs are numbers that it computes with, where the others are shapes or a bias."""
TYPELESS = ("CONSTANT", "SHAPE", "QUANTIZE", "DEQUANTIZE", "CAST", "IDENTITY")


class NetworkLayers(NamedTuple):
    """The precisions in which a parsed network is to compute.

    ``counts``: kinds of layer with their precision, the most frequent first; ``nodes``: of each ONNX node whose precision costs
    time and accuracy, what its layer computes in.
    """

    counts: tuple[LayerCount, ...]
    nodes: Mapping[str, str]

    @property
    def totals(self) -> dict[str, int]:
        """Precision -> how many of ``nodes`` compute in it, the most frequent first."""
        return dict(Counter(self.nodes.values()).most_common())

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

    A layer computes in the type it puts out. One whose factors or summands all come from DEQUANTIZE becomes a layer of the type
    that was dequantised; where one of them does not, as with weights that were left in float, it stays what it is.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantised = _dequantised(layers)
    counts: Counter[tuple[str, str]] = Counter()
    nodes: dict[str, str] = {}
    for index, layer in enumerate(layers):
        kind, precision = str(layer.type.name), asked.get(index) or _precision(layer, dequantised)
        counts[kind, precision] += 1
        if kind in COMPUTING:
            nodes.update(dict.fromkeys(onnx_nodes(str(layer.metadata)) or (str(layer.name),), precision))
    return NetworkLayers(tuple(LayerCount(kind, precision, count) for (kind, precision), count in counts.most_common()), nodes)


def _precision(layer: Any, dequantised: Mapping[str, str]) -> str:
    if layer.num_outputs == 0:
        return ""
    stored = _quantised(layer, dequantised) if layer.type.name in (*READS, *TRANSPARENT) else ""
    tensor = layer.get_output(0)
    return stored or numpy_name(tensor.dtype)


def _dequantised(layers: Sequence[Any]) -> dict[str, str]:
    """Tensor -> the type that its numbers had before DEQUANTIZE; the layers are in the order in which they compute."""
    dequantised: dict[str, str] = {}
    for layer in layers:
        kind = layer.type.name
        if kind == "DEQUANTIZE":
            tensor = layer.get_input(0)
            stored = numpy_name(tensor.dtype)
        else:
            stored = _quantised(layer, dequantised) if kind in TRANSPARENT else ""
        if stored:
            tensor = layer.get_output(0)
            dequantised[tensor.name] = stored
    return dequantised


def _quantised(layer: Any, dequantised: Mapping[str, str]) -> str:
    """The one type that all numbers of a layer had before DEQUANTIZE; empty where one of them was in floats all along."""
    needed = READS.get(layer.type.name, layer.num_inputs)
    tensors = [layer.get_input(index) for index in range(min(needed, layer.num_inputs))]
    stored = {dequantised.get(tensor.name, "") for tensor in tensors if tensor is not None}
    return stored.pop() if len(stored) == 1 and len(tensors) == needed else ""


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
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantised = _dequantised(layers)
    for index, layer in enumerate(layers):
        if layer.num_outputs == 0:
            continue
        dtype = wanted.get(_element_type(layer, types))
        free = layer.type.name in TYPELESS or _reads_any(layer, dequantised)
        tensor = layer.get_output(0)
        # a comparison puts out bools, of whatever type its inputs are
        if dtype is not None and not free and tensor.dtype in wanted.values():
            layer.precision = dtype
            layer.set_output_type(0, dtype)
            constrained[index] = numpy_name(dtype)
    return constrained


def _reads_any(layer: Any, dequantised: Mapping[str, str]) -> bool:
    tensors = [layer.get_input(index) for index in range(layer.num_inputs)]
    return any(tensor is not None and tensor.name in dequantised for tensor in tensors)


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
