"""Engines of the fake TensorRT: plans are loaded, described and run. Their kernel is ONNX Runtime on the file of the plan."""

from __future__ import annotations

import base64
import json
import weakref
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.fake_cuda import FakeCuda
from tests.fake_trt_strict import KINDS, TYPES, ILogger, Strict, called


class IRuntimeConfig(Strict):
    pass


class IExecutionContext(Strict):
    """Its kernel is ONNX Runtime on the file that the plan was built of, run when the stream comes to it.

    As in the bindings, some refusals raise RuntimeError, and others are False.
    """

    def __init__(self, engine: ICudaEngine, settings: Any) -> None:
        self._engine, self._settings = engine, settings
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._inferred = self._settled = False
        self._unreported = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        profiles = self._engine._document["profiles"]
        taken = any(other._profile == profile_index for other in self._engine._living if other is not self)
        if taken or self._fake.fails == "profile" or not 0 <= profile_index < max(len(profiles), 1):
            which = "in use by another context" if taken else "out of range"
            self._refused(f"Error Code 3: API Usage Error (the profile index is {which}.)")
            raise RuntimeError("Error in set optimization profile async.")
        self._profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._fake.shapes_set[name] = shape
        self._inferred = self._settled = False
        if self._profile is not None and self._engine._document["profiles"]:
            low, _, high = self._engine._document["profiles"][self._profile][name]
            if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
                return self._refused(f"Error Code 3: API Usage Error (the shape of {name} is outside of its profile.)")
        self._shapes[name] = tuple(shape)
        return self._fake.fails != "shape" or self._refused("Error Code 3: API Usage Error (a shape it does not take.)")

    def infer_shapes(self) -> list[str]:
        if self._fake.fails == "infer":
            return ["hidden"]
        if self._fake.fails == "infer raises":
            raise RuntimeError("infer_shapes error code: -1")
        missing = [name for name, _, _ in self._engine._tensors("input") if name not in self._shapes]
        self._inferred = not missing
        return missing

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        shape = next(shape for other, _, shape in self._engine._tensors("output") if other == name)
        batch = next(iter(self._shapes.values()))[0]
        shape = tuple(batch if size < 0 and self._inferred else size for size in shape)
        return self._fake.output_shape or shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return self._fake.fails != "address" or self._refused("Error Code 3: API Usage Error (an address it does not take.)")

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream in self._fake.cuda.streams
        return self._fake.fails != "capturable"

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.__dict__.get("nvtx_verbosity", None) == self._fake.api.ProfilingVerbosity.NONE, "a launch would tell NVTX all"
        if self._listing.has("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"):
            strategy = self._settings.dynamic_shapes_kernel_specialization_strategy
            assert strategy.name == "EAGER", "a call would become faster after a while, and a graph would not"
        if self._fake.fails == "enqueue" or (self._fake.fails == "capture" and self._fake.cuda.capturing):
            return self._refused("IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (invalid argument)")
        profiler = self.__dict__.get("profiler")
        assert profiler is None or self.__dict__.get("enqueue_emits_profile") is False, "a launch would wait, and report itself"
        if profiler is not None and self._fake.cuda.capturing:
            return self._refused("Error Code 3: API Usage Error (a profiled context cannot be captured.)")
        if not self._settled and self._fake.cuda.capturing:
            return self._refused("Error Code 1: Cuda Runtime (what new shapes bring cannot be captured)")
        self._settled = True
        assert self._inferred
        assert self._profile is not None, "8.6 selects no profile by itself but for the first context"
        shapes, addresses, cuda = dict(self._shapes), dict(self._addresses), self._fake.cuda
        return cuda.put(stream_handle, lambda: self._compute(shapes, addresses, cuda))

    def report_to_profiler(self) -> bool:
        profiler = self.__dict__.get("profiler")
        if profiler is None or not self._unreported or self._fake.fails == "report":
            return self._refused("Error Code 3: API Usage Error (there is nothing to report.)")
        self._unreported = 0
        for place, layer in enumerate(json.loads(self._engine._described(self))["Layers"]):
            profiler.report_layer_time(layer["Name"], 0.25 * (place + 1) * next(iter(self._shapes.values()))[0])
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int], cuda: FakeCuda) -> None:
        self._unreported += 1
        cuda.clock += 0.5 * next(iter(shapes.values()))[0]
        assert shapes == self._shapes, "the context was set up for other shapes before this ran"
        feed = {}
        for name, dtype, _ in self._engine._tensors("input"):
            size = int(np.prod(shapes[name])) * np.dtype(dtype).itemsize
            feed[name] = cuda.view(addresses[name], size).view(dtype).reshape(shapes[name])
        names = [name for name, _, _ in self._engine._tensors("output")]
        for name, output in zip(names, self._engine._run(names, feed), strict=True):
            cuda.view(addresses[name], output.nbytes)[:] = np.frombuffer(output.tobytes(), np.uint8)

    def _refused(self, text: str) -> bool:
        self._engine._logger._error(text)
        return False


class EngineInspector(Strict):
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, form: Any) -> str:
        assert form.name == "JSON"
        return self._engine._described(self.__dict__.get("execution_context"))


class ICudaEngine(Strict):
    def create_engine_inspector(self) -> Any:
        return self._fake._bound(EngineInspector)(self)

    def create_runtime_config(self) -> Any:
        return self._fake._bound(IRuntimeConfig)()

    def create_execution_context(self, settings: Any = None) -> Any:
        if self._fake.fails == "context":
            self._logger._error("Error Code 2: OutOfMemory (Requested size was 9 bytes, out of memory.)")
            return None
        self._fake.contexts += 1
        context = self._fake._bound(IExecutionContext)(self, settings)
        self._living.add(context)
        return context

    def __init__(self, document: dict[str, Any], logger: ILogger) -> None:
        self._document, self._logger = document, logger
        self._content = base64.b64decode(document["onnx"])
        self._graph = onnx.load_model_from_string(self._content).graph
        self._opened: Any = None
        self._living: weakref.WeakSet[Any] = weakref.WeakSet()

    def _described(self, context: IExecutionContext | None) -> str:
        """In the test's words, or of each node that computes; types are told only of the profile that has its shapes."""
        if self._fake.information is not None:
            return self._fake.information
        quantised = {name for node in self._graph.node if node.op_type == "DequantizeLinear" for name in node.output}
        half = {tensor.name for tensor in self._graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
        profiles = range(max(1, len(self._document["profiles"])))
        chosen = (context._profile or 0) if context is not None and context._shapes else None
        layers = []
        for profile in profiles if self._listing.flavour.precision_flags else profiles[:1]:
            for node in self._graph.node:
                if KINDS.get(node.op_type) not in ("CONVOLUTION", "MATRIX_MULTIPLY"):
                    continue
                text = "Int8" if node.input[0] in quantised else "Half" if half.intersection(node.input) else "Float"
                if self._document["profiles"] and (
                    chosen is None or (self._listing.flavour.precision_flags and profile != chosen)
                ):
                    text = "N/A due to dynamic shapes"
                suffix = f" [profile {profile}]" if profile else ""
                row = {
                    "Name": f"{called(node)}{suffix}",
                    "LayerType": KINDS[node.op_type],
                    "Inputs": [{"Format/Datatype": text}],
                }
                layers.append({**row, "Metadata": f"[ONNX Layer: {called(node)}]"})
        return json.dumps({"Layers": layers})

    num_io_tensors = property(lambda self: len(self._graph.input) + len(self._graph.output))

    def get_tensor_name(self, index: int) -> str:
        return str([*self._graph.input, *self._graph.output][index].name)

    def get_tensor_mode(self, name: str) -> Any:
        return self._fake.api.TensorIOMode["INPUT" if name in [value.name for value in self._graph.input] else "OUTPUT"]

    def get_tensor_location(self, name: str) -> Any:
        return self._fake.api.TensorLocation["HOST" if self._fake.fails == "host" else "DEVICE"]

    def get_tensor_dtype(self, name: str) -> Any:
        value = next(value for value in (*self._graph.input, *self._graph.output) if value.name == name)
        return self._fake.api.DataType[TYPES[value.type.tensor_type.elem_type]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        tensors = (*self._tensors("input"), *self._tensors("output"))
        return next(shape for other, _, shape in tensors if other == name)

    def _run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self._opened = self._opened or onnxruntime.InferenceSession(self._content, providers=["CPUExecutionProvider"])
        return list(self._opened.run(names, feed))

    def _tensors(self, which: str) -> list[tuple[str, str, tuple[int, ...]]]:
        """(name, numpy's dtype, shape with -1 for a free axis)."""
        kept = []
        for value in self._graph.input if which == "input" else self._graph.output:
            kind = value.type.tensor_type
            dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
            kept.append((value.name, dtype, tuple(axis.dim_value or -1 for axis in kind.shape.dim)))
        return kept


class Runtime(Strict):
    def __init__(self, logger: ILogger) -> None:
        if self._fake.fails == "runtime":
            raise TypeError("pybind11::init(): factory function returned nullptr")
        assert self._fake.plugins_registered, "a plan that names a plugin of TensorRT's own would not load"
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        document = json.loads(plan)
        portable = "VERSION_COMPATIBLE" in document["flags"]
        if portable and not self.__dict__.get("engine_host_code_allowed"):
            self._logger._error("Error Code 4: API Usage Error (Host code is not allowed.)")
            return None
        if self._fake.loads and document["build"] not in self._fake.refused_builds:
            return self._fake._bound(ICudaEngine)(document, self._logger)
        self._logger._error("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (the GPU is of another kind)")
        return None
