"""What a built engine says of its own layers; it takes a GPU to ask.

Releases differ in words: a convolution is ``CaskConvolution`` in 8.6, ``CaskGemmConvolution`` or a Myelin ``conv`` in 10 and
``correlation`` in 11; small products end up in generated kernels (``kgen``), which only their ONNX nodes tell from the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set
from typing import Any

import msgspec

from edgekit.build_options import BuildOptions
from edgekit.cuda import cuda_problem
from edgekit.errors import EngineError
from edgekit.reports import EngineLayer
from edgekit.tensors import TensorSpec
from edgekit.trt.flavour import TensorRT, gpu_problem
from edgekit.trt.messages import REPORT, asking, failure
from edgekit.trt.runtime import create_context, load, start

_COMPUTES = re.compile(r"conv|correlation|gemm|matmul|matrix_?multiply|fully_?connected|einsum", flags=re.I)
# they are named after, and told with, the nodes that they move something to
_MOVES = re.compile(r"reformat|no_?op|copy|move|signal|wait|shape_?call|constant", flags=re.I)
# "Half", "Row major linear FP16 format", "Thirty-two wide channel vectorized row major Int8 format": the order matters
_PRECISIONS = (
    ("bfloat16", re.compile(r"bf16|bfloat16", flags=re.I)),
    ("float16", re.compile(r"half|fp16|float16", flags=re.I)),
    ("float8", re.compile(r"fp8|float8", flags=re.I)),
    ("float4", re.compile(r"fp4|float4", flags=re.I)),
    ("int8", re.compile(r"int8", flags=re.I)),
    ("float32", re.compile(r"float|fp32", flags=re.I)),
)
# "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_...": the types of the two factors come first
_FACTORS = re.compile(r"_(i8|bf16|f16|tf32|f32|e4m3|e5m2)(?:i8|bf16|f16|tf32|f32|e4m3|e5m2)(?:_|$)")
_KERNEL_TYPES = {
    "i8": "int8", "bf16": "bfloat16", "f16": "float16", "tf32": "float32", "f32": "float32", "e4m3": "float8", "e5m2": "float8",
}  # fmt: skip
# "[ONNX Layer: node]", or "[ONNX Layer: node | function ...]", one after the other where nodes were fused; what stands between
# them is nothing, a control character, or the six characters by which JSON writes it
_BETWEEN = r"(?:[\s\x1e\x1f]|\\u001[ef])*"
_ONNX_NODE = re.compile(rf"\[ONNX Layer: (.+?)(?: \| [^\]]*)?\](?={_BETWEEN}(?:\[|$))")


def read_layers(
    trt: TensorRT, plan: bytes, inputs: tuple[TensorSpec, ...], options: BuildOptions, computing: Set[str]
) -> tuple[list[EngineLayer] | None, str]:
    """(layers, nothing), or (None, why they cannot be read here); raises EngineError for an engine that should load."""
    problem = (cuda_problem() or gpu_problem(trt)).partition("; ")[0]
    if problem:
        return None, problem
    logger = start(trt)
    loaded = load(trt, logger, plan, "the engine it has just built", REPORT, host_code=options.version_compatible)
    return engine_layers(_information(trt, logger, loaded.engine, inputs, options), computing), ""


def information(api: Any, engine: Any, context: Any) -> str:
    """What the inspector says of an engine, in the shapes for which the context is set up."""
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    return str(inspector.get_engine_information(api.LayerInformationFormat.JSON))


def _information(trt: TensorRT, logger: Any, engine: Any, inputs: tuple[TensorSpec, ...], options: BuildOptions) -> str:
    context = create_context(trt, logger, engine) if options.profiles else None
    if context is not None:
        # with shapes unknown some releases say "N/A due to dynamic shapes" instead of a type
        for spec in inputs:
            shape = spec.concrete(options.profiles[0].opt)
            what = f"take {spec.name} of the size that it was tuned for"
            with asking(trt, what, logger):
                taken = context.set_input_shape(spec.name, shape)
            if not taken:
                raise failure(trt, what, logger.messages)
    return information(trt.api, engine, context)


def engine_layers(document: str, computing: Set[str] = frozenset()) -> list[EngineLayer]:
    """The inspector's JSON; raises EngineError where it is none.

    ``computing`` are the ONNX nodes that compute. One that no layer's kind shows is looked for by its name: what has the name may
    be a kernel that prepares or adds up for another, so kinds come first.
    """
    try:
        entries = json.loads(document, strict=False)["Layers"]
    except (ValueError, TypeError, KeyError):
        raise EngineError("the engine's description is not the JSON that TensorRT documents; build it again") from None
    layers = [_layer(entry) for entry in entries]
    hidden = computing - {node for one in layers if one.computes for node in one.onnx_nodes}
    return [
        msgspec.structs.replace(one, computes=one.computes or (not moves(one) and not hidden.isdisjoint(one.onnx_nodes)))
        for one in layers
    ]


def moves(one: EngineLayer) -> bool:
    """It copies or reformats, and computes nothing."""
    return bool(_MOVES.search(one.kind)) or one.name.startswith("Reformatting CopyNode")


def _layer(entry: Any) -> EngineLayer:
    if not isinstance(entry, dict):  # an engine built with names only
        return EngineLayer(str(entry))
    kind = f"{entry.get('LayerType', '')} {entry.get('ParameterType', '')}"
    return EngineLayer(
        name=str(entry.get("Name", "")),
        computes=bool(_COMPUTES.search(kind)),
        precisions=_precisions(entry),
        tactic=str(entry.get("TacticName", "")),
        kind=str(entry.get("LayerType", "")),
        onnx_nodes=tuple(dict.fromkeys(_ONNX_NODE.findall(str(entry.get("Metadata", ""))))),
    )


def _precisions(entry: dict[str, Any]) -> tuple[str, ...]:
    """The kernel's name tells, or the weights' type; else it is a type that is read or written: a cast may be fused with it."""
    factors = _FACTORS.search(str(entry.get("TacticName", "")))
    if factors is not None:
        return (_KERNEL_TYPES[factors[1]],)
    weights = entry.get("Weights")
    told = _precision(str(weights.get("Type", ""))) if isinstance(weights, dict) else ""
    if told:
        return (told,)
    sides = [one for side in ("Inputs", "Outputs") for one in entry.get(side) or () if isinstance(one, dict)]
    texts = [" ".join(str(one.get(key, "")) for key in ("Format/Datatype", "Datatype", "Format")) for one in sides]
    return tuple(dict.fromkeys(filter(None, map(_precision, texts))))


def _precision(text: str) -> str:
    return next((name for name, pattern in _PRECISIONS if pattern.search(text)), "")
