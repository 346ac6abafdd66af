"""From an ONNX file's bytes to a plan's bytes, on every flavour, with one clear error for each way it can fail."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.backends.tensorrt.flavour import TensorRT, runs_here
from edgekit.backends.tensorrt.messages import asking, failure
from edgekit.backends.tensorrt.monitor import STEPS, Stop, progress_monitor
from edgekit.backends.tensorrt.network import OnnxFile, check_axes, check_types, parse
from edgekit.backends.tensorrt.options import DEFAULT_LEVEL, LARGEST_LEVEL, LARGEST_WORKSPACE, BuildOptions
from edgekit.backends.tensorrt.precision import NetworkLayers, constrain, network_layers
from edgekit.backends.tensorrt.runtime import not_started, start
from edgekit.errors import UsageError
from edgekit.progress import SILENT, Advance, Progress
from edgekit.tensors import BatchRange, TensorSpec

LACKING = {
    "--level": ", because it measures no kernels",
    "--cuda-graph": ", because all its engines can be recorded",
}


class Built(NamedTuple):
    """A plan with the network it came from, and ``notes`` on what TensorRT reads otherwise than ONNX has it.

    ``timing_cache`` is what to give to the next build, nothing where there is none; ``reused``: TensorRT took the one given;
    ``measured``: it holds more now.
    """

    plan: bytes
    network: NetworkLayers
    seconds: float
    timing_cache: bytes
    reused: bool
    measured: bool
    notes: tuple[str, ...] = ()


def check_options(trt: TensorRT, options: BuildOptions) -> None:
    """Raise UsageError for an option that this flavour does not have: none is ignored."""
    lacking = {
        "--hardware-compatible": options.hardware_compatible and not trt.flavour.hardware_compatible,
        "--version-compatible": options.version_compatible and not trt.flavour.version_compatible,
        "--level": options.level != DEFAULT_LEVEL and not trt.flavour.levels,
        "--cuda-graph": options.cuda_graph and not trt.flavour.compiles_late,
    }
    for option, lacks in lacking.items():
        if lacks:
            raise UsageError(f"{trt} does not have {option}{LACKING.get(option, '')}", "leave it out, or use another --flavour")
    if not 0 <= options.level <= LARGEST_LEVEL:
        raise UsageError(f"there is no optimisation level {options.level}", f"use 0 to {LARGEST_LEVEL} (usual: {DEFAULT_LEVEL})")
    if options.workspace_mib is not None and not 1 <= options.workspace_mib <= LARGEST_WORKSPACE:
        raise UsageError(f"a workspace of {options.workspace_mib} MiB is no size", f"give MiB from 1 to {LARGEST_WORKSPACE}")


def build_plan(
    trt: TensorRT,
    model: OnnxFile,
    options: BuildOptions,
    timing_cache: bytes = b"",
    progress: Progress = SILENT,
    stop: Stop | None = None,
) -> Built:
    """Build ``model``; raises EngineError, or UsageError for options that fit neither the flavour nor the model."""
    check_options(trt, options)
    check_axes(model, bool(options.profiles))
    check_types(trt, model)
    logger = start(trt)
    builder = _builder(trt, logger)
    parsed = parse(trt, builder, logger, model)
    config = _config(trt, builder, logger, options, model.inputs)
    types = constrain(trt.api, trt.flavour, config, parsed.network, parsed.proto) if trt.flavour.precision_flags else {}
    layers = network_layers(parsed.network, types)
    reused = _use_timing_cache(config, timing_cache) if trt.flavour.timing_cache else False
    logger.messages.clear()  # a timing cache that was refused is not why a build fails
    begun = time.perf_counter()
    with progress.task(f"building with {trt}", STEPS) as advance:
        plan = _build(trt, builder, logger, config, parsed.network, Watched(model.path, advance, stop or Stop()))
    seconds = time.perf_counter() - begun
    measured = b""
    if trt.flavour.timing_cache:
        cache = config.get_timing_cache()
        measured = bytes(cache.serialize()) if cache is not None else b""
    return Built(plan, layers, seconds, measured, reused, len(measured) > len(timing_cache), parsed.notes)


def _builder(trt: TensorRT, logger: Any) -> Any:
    try:
        return trt.api.Builder(logger)
    except (TypeError, RuntimeError) as problem:
        raise not_started(trt, logger, problem) from problem


def _config(trt: TensorRT, builder: Any, logger: Any, options: BuildOptions, inputs: tuple[TensorSpec, ...]) -> Any:
    api = trt.api
    config = builder.create_builder_config()
    config.builder_optimization_level = options.level
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED  # or the engine could not say what it computes in
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if not options.tf32:
        config.clear_flag(api.BuilderFlag.TF32)
    if options.hardware_compatible:
        config.hardware_compatibility_level = api.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible:
        config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
    if trt.flavour.compiles_late and options.cuda_graph:
        config.set_flag(api.BuilderFlag.REQUIRE_USER_ALLOCATION)  # memory taken in the middle of a call cannot be recorded
    if trt.flavour.lists_gpus and runs_here(trt):
        _build_for_this_gpu(trt, logger, config)
    for sizes in options.profiles:
        _add_profile(trt, builder, logger, config, sizes, inputs)
    return config


def _build_for_this_gpu(trt: TensorRT, logger: Any, config: Any) -> None:
    """Or it would be for the usual ones, and the one here need not be among those."""
    assert trt.flavour.lists_gpus
    with asking(trt, "build for the GPU that is here", logger) as granted:
        config.num_compute_capabilities = 1
        granted(config.set_compute_capability(trt.api.ComputeCapability.CURRENT, 0))


def _add_profile(
    trt: TensorRT, builder: Any, logger: Any, config: Any, sizes: BatchRange, inputs: tuple[TensorSpec, ...]
) -> None:
    with asking(trt, f"build for the batch sizes {sizes}", logger) as granted:
        profile = builder.create_optimization_profile()
        for spec in inputs:
            if spec.free:
                profile.set_shape(spec.name, *(spec.concrete(size) for size in (sizes.min, sizes.opt, sizes.max)))
        granted(config.add_optimization_profile(profile))


def _use_timing_cache(config: Any, content: bytes) -> bool:
    """Whether TensorRT takes the measurements of an earlier build; it refuses another GPU's or release's, and starts anew."""
    cache = config.create_timing_cache(content)
    if cache is not None and config.set_timing_cache(cache, False):
        return bool(content)
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    return False


class Watched(NamedTuple):
    """The file that is built, whom a build tells how far it is, and who may stop it."""

    path: Path
    advance: Advance
    stop: Stop


def _build(trt: TensorRT, builder: Any, logger: Any, config: Any, network: Any, watched: Watched) -> bytes:
    monitor = None
    if trt.flavour.progress:
        monitor = progress_monitor(trt.api, trt.flavour, watched.advance, watched.stop)
        config.progress_monitor = monitor
    with asking(trt, f"build {watched.path}", logger):
        plan = builder.build_serialized_network(network, config)
    if watched.stop.reason is not None:
        raise watched.stop.reason
    if plan is None:
        raise failure(trt, f"build {watched.path}", logger.messages)
    watched.advance(STEPS - (monitor.shown if monitor is not None else 0), "")
    return bytes(plan)
