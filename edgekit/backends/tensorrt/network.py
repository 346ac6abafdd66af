"""An ONNX file as TensorRT's network: parsed from bytes, with nothing read beside them, and held against the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.backends.tensorrt.flavour import TensorRT
from edgekit.backends.tensorrt.messages import NO_OPERATOR, BadNode, asking, plain, refusal
from edgekit.backends.tensorrt.names import some
from edgekit.backends.tensorrt.precision import numpy_name
from edgekit.bundle.manifest import Conversion
from edgekit.errors import BROKEN, BundleError, EngineError, UsageError
from edgekit.machine.packages import broken_package
from edgekit.tensors import BATCH, TensorSpec, shape_text


class OnnxFile(NamedTuple):
    """A file's checked bytes, with what its manifest says of it; ``path`` and ``variant`` are for messages only.

    ``conversion``: how ``edgekit quantize`` made it; None for a file from elsewhere.
    """

    path: Path
    content: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str
    conversion: Conversion | None = None
    variant: str = ""


class Parsed(NamedTuple):
    """A network with the parser, which owns its weights, and with the ONNX file as data; ``notes`` say what is read otherwise."""

    network: Any
    parser: Any
    proto: Any
    notes: tuple[str, ...] = ()


def check_axes(model: OnnxFile, has_profiles: bool) -> None:
    """Raise UsageError where the batch sizes asked for and the free axes of the inputs do not fit together."""
    free = [(spec, axis) for spec in model.inputs for axis in spec.shape if isinstance(axis, str)]
    for spec, axis in free:
        if axis != BATCH:
            raise UsageError(
                f"input {spec.name} of {model.path} leaves {axis} free, and --batch sizes only {BATCH}", "fix that axis"
            )
    if free and not has_profiles:
        raise UsageError(
            f"input {free[0][0].name} of {model.path} leaves the batch free", "say for which sizes, like --batch 1:8:32"
        )
    if has_profiles and not free:
        raise UsageError(f"{model.path} has no free batch axis", "leave out --batch")


def check_types(trt: TensorRT, model: OnnxFile) -> None:
    """Raise EngineError for an input or output of a type that this flavour lacks: it would be read as another."""
    wide = [spec.name for spec in (*model.inputs, *model.outputs) if spec.dtype == "int64"]
    if wide and not trt.flavour.int64:
        raise EngineError(
            f"{trt} has no int64 inputs and outputs, and {', '.join(wide)} of {model.path} is one",
            "export the model with int32 there, or run the bundle with ort-cpu",
        )


def parse(trt: TensorRT, builder: Any, logger: Any, model: OnnxFile) -> Parsed:
    """The network of ``model``; raises EngineError with every node that is refused, BundleError for another file."""
    file = _proto(model)
    notes = () if model.conversion else _misread(file)
    proto = _respelt(trt, model, file)
    content = model.content if proto is file else proto.SerializeToString()
    network = builder.create_network(_flags(trt))
    parser = trt.api.OnnxParser(network, logger)
    with asking(trt, f"read {model.path}", logger):  # names that are no text among others
        read = parser.parse(content)
        bad = [] if read else _bad_nodes(trt, parser, proto, content)
    if not read:
        raise refusal(trt, model.path, bad, opset_of(proto))
    _check_tensors(network, model)
    return Parsed(network, parser, proto, notes)


def _flags(trt: TensorRT) -> int:
    """How a network is made on this flavour, as bits."""
    api, flavour, flags = trt.api, trt.flavour, 0
    if flavour.explicit_batch:
        flags |= 1 << int(api.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if flavour.strong_typing_flag:
        flags |= 1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return flags


def opset_of(proto: Any) -> int:
    """The opset of ONNX's own operators in a file."""
    return max((int(opset.version) for opset in proto.opset_import if opset.domain in ("", "ai.onnx")), default=1)


def _proto(model: OnnxFile) -> Any:
    """Parsed once beforehand: TensorRT takes junk for an empty network, and would open the files that external data names."""
    try:
        from edgekit.onnx.read import ALONE, read_onnx
    except BROKEN as problem:
        raise broken_package("onnx", problem).error() from problem
    proto = read_onnx(model.path, ALONE, model.content)
    _check_graphs(model.path, proto)
    return proto


def _misread(proto: Any) -> tuple[str, ...]:
    """What a user should know of a file that edgekit did not quantise: of uint8 codes TensorRT reads those up to 127."""
    from edgekit.onnx.signed import unsigned_steps

    names = unsigned_steps(proto)
    if not names:
        return ()
    return (
        "TensorRT reads uint8 as int8: values above 127 steps are clipped, which is wrong where a scale is meant for 255, and "
        f"edgekit did not write this file ({len(names)} uint8 QuantizeLinear: {some(names)}); edgekit quantize makes one that "
        "is read right",
    )


def _respelt(trt: TensorRT, model: OnnxFile, proto: Any) -> Any:
    """The file in a spelling that this flavour reads; raises EngineError for uint8 numbers that have no equal in int8."""
    from edgekit.onnx.signed import Unsigned, float_weights, signed_codes

    try:
        if not trt.flavour.uint8_zero_points:
            proto = signed_codes(proto)
    except Unsigned as problem:
        raise EngineError(f"{trt} has no uint8, and in {model.path} {problem}", "quantise with edgekit quantize") from problem
    return proto if trt.flavour.int8_constants else float_weights(proto)


def _check_graphs(path: Path, proto: Any) -> None:
    """Refuse graphs that crash TensorRT's parser."""
    for graph in (proto.graph, *proto.functions):
        for node in graph.node:
            if not node.output:
                raise BundleError(f"{path} has a {node.op_type} node that puts out nothing", "export it again without")
    calls = {
        (function.domain, function.name): {(node.domain, node.op_type) for node in function.node} for function in proto.functions
    }
    for name in calls:
        visited, waiting = set[tuple[str, str]](), [name]
        while waiting:
            for called in calls.get(waiting.pop(), ()):
                if called == name:
                    raise BundleError(f"{path} has a function {name[1]} that calls itself", "export it again without")
                if called not in visited:
                    visited.add(called)
                    waiting.append(called)


def _bad_nodes(trt: TensorRT, parser: Any, proto: Any, content: bytes) -> list[BadNode]:
    bad = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        reason = plain(error.desc())
        if trt.flavour.names_nodes:
            bad.append(BadNode(error.node_name(), error.node_operator(), reason))
        else:
            bad.append(_numbered(proto, error.node(), reason))
    if trt.flavour.lists_support:
        _, parts = parser.supports_model(content)
        named = {node.name for node in bad}
        more = [_numbered(proto, number, NO_OPERATOR) for numbers, supported in parts if not supported for number in numbers]
        bad += [node for node in more if node.name not in named]
    return bad or [BadNode("", "", "the parser does not say why")]


def _numbered(proto: Any, number: int, reason: str) -> BadNode:
    if not 0 <= number < len(proto.graph.node):
        return BadNode("", "", reason)
    node = proto.graph.node[number]
    return BadNode(node.name or node.output[0], node.op_type, reason)


def _check_tensors(network: Any, model: OnnxFile) -> None:
    """Names, types and axes, in the manifest's order of names; a free axis is -1 there."""
    found_inputs = [network.get_input(index) for index in range(network.num_inputs)]
    found_outputs = [network.get_output(index) for index in range(network.num_outputs)]
    for side, tensors, specs in (("inputs", found_inputs, model.inputs), ("outputs", found_outputs, model.outputs)):
        read = sorted(described(tensor.name, numpy_name(tensor.dtype), tensor.shape) for tensor in tensors)
        expected = sorted(map(wanted, specs))
        if read != expected:
            raise EngineError(
                f"TensorRT reads the {side} {', '.join(read)} from {model.path} where the manifest says {', '.join(expected)}",
                "export the bundle again",
            )


def described(name: str, dtype: str, shape: Iterable[int]) -> str:
    """A tensor as TensorRT has it, in words that ``wanted`` uses too."""
    axes: Sequence[int | str] = ["free" if size < 0 else size for size in tuple(shape)]
    return f"{name} {dtype} {shape_text(axes)}"


def wanted(spec: TensorSpec) -> str:
    """A tensor as the manifest has it, whatever its free axes are called."""
    return f"{spec.name} {spec.dtype} {shape_text(['free' if isinstance(axis, str) else axis for axis in spec.shape])}"
