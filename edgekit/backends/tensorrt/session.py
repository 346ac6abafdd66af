"""TensorRT of any flavour: an engine that was built here, run on one stream, its inputs and outputs in memory of our own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgekit.backends.contract import DeviceTimes, LayerTime
from edgekit.backends.tensorrt.build import build_engine, read_model
from edgekit.backends.tensorrt.engines import Engine, EngineRecord, build_again, flavour_of_engine, open_engine
from edgekit.backends.tensorrt.flavour import TensorRT, find
from edgekit.backends.tensorrt.inspector import engine_layers, information
from edgekit.backends.tensorrt.memory import Device
from edgekit.backends.tensorrt.messages import REPORT, asking, failure
from edgekit.backends.tensorrt.names import NAMELESS, fused_parts
from edgekit.backends.tensorrt.network import OnnxFile
from edgekit.backends.tensorrt.options import BuildOptions, RunOptions, with_default_range
from edgekit.backends.tensorrt.runtime import (
    Loaded,
    check_tensors,
    choose_profile,
    create_context,
    layer_profiler,
    load_engine,
    set_shape,
    start,
    stream_is_capturable,
)
from edgekit.bundle.files import ModelFiles
from edgekit.errors import EngineError, StaleEngineError, UsageError
from edgekit.machine.gpu import gpu_facts, tf32_fact
from edgekit.progress import Progress
from edgekit.reports.build import EngineLayer
from edgekit.setups import Setup
from edgekit.tensors import Array, Feed, TensorSpec, check_feed, shape_text


def open_tensorrt(files: ModelFiles, setup: Setup, progress: Progress) -> TensorRTSession:
    """Find or build the engine of ``files`` that takes the setup's batches, and open it; or open the engine it names."""
    options = RunOptions.of(setup)
    model = read_model(files)
    if options.engine is not None:
        return _open_given(files, model, setup, options)
    trt = find(options.flavour)
    usual = BuildOptions(cuda_graph=options.cuda_graph and trt.flavour.compiles_late)
    build = partial(build_engine, trt, model, with_default_range(files.inputs, usual, setup.batches), progress=progress)
    built = build()
    if built.cached:
        # its key says all that we know of; where it does not load even so, once more from the file
        with suppress(StaleEngineError):
            return TensorRTSession.open(files, trt, built, cuda_graph=options.cuda_graph)
        built = build(rebuild=True)
    try:
        return TensorRTSession.open(files, trt, built, cuda_graph=options.cuda_graph)
    except StaleEngineError as problem:  # a third time would give the same
        raise EngineError(problem.reason, REPORT) from problem


def _open_given(files: ModelFiles, model: OnnxFile, setup: Setup, options: RunOptions) -> TensorRTSession:
    """The engine that the setup names, as it is."""
    path = Path(str(options.engine))
    trt = find(flavour_of_engine(path))
    built = open_engine(trt, model, path)
    for batch in setup.batches if built.record.key.options.profiles else ():
        built.record.profile_for(batch)  # now, and not when the others have been timed
    try:
        return TensorRTSession.open(files, trt, built, cuda_graph=options.cuda_graph)
    except StaleEngineError as problem:
        raise EngineError(problem.reason, build_again(path, model, built.record.key.options)) from problem


class Call:
    """Inputs of certain shapes with their memory: ``enqueue`` is set while the context is set up for this one.

    When nobody holds it any more its memory is given back to ``device``.
    """

    def __init__(self, device: Device, index: int, shapes: dict[str, tuple[int, ...]]) -> None:
        self.index, self.shapes = index, shapes
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.enqueue: Callable[[], None] = _nothing
        self.graph: Any = None
        self._device, self._held = device, list[int]()
        weakref.finalize(self, device.release, self._held)

    def allocate(self, name: str, size: int) -> None:
        """Memory of ``size`` bytes for an input or output."""
        self.addresses[name] = self._device.allocate(size)
        self._held.append(self.addresses[name])


class TensorRTSession:
    """An engine with a context for each profile that is needed.

    A context is set up for one ``Call`` at a time: 8.6 allows no two on one profile, and a graph is tied to the shapes of its
    context. Repeating a call costs nothing; alternating between two sets the context up each time.
    """

    def __init__(self, trt: TensorRT, logger: Any, loaded: Loaded, files: ModelFiles, built: Engine, cuda_graph: bool) -> None:
        self.inputs: tuple[TensorSpec, ...] = files.inputs
        self.outputs: tuple[TensorSpec, ...] = files.outputs
        self.ranges = built.record.key.options.profiles
        self.facts: Mapping[str, str] = _facts(trt, built.record, cuda_graph)
        self._trt, self._logger, self._record, self._cuda_graph = trt, logger, built.record, cuda_graph
        self._loaded_engine: Loaded | None = loaded
        self._contexts: dict[int, Any] = {}
        self._current: dict[int, Call] = {}
        self._calls: dict[tuple[tuple[int, ...], ...], Call] = {}
        self._device = Device()

    @classmethod
    def open(cls, files: ModelFiles, trt: TensorRT, built: Engine, *, cuda_graph: bool = False) -> TensorRTSession:
        """Load a plan that has just been checked; raises StaleEngineError where it does not load or is of other tensors."""
        if built.record.precision.problems:
            raise EngineError(
                f"the engine of {files.onnx} failed its check: {'; '.join(built.record.precision.problems)}",
                "run edgekit build on it to see all of it, or use ort-cpu",
            )
        logger, name = start(trt), f"the engine {built.path}"
        # a version compatible plan carries its own runtime; its bytes were checked
        loaded = load_engine(trt, logger, built.plan, name, host_code=built.record.key.options.version_compatible)
        check_tensors(trt, loaded.engine, name, files.inputs, files.outputs)
        return cls(trt, logger, loaded, files, built, cuda_graph)

    def run(self, feed: Feed) -> dict[str, Array]:
        """Host arrays in, host arrays out."""
        check_feed(self.inputs, feed)
        shapes = tuple(feed[spec.name].shape for spec in self.inputs)
        call = self._calls.get(shapes)
        if call is None:
            call = self._calls[shapes] = self._prepared(feed)
        held = self._upload(call, feed)
        self._launch(call)
        outputs = {spec.name: np.empty(call.outputs[spec.name], spec.dtype) for spec in self.outputs}
        for name, array in outputs.items():
            self._device.download(call.addresses[name], array)
        self._device.wait()
        del held
        return outputs

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Inputs and outputs stay in the GPU's memory, of their own as long as the function is held."""
        check_feed(self.inputs, feed)
        call = self._loaded(feed)
        launch, wait = self._launch, self._device.wait

        def once() -> None:
            launch(call)
            wait()

        return once

    def device_times(self, feed: Feed, count: int) -> DeviceTimes:
        """``count`` calls by the GPU's own clock, inputs resident, after one that is not counted."""
        check_feed(self.inputs, feed)
        call = self._loaded(feed)
        self._launch(call)
        self._device.wait()
        return self._device.times(call.enqueue, count)

    def layer_times(self, feed: Feed, count: int) -> tuple[LayerTime, ...]:
        """By TensorRT's own profiler, without a CUDA graph, after one call that is not counted."""
        check_feed(self.inputs, feed)
        self._check_open()
        index = self._profile(self._shapes(feed))
        self._drop_context(index)  # a profiler stays with its context: a fresh one gets it, and goes when this is done
        try:
            call = self._loaded(feed)
            self._set_up(call, cuda_graph=False)
            calls, layers = self._profiled(call, count)
        finally:
            self._drop_context(index)
        return _layer_times(calls, layers)

    def _profiled(self, call: Call, count: int) -> tuple[list[dict[str, float]], dict[str, EngineLayer]]:
        """(milliseconds of each layer in each call, what the engine says of its layers)."""
        context, profiler = self._contexts[call.index], layer_profiler(self._trt.api)
        context.profiler = profiler
        context.enqueue_emits_profile = False  # it would make every launch wait; report_to_profiler comes after the work
        for _ in range(1 + count):
            profiler.calls.append({})
            call.enqueue()
            self._device.wait()
            with self._asking("tell what its layers take") as granted:
                granted(context.report_to_profiler())
        assert self._loaded_engine is not None
        described = engine_layers(information(self._trt.api, self._loaded_engine.engine, context))
        return profiler.calls[1:], {engine_layer.name: engine_layer for engine_layer in described}

    def _loaded(self, feed: Feed) -> Call:
        """A call with its inputs, which are checked before, in the GPU's memory."""
        call = self._prepared(feed)
        held = self._upload(call, feed)
        self._device.wait()
        del held
        return call

    def _shapes(self, feed: Feed) -> dict[str, tuple[int, ...]]:
        return {spec.name: feed[spec.name].shape for spec in self.inputs}

    def _prepared(self, feed: Feed) -> Call:
        """A call with memory for its inputs, and for its outputs of the shapes that TensorRT infers."""
        self._check_open()
        self._logger.messages.clear()
        shapes = self._shapes(feed)
        call = Call(self._device, self._profile(shapes), shapes)
        context = self._context(call.index)
        self._retire(call.index)
        self._set_shapes(context, call)
        for spec in self.outputs:
            call.outputs[spec.name] = self._output_shape(context, spec, call)
        for spec in self.inputs:
            call.allocate(spec.name, feed[spec.name].nbytes)
        for spec in self.outputs:
            size = int(np.prod(call.outputs[spec.name], dtype=np.int64)) * np.dtype(spec.dtype).itemsize
            call.allocate(spec.name, size)
        return call

    def _profile(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        free = {
            shapes[spec.name][place] for spec in self.inputs for place, axis in enumerate(spec.shape) if isinstance(axis, str)
        }
        if len(free) > 1:
            text = ", ".join(f"{name} {shape_text(shape)}" for name, shape in shapes.items())
            raise EngineError(f"the inputs {text} are of different batch sizes", "give all of them the same")
        return self._record.profile_for(free.pop()) if free else 0

    def _context(self, index: int) -> Any:
        if index not in self._contexts:
            assert self._loaded_engine is not None
            context = create_context(self._trt, self._logger, self._loaded_engine)
            choose_profile(self._trt, self._logger, context, index, int(self._device.stream))
            self._device.wait()
            self._contexts[index] = context
        return self._contexts[index]

    def _set_shapes(self, context: Any, call: Call) -> None:
        for name, shape in call.shapes.items():
            set_shape(self._trt, self._logger, context, name, shape)
        with self._asking("infer its shapes"):
            missing = context.infer_shapes()
        if missing:
            raise self._failed(f"infer its shapes without {', '.join(missing)}")

    def _output_shape(self, context: Any, spec: TensorSpec, call: Call) -> tuple[int, ...]:
        shape = tuple(int(size) for size in context.get_tensor_shape(spec.name))
        fits = len(shape) == len(spec.shape) and all(
            got >= 0 if isinstance(expected, str) else got == expected for expected, got in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise EngineError(
                f"the engine gives {spec.name} of {shape_text(shape)} for inputs of "
                f"{', '.join(map(shape_text, call.shapes.values()))}, and the manifest says {shape_text(spec.shape)}",
                "run the bundle with ort-cpu",
            )
        return shape

    def _set_up(self, call: Call, cuda_graph: bool) -> None:
        """Make the profile's context this call's: its shapes, its memory and, where asked for, its graph."""
        self._check_open()
        self._logger.messages.clear()
        context = self._context(call.index)
        self._retire(call.index)
        self._set_shapes(context, call)
        for name, address in call.addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._failed(f"use memory for {name}")
        stream = int(self._device.stream)

        def enqueue() -> None:
            if not context.execute_async_v3(stream):
                raise self._failed(f"run on {', '.join(map(shape_text, call.shapes.values()))}")

        if cuda_graph:
            enqueue()  # work that new shapes bring is done here, and must not be in the graph
            self._device.wait()
            call.graph = graph = self._captured(context, enqueue)
            call.enqueue = lambda: self._device.launch(graph)
        else:
            call.enqueue = enqueue
        self._current[call.index] = call

    def _captured(self, context: Any, enqueue: Callable[[], None]) -> Any:
        try:
            if not stream_is_capturable(self._trt, context, int(self._device.stream)):
                raise EngineError("it would take memory while it runs")
            return self._device.capture(enqueue)
        except EngineError as problem:
            rebuild = ", or build it with --cuda-graph" if self._trt.flavour.compiles_late else ""
            raise EngineError(
                f"the engine does not become a CUDA graph: {problem.reason}", f"leave out --cuda-graph{rebuild}"
            ) from problem

    def _retire(self, index: int) -> None:
        """The profile's context is no longer set up for the call that had it."""
        call = self._current.pop(index, None)
        if call is None:
            return
        call.enqueue = _nothing
        if call.graph is not None:
            self._device.discard(call.graph)
            call.graph = None

    def _drop_context(self, index: int) -> None:
        """The next call on this profile gets another context."""
        self._retire(index)
        self._contexts.pop(index, None)

    def _launch(self, call: Call) -> None:
        if self._current.get(call.index) is not call:
            self._set_up(call, self._cuda_graph)
        call.enqueue()

    def _upload(self, call: Call, feed: Feed) -> list[Array]:
        """Starts the copies; the arrays given back must stay until they are done."""
        held = [np.asarray(feed[spec.name], order="C") for spec in self.inputs]
        for spec, array in zip(self.inputs, held, strict=True):
            self._device.upload(array, call.addresses[spec.name])
        return held

    def _asking(self, action: str) -> AbstractContextManager[Callable[[bool], bool]]:
        return asking(self._trt, action, self._logger)

    def _failed(self, action: str) -> EngineError:
        return failure(self._trt, action, self._logger.messages)

    def _check_open(self) -> None:
        if self._device.closed:
            raise UsageError("this TensorRT engine is closed and its memory given back", "open it again")

    def __enter__(self) -> TensorRTSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._device.closed:
            return
        with suppress(EngineError):  # after an error on the GPU everything fails, and all is given back the same
            self._device.wait()
        for index in tuple(self._current):
            self._retire(index)
        self._calls.clear()
        self._contexts.clear()
        self._loaded_engine = None
        self._device.close()


def _nothing() -> None:
    return None


def _layer_times(calls: Sequence[Mapping[str, float]], layers: Mapping[str, EngineLayer]) -> tuple[LayerTime, ...]:
    """Layers in the order of execution, with what the engine says of each."""
    times = []
    for name in dict.fromkeys(name for call in calls for name in call):
        engine_layer = layers.get(name, EngineLayer(name))
        # it is named after, and told with, the layer that it moves something to
        moves = engine_layer.kind == "Reformat" or name.startswith("Reformatting CopyNode")
        hints = () if moves else engine_layer.onnx_nodes or fused_parts(name)
        # a node without a name is called after its output
        hints = tuple(dict.fromkeys(name for hint in hints for name in (hint, hint.removeprefix(NAMELESS))))
        times.append(LayerTime(name, engine_layer.kind, hints, tuple(call.get(name, 0.0) for call in calls)))
    return tuple(times)


def _facts(trt: TensorRT, record: EngineRecord, cuda_graph: bool) -> dict[str, str]:
    key, gpu = record.key, gpu_facts()  # an engine may have been built on another GPU, or on none
    facts = {
        "flavour": trt.flavour.name,
        "version": trt.version,
        "gpu": gpu.get("gpu", key.gpu),
        "compute capability": gpu.get("compute capability", key.compute_capability),
        "driver": gpu.get("driver", key.driver),
        "precision": ", ".join(record.precision.found) or key.precision,
        "precision read from": record.precision.read_from,
        "TF32": tf32_fact(key.options.tf32),
        "profiles (min:opt:max)": ", ".join(map(str, key.options.profiles)) or "none, the batch is fixed",
        "CUDA graph": "on" if cuda_graph else "off",
        "kernels": "compiled for their shapes before they run" if trt.flavour.compiles_late else "",
        "note": "; ".join(record.notes),
        "engine sha256": record.plan_sha256,
    }
    return {name: value for name, value in facts.items() if value}
