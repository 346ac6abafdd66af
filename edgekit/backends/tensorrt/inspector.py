"""The layers of a built engine, as its inspector describes them; the inspector needs a GPU.

Releases differ in words: a convolution is ``CaskConvolution`` in 8.6, ``CaskGemmConvolution`` or a Myelin ``conv`` in 10 and
``correlation`` in 11; small products end up in generated kernels (``kgen``), which only their ONNX nodes tell from the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence, Set
from typing import Any

import msgspec

from edgekit.backends.tensorrt.flavour import TensorRT, gpu_absence
from edgekit.backends.tensorrt.judgement import Inspected
from edgekit.backends.tensorrt.messages import REPORT
from edgekit.backends.tensorrt.names import onnx_nodes
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.backends.tensorrt.runtime import Loaded, choose_profile, create_context, load_engine, set_shape, start
from edgekit.errors import EngineError
from edgekit.machine.gpu import cuda_absence
from edgekit.reports.build import EngineLayer
from edgekit.tensors import TensorSpec

_COMPUTES = re.compile(r"conv|correlation|gemm|matmul|matrix_?multiply|fully_?connected|einsum|attention|mha", flags=re.I)
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
# "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_...": the type of the factors comes first
_FACTORS = re.compile(r"_(i8|bf16|f16|tf32|f32|e4m3|e5m2)(?:i8|i32|bf16|f16|tf32|f32|e4m3|e5m2)(?:_|$)")
_KERNEL_TYPES = {
    "i8": "int8", "bf16": "bfloat16", "f16": "float16", "tf32": "float32", "f32": "float32", "e4m3": "float8", "e5m2": "float8",
}  # fmt: skip


def read_layers(
    trt: TensorRT, plan: bytes, inputs: tuple[TensorSpec, ...], options: BuildOptions, computing: Set[str]
) -> Inspected:
    """The engine's layers as its inspector describes them; raises EngineError for an engine that should load."""
    absence = cuda_absence() or gpu_absence(trt)
    if absence:
        return Inspected(None, absence.reason)
    logger = start(trt)
    loaded = load_engine(trt, logger, plan, "the engine it has just built", REPORT, host_code=options.version_compatible)
    documents = _documents(trt, logger, loaded, inputs, options)
    return Inspected(_merged([engine_layers(document, computing) for document in documents]))


def _merged(described: Sequence[Sequence[EngineLayer]]) -> tuple[EngineLayer, ...]:
    """The layers of all profiles: the inspector tells the precision of the profile at hand, and some releases of no other."""
    every = tuple(dict.fromkeys(engine_layer for layers in described for engine_layer in layers))
    telling = {engine_layer.name for engine_layer in every if engine_layer.precisions}
    return tuple(engine_layer for engine_layer in every if engine_layer.precisions or engine_layer.name not in telling)


def information(api: Any, engine: Any, context: Any) -> str:
    """The inspector's description of an engine, for the shapes that the context is set to."""
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
        document = str(inspector.get_engine_information(api.LayerInformationFormat.JSON))
        if document:
            return document
        inspector = engine.create_engine_inspector()  # TensorRT 8.6 says nothing of a context on another profile than the first
    return str(inspector.get_engine_information(api.LayerInformationFormat.JSON))


def _documents(
    trt: TensorRT, logger: Any, loaded: Loaded, inputs: tuple[TensorSpec, ...], options: BuildOptions
) -> Iterator[str]:
    """One for each profile, in the shapes that it was tuned for: with shapes unknown some releases tell no types."""
    if not options.profiles:
        yield information(trt.api, loaded.engine, None)
    for index, sizes in enumerate(options.profiles):
        context = create_context(trt, logger, loaded)
        choose_profile(trt, logger, context, index, stream=0)
        for spec in inputs:
            set_shape(trt, logger, context, spec.name, spec.concrete(sizes.opt))
        yield information(trt.api, loaded.engine, context)


def engine_layers(document: str, computing: Set[str] = frozenset()) -> list[EngineLayer]:
    """The inspector's JSON; raises EngineError where it is none.

    ``computing`` are the ONNX nodes that compute. One that no layer's kind shows is looked for by its name: what has the name may
    be a kernel that prepares or adds up for another, so kinds come first.
    """
    try:
        entries = json.loads(document, strict=False)["Layers"]
        if not isinstance(entries, list):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise EngineError("the engine's description is not the JSON that TensorRT documents", "build it again") from None
    layers = [_layer(entry) for entry in entries]
    hidden = computing - {node for engine_layer in layers if engine_layer.computes for node in engine_layer.onnx_nodes}
    return [
        msgspec.structs.replace(
            engine_layer,
            computes=engine_layer.computes or (not moves(engine_layer) and not hidden.isdisjoint(engine_layer.onnx_nodes)),
        )
        for engine_layer in layers
    ]


def moves(engine_layer: EngineLayer) -> bool:
    """Whether a layer copies or reformats, and computes nothing."""
    return bool(_MOVES.search(engine_layer.kind)) or engine_layer.name.startswith("Reformatting CopyNode")


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
        onnx_nodes=onnx_nodes(str(entry.get("Metadata", ""))),
    )


def _precisions(entry: dict[str, Any]) -> tuple[str, ...]:
    """The kernel's name tells, or the weights' type; else it is a type that is read or written: a cast may be fused with it.

    A part of the network that was compiled as a whole (``{ForeignNode[a...b]}``) shows no more than its ends.
    """
    if "ForeignNode" in str(entry.get("Name", "")):
        return ()
    factors = _FACTORS.search(str(entry.get("TacticName", "")))
    if factors is not None:
        return (_KERNEL_TYPES[factors[1]],)
    weights = entry.get("Weights")
    stored = _precision(str(weights.get("Type", ""))) if isinstance(weights, dict) else ""
    if stored:
        return (stored,)
    sides = [
        entry_of_side
        for side in ("Inputs", "Outputs")
        for entry_of_side in _list(entry.get(side))
        if isinstance(entry_of_side, dict)
    ]
    texts = [
        " ".join(str(entry_of_side.get(key, "")) for key in ("Format/Datatype", "Datatype", "Format")) for entry_of_side in sides
    ]
    return tuple(dict.fromkeys(filter(None, map(_precision, texts))))


def _precision(text: str) -> str:
    return next((name for name, pattern in _PRECISIONS if pattern.search(text)), "")


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
