"""In which precision layers compute: what the network says, what an engine really does, and whether that is what was asked for.

The ONNX file decides. Where networks are typed strongly its types are binding; TensorRT 8.6 is held to them layer by layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.reports import EngineLayer, LayerCount, PrecisionReport
from edgekit.trt.flavour import Flavour

_NUMPY_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8",
    "FP4": "float4",
    "E8M0": "float8e8m0",
}
COMPUTING = ("CONVOLUTION", "DECONVOLUTION", "FULLY_CONNECTED", "MATRIX_MULTIPLY", "EINSUM")
"""Layers whose precision costs time and accuracy; the others take what these leave them."""
COMPUTING_NODES = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")
"""The same, as ONNX operators."""
TYPELESS = ("CONSTANT", "SHAPE", "QUANTIZE", "DEQUANTIZE", "CAST", "IDENTITY")
NAMELESS = "node_of_"
"""What TensorRT's parser puts before the name of what a nameless node puts out."""
STRONG, CONSTRAINED = "strongly typed: the file's types are binding", "weakly typed: layers are constrained to the file's types"


def numpy_name(dtype: Any) -> str:
    """``DataType.HALF`` -> ``float16``."""
    name = str(dtype.name)
    return _NUMPY_NAMES.get(name, name.lower())


def computing_nodes(proto: Any) -> frozenset[str]:
    """Names of the main graph's nodes that compute; one without a name is called as TensorRT's parser does."""
    return frozenset(
        node.name or f"{NAMELESS}{node.output[0]}" for node in proto.graph.node if node.op_type in COMPUTING_NODES and node.output
    )


def count_layers(network: Any, asked: Mapping[int, str]) -> tuple[LayerCount, ...]:
    """Kinds of layer with their precision, the most frequent first; ``asked``: what was asked of a layer, by its number.

    A layer computes in the type it puts out; fed by DEQUANTIZE it becomes a layer of the type that was dequantised.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    made_by: dict[str, Any] = {}
    for layer in layers:
        for index in range(layer.num_outputs):
            tensor = layer.get_output(index)
            made_by[tensor.name] = layer
    counts = Counter((str(layer.type.name), asked.get(index) or _precision(layer, made_by)) for index, layer in enumerate(layers))
    return tuple(LayerCount(kind, precision, count) for (kind, precision), count in counts.most_common())


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
    """The DEQUANTIZE layer that feeds this one, or None."""
    tensor = layer.get_input(0) if layer.num_inputs else None
    source = made_by.get(tensor.name) if tensor is not None else None
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
    asked: dict[int, str] = {}
    made_by: dict[str, Any] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs == 0:
            continue
        dtype = wanted.get(_element_type(layer, types))
        free = layer.type.name in TYPELESS or _dequantize(layer, made_by) is not None
        tensor = layer.get_output(0)
        made_by[tensor.name] = layer
        if dtype is not None and not free:
            layer.precision = dtype
            layer.set_output_type(0, dtype)
            asked[index] = numpy_name(dtype)
    return asked


def _element_types(proto: Any) -> dict[str, int]:
    """What the file says of each of its tensors."""
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


def judge(
    asked: str, flavour: Flavour, layers: Sequence[LayerCount], engine: Sequence[EngineLayer] | None, why_not: str, tf32: bool
) -> PrecisionReport:
    """Hold the network against what was asked for, and the engine, where it could be read, against the network."""
    in_network = _of_network(layers)
    problems = []
    if in_network and asked not in in_network:
        problems.append(f"{asked} was asked for, and the network computes in {', '.join(in_network)}")
    if asked == "float32" and len(in_network) > 1:
        problems.append(
            f"float32 was asked for, and the network also computes in {', '.join(one for one in in_network if one != asked)}"
        )
    told = [one for one in engine or () if one.computes and one.precisions]
    if engine is not None and not told:
        why_not = "the engine does not say what its layers compute in"
    if told:
        problems += _against_network(told, in_network, asked)
    problems += _tf32(engine or (), tf32)
    found = tuple(dict.fromkeys(_likeliest(one, in_network) for one in told)) or in_network
    return PrecisionReport(
        asked=asked,
        typing=STRONG if flavour.strongly_typed else CONSTRAINED,
        read_from="engine" if told else "network",
        found=found,
        problems=tuple(problems),
        engine=tuple(engine or ()),
        note=_open_questions(told) if told else f"read off the network, not off the engine: {why_not}",
    )


def _of_network(layers: Sequence[LayerCount]) -> tuple[str, ...]:
    computing = [one.precision for one in layers if one.kind in COMPUTING]
    floating = [one.precision for one in layers if one.precision.startswith(("float", "bfloat"))]
    return tuple(dict.fromkeys(computing or floating))


def _against_network(told: Sequence[EngineLayer], in_network: Sequence[str], asked: str) -> list[str]:
    problems = []
    wrong = [one for one in told if not set(one.precisions) & set(in_network)]
    if wrong:
        some = ", ".join(f"{one.name} in {one.precisions[0]}" for one in wrong[:3])
        problems.append(f"{len(wrong)} layer(s) run in another precision than the network's {', '.join(in_network)}: {some}")
    if asked in in_network and not any(asked in one.precisions for one in told):
        problems.append(f"no layer of the engine computes in {asked}")
    return problems


def _tf32(engine: Sequence[EngineLayer], allowed: bool) -> list[str]:
    """Of every layer: a kernel made of several nodes may be of any kind."""
    rounding = [one.name for one in engine if "tf32" in one.tactic.lower()]
    if not rounding or allowed:
        return []
    return [f"TF32 is off, and {len(rounding)} layer(s) use it: {', '.join(rounding[:3])}"]


def _likeliest(one: EngineLayer, in_network: Sequence[str]) -> str:
    return next((precision for precision in one.precisions if precision in in_network), one.precisions[0])


def _open_questions(told: Sequence[EngineLayer]) -> str:
    unclear = [one for one in told if len(one.precisions) > 1]
    if not unclear:
        return ""
    some = ", ".join(f"{one.name} in {' or '.join(one.precisions)}" for one in unclear[:3])
    return f"of {len(unclear)} layer(s) the engine does not say which it is: {some}"
