"""``edgekit build``."""

from __future__ import annotations

from pathlib import Path

from edgekit.backends.tensorrt.engines import build_engine, read_model, with_default_range
from edgekit.backends.tensorrt.flavour import TensorRT
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.machine.packages import needs_onnx
from edgekit.progress import SILENT, Progress
from edgekit.reports.build import BuildReport

USUAL = BuildOptions()


def build_bundle(
    root: Path | str,
    *,
    flavour: str | None = None,
    options: BuildOptions = USUAL,
    output: Path | None = None,
    rebuild: bool = False,
    progress: Progress = SILENT,
) -> BuildReport:
    """A TensorRT engine for this machine, in the cache or at ``output``; ``flavour`` is the first that can build here."""
    from edgekit.backends.tensorrt.flavour import find
    from edgekit.commands.build import build_bundle_engine

    bundle = open_bundle(Path(root))
    needs_onnx()
    return build_bundle_engine(bundle, find(flavour), options, output=output, rebuild=rebuild, progress=progress)


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
    manifest = bundle.manifest
    model = read_model(bundle.onnx, bundle.onnx_sha256, manifest.inputs, manifest.outputs, bundle.variant.precision)
    options = with_default_range(manifest.inputs, options)
    engine = build_engine(trt, model, options, output=output, rebuild=rebuild, progress=progress)
    record = engine.record
    facts = {
        "TF32": record.key.tf32,
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
