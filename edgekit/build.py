"""An engine of a bundle, for this machine: its ONNX file through TensorRT, and a report of what came out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edgekit.build_options import DEFAULT_RANGE, BuildOptions
from edgekit.bundle import Bundle
from edgekit.engines import build_engine
from edgekit.errors import BundleError
from edgekit.files import read_bytes
from edgekit.progress import SILENT, Progress
from edgekit.reports import BuildReport
from edgekit.trt.flavour import TensorRT
from edgekit.trt.network import OnnxFile


def build_bundle_engine(
    bundle: Bundle,
    trt: TensorRT,
    options: BuildOptions,
    *,
    output: Path | None = None,
    rebuild: bool = False,
    progress: Progress = SILENT,
) -> BuildReport:
    """Build, or find, the engine of ``bundle``; a free batch axis for which no sizes are given gets ``DEFAULT_RANGE``."""
    model = onnx_file(bundle)
    options = with_default_range(bundle, options)
    engine = build_engine(trt, model, options, output=output, rebuild=rebuild, progress=progress)
    record = engine.record
    facts = {
        "TF32": "on" if options.tf32 else "off",
        "gpu": record.key.gpu or "none here",
        "compute capability": record.key.compute_capability,
        "cuda driver": record.key.cuda,
        "driver": record.key.driver,
    }
    return BuildReport(
        bundle=str(bundle.root),
        onnx_sha256=bundle.onnx_sha256,
        flavour=trt.flavour.name,
        version=trt.version,
        engine=str(engine.path) if engine.path else None,
        engine_sha256=record.plan_sha256,
        engine_bytes=record.plan_bytes,
        cached=engine.cached,
        seconds=record.seconds,
        cold_seconds=record.cold_seconds,
        timing_cache=record.timing_cache,
        options=options,
        layers=record.layers,
        precision=record.precision,
        facts={key: value for key, value in facts.items() if value},
    )


def onnx_file(bundle: Bundle) -> OnnxFile:
    """The bundle's file in memory, checked once more: these bytes and no others are built."""
    content = read_bytes(bundle.onnx, "ONNX file", BundleError)
    if hashlib.sha256(content).hexdigest() != bundle.onnx_sha256:
        raise BundleError(f"{bundle.onnx} changed while it was read; build again")
    manifest = bundle.manifest
    return OnnxFile(bundle.onnx, content, manifest.inputs, manifest.outputs, bundle.variant.precision)


def with_default_range(bundle: Bundle, options: BuildOptions) -> BuildOptions:
    """The options with sizes for the batch, where it is free and none are given."""
    free = any(isinstance(axis, str) for spec in bundle.manifest.inputs for axis in spec.shape)
    return msgspec.structs.replace(options, profiles=(DEFAULT_RANGE,)) if free and not options.profiles else options
