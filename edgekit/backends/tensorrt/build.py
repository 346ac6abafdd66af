"""An engine of a bundle for this machine: found in the cache, or built, checked and kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edgekit.backends.contract import Target
from edgekit.backends.tensorrt.builder import Built, build_plan
from edgekit.backends.tensorrt.engines import (
    SCHEMA,
    Engine,
    EngineKey,
    EngineRecord,
    check_engine_replaceable,
    check_names_a_file,
    drop_links,
    engine_folder,
    engine_path,
    find_engine,
    key_of,
    read_record,
    store,
)
from edgekit.backends.tensorrt.flavour import TensorRT, find
from edgekit.backends.tensorrt.inspector import read_layers
from edgekit.backends.tensorrt.judgement import judge
from edgekit.backends.tensorrt.monitor import interruptible
from edgekit.backends.tensorrt.network import OnnxFile
from edgekit.backends.tensorrt.options import BuildOptions, BuildSettings, with_default_range
from edgekit.bundle.files import ModelFiles
from edgekit.files import check_writable, destination, write_bytes
from edgekit.machine.packages import needs_onnx
from edgekit.onnx.untrusted import read_unchanged
from edgekit.progress import SILENT, Progress
from edgekit.reports.build import BuildReport
from edgekit.setups import Setup

NO_TIMING_CACHE = "this flavour has none: nothing is measured in its builds"
MAX_TIMING_BYTES = 1 << 30


def build_for(files: ModelFiles, setup: Setup, target: Target, progress: Progress) -> BuildReport:
    """Build, or find, the engine of ``files``; a free batch axis for which no sizes are given gets ``DEFAULT_RANGE``."""
    needs_onnx()
    settings = BuildSettings.of(setup)
    trt = find(settings.flavour)
    options = with_default_range(files.inputs, settings.of_the_engine(), setup.batches)
    engine = build_engine(trt, read_model(files), options, output=target.output, rebuild=target.rebuild, progress=progress)
    record = engine.record
    facts = {
        "TF32": record.key.tf32,
        "gpu": record.key.gpu or "none in particular",
        "compute capability": record.key.compute_capability,
        "cuda driver": record.key.cuda,
        "driver": record.key.driver,
    }
    return BuildReport(
        bundle=str(files.onnx.parent),
        onnx_sha256=files.onnx_sha256,
        setup=setup,
        engine=str(engine.path) if engine.path else None,
        engine_sha256=record.plan_sha256,
        engine_bytes=record.plan_bytes,
        cached=engine.cached,
        seconds=record.seconds,
        flavour=trt.flavour.name,
        version=trt.version,
        cold_seconds=record.cold_seconds,
        timing_cache=record.timing_cache,
        options={name: value for name, value in msgspec.to_builtins(options).items() if name != "profiles"},
        ranges=options.profiles,
        layers=record.layers,
        precision=record.precision,
        notes=record.notes,
        facts={name: fact for name, fact in facts.items() if fact},
    )


def read_model(files: ModelFiles) -> OnnxFile:
    """The file in memory, checked once more: these bytes and no others are built."""
    content = read_unchanged(files.onnx, files.onnx_sha256)
    return OnnxFile(files.onnx, content, files.inputs, files.outputs, files.precision, files.conversion, files.variant)


def build_engine(
    trt: TensorRT,
    model: OnnxFile,
    options: BuildOptions,
    *,
    output: Path | None = None,
    rebuild: bool = False,
    progress: Progress = SILENT,
) -> Engine:
    """Find the engine or build, check and keep it, in the cache or at ``output``."""
    key = key_of(trt, model, options)
    path = output or engine_path(key)
    check_names_a_file(path)
    cached = None if rebuild else find_engine(key, path)
    if cached is not None:
        return cached
    if output is not None:
        check_engine_replaceable(output)
    check_writable(path.parent)
    timing = _timing_path(key) if trt.flavour.timing_cache else None
    if timing is not None:
        destination(timing)
        check_writable(timing.parent)
    with interruptible() as stop:
        built = build_plan(trt, model, options, _earlier(timing), progress, stop)
        inspected = read_layers(trt, built.plan, model.inputs, options, built.network.nodes.keys())
    before = read_record(path)
    record = EngineRecord(
        schema=SCHEMA,
        key=key,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        plan_bytes=len(built.plan),
        seconds=built.seconds,
        cold_seconds=_cold_seconds(before, key) if built.reused else built.seconds,
        timing_cache=_told_of_timing(trt, built),
        layers=built.network.counts,
        precision=judge(model.precision, trt.flavour, built.network, inspected, options.tf32, model.conversion),
        notes=built.notes,
    )
    if record.precision.problems:
        return Engine(None, built.plan, record, False)
    store(path, built.plan, record)
    if timing is not None and built.timing_cache:
        drop_links(timing)
        write_bytes(timing, built.timing_cache)
    return Engine(path, built.plan, record, False)


def _timing_path(key: EngineKey) -> Path:
    """One for each release on each GPU: TensorRT refuses another's."""
    of = (key.flavour, key.version, key.gpu, key.compute_capability, key.multiprocessors, key.gpu_memory, key.system)
    which = hashlib.sha256("\n".join(of).encode()).hexdigest()[:16]
    return engine_folder() / f"timing-{key.flavour}-{key.version}-{which}.cache"


def _earlier(timing: Path | None) -> bytes:
    """The timing cache of earlier builds; empty where it cannot be read, since it only saves time."""
    try:
        if timing is None or not timing.is_file() or timing.stat().st_size > MAX_TIMING_BYTES:
            return b""
        return timing.read_bytes()
    except OSError:
        return b""


def _told_of_timing(trt: TensorRT, built: Built) -> str:
    """``new``; ``reused``: nothing had to be measured; ``extended``: something had, beside what was there."""
    if not trt.flavour.timing_cache:
        return NO_TIMING_CACHE
    return "new" if not built.reused else "extended" if built.measured else "reused"


def _cold_seconds(before: EngineRecord | None, key: EngineKey) -> float | None:
    """Seconds of the same build with an empty timing cache."""
    return before.cold_seconds if before is not None and before.key == key else None
