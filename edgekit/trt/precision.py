"""In which precision layers compute: what the network says, what an engine really does, and whether that is what was asked for.

The ONNX file decides. Where networks are typed strongly its types are binding; TensorRT 8.6 is held to them layer by layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from edgekit.reports import LayerCount, PrecisionReport
from edgekit.trt.flavour import Flavour

_NUMPY_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8",
    "FP4": "float4",
    "E8M0": "float8e8m0",
}
COMPUTING = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM")
"""Layers whose precision costs time and accuracy; the others take what these leave them."""
TYPELESS = ("CONSTANT", "SHAPE", "QUANTIZE", "DEQUANTIZE", "CAST", "IDENTITY")
STRONG, CONSTRAINED = "strongly typed: the file's types are binding", "weakly typed: layers are constrained to the file's types"


class EngineLayer(NamedTuple):
    """A layer of a built engine; ``precision`` and ``onnx_nodes`` are empty where the engine does not say."""

    name: str
    computes: bool
    precision: str
    tactic: str
    kind: str = ""
    onnx_nodes: tuple[str, ...] = ()


def numpy_name(dtype: Any) -> str:
    """``DataType.HALF`` -> ``float16``."""
    name = str(dtype.name)
    return _NUMPY_NAMES.get(name, name.lower())


def count_layers(network: Any) -> tuple[LayerCount, ...]:
    """Kinds of layer with their precision, the most frequent first.

    A layer computes in the type it puts out; fed by DEQUANTIZE it becomes a layer of the type that was dequantised.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    made_by: dict[str, Any] = {}
    for layer in layers:
        for index in range(layer.num_outputs):
            tensor = layer.get_output(index)
            made_by[tensor.name] = layer
    counts = Counter((str(layer.type.name), _precision(layer, made_by)) for layer in layers)
    return tuple(LayerCount(kind, precision, count) for (kind, precision), count in counts.most_common())


def _precision(layer: Any, made_by: dict[str, Any]) -> str:
    if layer.type.name in COMPUTING:
        tensor = layer.get_input(0)
        source = made_by.get(tensor.name)
        if source is not None and source.type.name == "DEQUANTIZE":
            tensor = source.get_input(0)
            return numpy_name(tensor.dtype)
    if layer.num_outputs == 0:
        return ""
    tensor = layer.get_output(0)
    return numpy_name(tensor.dtype)


def constrain(api: Any, flavour: Flavour, config: Any, network: Any, proto: Any) -> None:
    """On a weakly typed flavour: allow the types that the file holds, and ask for each layer's own."""
    assert flavour.precision_flags
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    wanted = {onnx.TensorProto.FLOAT: api.DataType.FLOAT, onnx.TensorProto.FLOAT16: api.DataType.HALF}
    if onnx.TensorProto.FLOAT16 in types.values():
        config.set_flag(api.BuilderFlag.FP16)
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        config.set_flag(api.BuilderFlag.INT8)
    config.set_flag(api.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs == 0 or layer.type.name in TYPELESS:
            continue
        tensor = layer.get_output(0)
        dtype = wanted.get(types.get(tensor.name, 0))
        if dtype is not None:
            layer.precision = dtype
            layer.set_output_type(0, dtype)


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
    told = [one for one in engine or () if one.computes and one.precision]
    if engine is not None and not told:
        why_not = "the engine does not say what its layers compute in"
    if told:
        problems += _against_network(told, in_network, tf32)
    found = tuple(dict.fromkeys(one.precision for one in told)) or in_network
    return PrecisionReport(
        asked=asked,
        typing=STRONG if flavour.strongly_typed else CONSTRAINED,
        read_from="engine" if told else "network",
        found=found,
        problems=tuple(problems),
        note="" if told else f"read off the network, not off the engine: {why_not}",
    )


def _of_network(layers: Sequence[LayerCount]) -> tuple[str, ...]:
    computing = [one.precision for one in layers if one.kind in COMPUTING]
    floating = [one.precision for one in layers if one.precision.startswith(("float", "bfloat"))]
    return tuple(dict.fromkeys(computing or floating))


def _against_network(told: Sequence[EngineLayer], in_network: Sequence[str], tf32: bool) -> list[str]:
    problems = []
    wrong = [one for one in told if one.precision not in in_network]
    if wrong:
        some = ", ".join(f"{one.name} in {one.precision}" for one in wrong[:3])
        problems.append(f"{len(wrong)} layer(s) run in another precision than the network's {', '.join(in_network)}: {some}")
    lost = [precision for precision in in_network if precision not in {one.precision for one in told}]
    if lost:
        problems.append(f"no layer of the engine computes in {', '.join(lost)}")
    rounding = [one.name for one in told if "tf32" in one.tactic.lower()]
    if rounding and not tf32:
        problems.append(f"TF32 is off, and {len(rounding)} layer(s) use it: {', '.join(rounding[:3])}")
    return problems
