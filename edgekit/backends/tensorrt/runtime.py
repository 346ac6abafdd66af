"""Starting TensorRT, and a plan's bytes as an engine that runs: whatever it refuses is one error, on every flavour."""

from __future__ import annotations

from typing import Any, NamedTuple

from edgekit.backends.tensorrt.flavour import TensorRT
from edgekit.backends.tensorrt.messages import asking, collector, reason_of
from edgekit.backends.tensorrt.network import described, wanted
from edgekit.backends.tensorrt.precision import numpy_name
from edgekit.errors import MissingError, StaleEngineError, first_line
from edgekit.tensors import TensorSpec, shape_text

REBUILD = "build it again with edgekit build --rebuild"
_kept: list[Any] = []  # loggers: TensorRT goes on holding one after the call that it was given to


class Loaded(NamedTuple):
    """An engine with the runtime that must outlive it, and the settings of its contexts, which must too."""

    runtime: Any
    engine: Any
    settings: list[Any]


def start(trt: TensorRT) -> Any:
    """A logger that keeps what TensorRT says; TensorRT's own plugins, which files and plans may name, are registered."""
    logger = collector(trt.api)
    _kept.append(logger)
    with asking(trt, "register its plugins", logger) as granted:
        granted(trt.api.init_libnvinfer_plugins(logger, ""))
    return logger


def not_started(trt: TensorRT, logger: Any, problem: Exception) -> MissingError:
    """The error for pybind11's "factory function returned nullptr"."""
    reason = reason_of(logger.messages, first_line(problem))
    return MissingError(f"{trt} does not start: {reason}", "run edgekit doctor")


def load_engine(trt: TensorRT, logger: Any, plan: bytes, name: str, remedy: str = REBUILD, *, host_code: bool) -> Loaded:
    """Deserialise a plan that was checked before, called ``name`` in messages; raises StaleEngineError where TensorRT refuses it.

    ``host_code``: it was built to be version compatible, so it carries a runtime of its own, which may run.
    """
    api = trt.api
    try:
        runtime = api.Runtime(logger)
    except (TypeError, RuntimeError) as problem:
        raise not_started(trt, logger, problem) from problem
    if host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        reason = reason_of(logger.messages)
        raise StaleEngineError(f"{trt} refuses {name}: {reason}", remedy)
    return Loaded(runtime, engine, [])


def create_context(trt: TensorRT, logger: Any, loaded: Loaded) -> Any:
    """A context that is ready to be timed.

    Engines are built to describe themselves in detail, and by default every launch would tell all of it to NVTX. A flavour that
    compiles late does so before a call runs, not beside it: or the same call would become faster after a while.
    """
    api, engine = trt.api, loaded.engine
    with asking(trt, "create an execution context", logger) as granted:
        if trt.flavour.compiles_late:
            settings = engine.create_runtime_config()
            settings.dynamic_shapes_kernel_specialization_strategy = api.DynamicShapesKernelSpecializationStrategy.EAGER
            loaded.settings.append(settings)
            context = granted(engine.create_execution_context(settings))
        else:
            context = granted(engine.create_execution_context())
    context.nvtx_verbosity = api.ProfilingVerbosity.NONE
    return context


def choose_profile(trt: TensorRT, logger: Any, context: Any, index: int, stream: int) -> None:
    """Choose one of the engine's profiles; the choice holds once the stream has reached it."""
    with asking(trt, f"use the profile {index} of the engine", logger) as granted:
        granted(context.set_optimization_profile_async(index, stream))


def set_shape(trt: TensorRT, logger: Any, context: Any, name: str, shape: tuple[int, ...]) -> None:
    """Set the shape of an input."""
    with asking(trt, f"take {name} of {shape_text(shape)}", logger) as granted:
        granted(context.set_input_shape(name, shape))


def check_tensors(trt: TensorRT, engine: Any, name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Raise StaleEngineError unless names, types and axes are the manifest's: addresses and sizes are taken from there."""
    api = trt.api
    described_tensors: dict[bool, list[str]] = {True: [], False: []}
    for index in range(engine.num_io_tensors):
        held = engine.get_tensor_name(index)
        description = described(held, numpy_name(engine.get_tensor_dtype(held)), engine.get_tensor_shape(held))
        if engine.get_tensor_location(held) != api.TensorLocation.DEVICE:
            description += " in the host's memory"
        described_tensors[engine.get_tensor_mode(held) == api.TensorIOMode.INPUT].append(description)
    for side, told_of, specs in (("inputs", described_tensors[True], inputs), ("outputs", described_tensors[False], outputs)):
        if sorted(told_of) != sorted(map(wanted, specs)):
            raise StaleEngineError(
                f"{name} has the {side} {', '.join(told_of) or 'none'} where the manifest says {', '.join(map(wanted, specs))}",
                REBUILD,
            )


def stream_is_capturable(trt: TensorRT, context: Any, stream: int) -> bool:
    """Whether a CUDA graph may be made of the context's work: where kernels are compiled late, those may not be ready."""
    if trt.flavour.compiles_late:
        return bool(context.is_stream_capturable(stream))
    return True


def layer_profiler(api: Any) -> Any:
    """An object for ``context.profiler``: ``calls`` holds, of each call, the milliseconds of each layer.

    Whoever runs the engine puts a new dict at the end of ``calls`` before each call.
    """

    class Profiler(api.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IProfiler.__init__(self)
            self.calls: list[dict[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            if self.calls:
                self.calls[-1][layer_name] = self.calls[-1].get(layer_name, 0.0) + ms

    return Profiler()
