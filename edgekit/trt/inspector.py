"""What a built engine says of its own layers; it takes a GPU to ask."""

from __future__ import annotations

import json
import re
from typing import Any

from edgekit.build_options import BuildOptions
from edgekit.cuda import cuda_problem
from edgekit.errors import EngineError
from edgekit.tensors import TensorSpec
from edgekit.trt.flavour import TensorRT
from edgekit.trt.messages import collector, failure
from edgekit.trt.precision import EngineLayer

_COMPUTES = re.compile(r"conv|gemm|matmul|matrix_?multiply|einsum", flags=re.I)
# "Half", "Row major linear FP16 format", "Thirty-two wide channel vectorized row major Int8 format": the order matters
_PRECISIONS = (
    ("bfloat16", re.compile(r"bf16|bfloat16", flags=re.I)),
    ("float16", re.compile(r"half|fp16|float16", flags=re.I)),
    ("float8", re.compile(r"fp8|float8", flags=re.I)),
    ("float4", re.compile(r"fp4|float4", flags=re.I)),
    ("int8", re.compile(r"int8", flags=re.I)),
    ("float32", re.compile(r"float|fp32", flags=re.I)),
)
# "[ONNX Layer: node]", or "[ONNX Layer: node | function ...]"; one after the other where nodes were fused
_ONNX_NODE = re.compile(r"\[ONNX Layer: (.+?)(?: \| [^\]]*)?\](?=[\s\x1e\x1f]*(?:\[|$))")


def read_layers(
    trt: TensorRT, plan: bytes, inputs: tuple[TensorSpec, ...], options: BuildOptions
) -> tuple[list[EngineLayer] | None, str]:
    """(layers, nothing), or (None, why they cannot be read here); raises EngineError for an engine that should load."""
    problem = cuda_problem().partition("; ")[0]
    if problem:
        return None, problem
    api = trt.api
    logger = collector(api)
    runtime = api.Runtime(logger)
    if options.version_compatible:
        runtime.engine_host_code_allowed = True  # such a plan carries its own runtime; this one was built just now
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        error = failure(trt, "load the engine it has just built", logger.messages)
        if trt.flavour.needs_gpu:
            raise error
        return None, str(error).partition("; ")[0]  # it was compiled for other GPUs than this one
    return engine_layers(_information(api, engine, inputs, options)), ""


def information(api: Any, engine: Any, context: Any) -> str:
    """What the inspector says of an engine, in the shapes for which the context is set up."""
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    return str(inspector.get_engine_information(api.LayerInformationFormat.JSON))


def _information(api: Any, engine: Any, inputs: tuple[TensorSpec, ...], options: BuildOptions) -> str:
    context = engine.create_execution_context() if options.profiles else None
    if context is not None:
        # with shapes unknown some releases say "N/A due to dynamic shapes" instead of a type
        for spec in inputs:
            context.set_input_shape(spec.name, spec.concrete(options.profiles[0].opt))
    return information(api, engine, context)


def engine_layers(document: str) -> list[EngineLayer]:
    """The inspector's JSON; raises EngineError where it is none."""
    try:
        layers = json.loads(document)["Layers"]
    except (ValueError, TypeError, KeyError):
        raise EngineError("the engine's description is not the JSON that TensorRT documents; build it again") from None
    return [_layer(entry) for entry in layers]


def _layer(entry: Any) -> EngineLayer:
    if not isinstance(entry, dict):  # an engine built with names only
        return EngineLayer(str(entry), False, "", "")
    kind = f"{entry.get('LayerType', '')} {entry.get('ParameterType', '')}"
    first = next((tensor for tensor in entry.get("Inputs", ()) if isinstance(tensor, dict)), {})
    text = " ".join(str(first.get(key, "")) for key in ("Format/Datatype", "Datatype", "Format"))
    precision = next((name for name, pattern in _PRECISIONS if pattern.search(text)), "")
    return EngineLayer(
        name=str(entry.get("Name", "")),
        computes=bool(_COMPUTES.search(kind)),
        precision=precision,
        tactic=str(entry.get("TacticName", "")),
        kind=str(entry.get("LayerType", "")),
        onnx_nodes=tuple(dict.fromkeys(_ONNX_NODE.findall(str(entry.get("Metadata", ""))))),
    )
