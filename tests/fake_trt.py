"""A TensorRT made of a listing: what the listing lacks raises AttributeError, and so does setting it.

It parses real ONNX files into layers and makes plans that say what they were built of. The tests choose what its engines say of
themselves, so that what needs a GPU can be reached without one.
"""

from __future__ import annotations

import base64
import enum
import importlib.machinery
import json
import types
import weakref
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.fake_cuda import FakeCuda
from tests.trt_listing import Listing
from tests.ways import set_driver

KINDS = {
    "Conv": "CONVOLUTION", "Gemm": "MATRIX_MULTIPLY", "Relu": "ACTIVATION", "Sigmoid": "ACTIVATION", "MaxPool": "POOLING",
    "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Cast": "CAST",
}  # fmt: skip
TYPES = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.INT8: "INT8"}
GPU = {
    "gpu": "Pretended GPU", "compute capability": "8.7", "multiprocessors": "16", "gpu memory": "8 GiB", "cuda driver": "12.6",
    "driver": "540.4",
}  # fmt: skip


def called(node: Any) -> str:
    """As the parser calls it."""
    return str(node.name or f"node_of_{node.output[0]}")


class Strict:
    """Only what the listing names exists; names with an underscore are the fake's own."""

    _listing: ClassVar[Listing]
    _kind: ClassVar[str]
    _fake: ClassVar[FakeTensorRT]

    def __getattribute__(self, name: str) -> Any:
        kind = type(self)._kind
        if not name.startswith("_") and not self._listing.has(kind, name) and not self._own(name):
            raise AttributeError(f"TensorRT {self._listing.version}: {kind} has no {name}")
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not self._listing.has(type(self)._kind, name) and not self._derived():
            raise AttributeError(f"TensorRT {self._listing.version}: {type(self)._kind} has no {name}")
        super().__setattr__(name, value)

    @classmethod
    def _derived(cls) -> bool:
        return not cls.__module__.startswith("tests.")

    @classmethod
    def _own(cls, name: str) -> bool:
        return cls._derived()


class ILogger(Strict):
    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError

    def _error(self, text: str) -> None:
        self.log(types.SimpleNamespace(name="ERROR"), text)


class IProgressMonitor(Strict):
    pass


class IProfiler(Strict):
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class ITensor(Strict):
    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape


class ILayer(Strict):
    def __init__(self, name: str, kind: Any, inputs: list[ITensor], outputs: list[ITensor], metadata: str) -> None:
        self.name, self.type, self._inputs, self._outputs, self.metadata = name, kind, inputs, outputs, metadata
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]

    def set_output_type(self, index: int, dtype: Any) -> None:
        self._fake.layer_types[self.name] = dtype.name  # what the tensor then says is the builder's to decide


class INetworkDefinition(Strict):
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._layers: list[ILayer] = []
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []

    num_layers = property(lambda self: len(self._layers))
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class ParserError(Strict):
    def __init__(self, number: int, node: Any, desc: str) -> None:
        self._number, self._node, self._desc = number, node, desc

    def desc(self) -> str:
        return self._desc

    def node(self) -> int:
        return self._number

    def node_name(self) -> str:
        return str(self._node.name)

    def node_operator(self) -> str:
        return str(self._node.op_type)


class OnnxParser(Strict):
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._errors = network, list[ParserError]()

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def supports_model(self, content: bytes) -> tuple[bool, list[tuple[list[int], bool]]]:
        nodes = onnx.load_model_from_string(content).graph.node
        return False, [([number], node.domain == "") for number, node in enumerate(nodes)]

    def parse(self, content: bytes) -> bool:
        graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content)).graph
        self._network._content = content
        if self._listing.has("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH") and not self._network._flags & 1:
            raise RuntimeError("this flavour needs EXPLICIT_BATCH")
        for number, node in enumerate(graph.node):
            # 8.6 stops at the first, later ones go on
            if node.domain and (not self._errors or self._listing.has("ParserError", "node_name")):
                made = self._fake._bound(ParserError)
                self._errors.append(made(number, node, 'creator && "Plugin not found, are the plugin name right?"'))
        self._fill(graph)
        return not self._errors

    def _fill(self, graph: Any) -> None:
        values = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}

        def tensor(name: str) -> ITensor:
            kind = values[name].type.tensor_type if name in values else None
            dtype = TYPES.get(kind.elem_type, "FLOAT") if kind is not None else "FLOAT"
            inner = name not in {value.name for value in (*graph.input, *graph.output)}
            if self._listing.flavour.precision_flags and inner and dtype == "HALF":
                dtype = "FLOAT"  # a weakly typed network leaves the type to the builder
            shape = tuple(axis.dim_value or -1 for axis in kind.shape.dim) if kind is not None else ()
            bound: ITensor = self._fake._bound(ITensor)(name, self._fake.api.DataType[dtype], shape)
            return bound

        network, layer = self._network, self._fake._bound(ILayer)
        for node in graph.node:
            kind = self._fake.api.LayerType[KINDS.get(node.op_type, "SHUFFLE")]
            inputs, outputs = [tensor(name) for name in node.input], [tensor(name) for name in node.output]
            metadata = f"[ONNX Layer: {called(node)}]"
            if node.op_type == "Gemm":  # a product and a sum to the real parsers; what lies between has no name in the file
                dtype = self._fake.api.DataType["FLOAT"] if self._listing.flavour.precision_flags else outputs[0].dtype
                between = self._fake._bound(ITensor)(f"(Unnamed Layer* {len(network._layers)})_output", dtype, outputs[0].shape)
                network._layers.append(layer(f"{node.name}_product", kind, inputs[:2], [between], metadata))
                kind, inputs = self._fake.api.LayerType["ELEMENTWISE"], [between, *inputs[2:]]
            network._layers.append(layer(node.name, kind, inputs, outputs, metadata))
        network._inputs += [tensor(value.name) for value in graph.input]
        network._outputs += [tensor(value.name) for value in graph.output]


class IOptimizationProfile(Strict):
    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        if self._fake.fails == "set_shape":
            raise RuntimeError("Shape provided for min is inconsistent with other shapes.")
        self._shapes = {**getattr(self, "_shapes", {}), name: [low, best, high]}


class ITimingCache(Strict):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return (self._content or b"measured") + (b" more" if self._fake.measures_more else b"")


class IBuilderConfig(Strict):
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self._flags = {"TF32"}
        self._profiles: list[Any] = []
        self._memory: dict[str, int] = {}
        self._cache: ITimingCache | None = None

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        assert index < self.__dict__.get("num_compute_capabilities", 0)
        if self._fake.fails == "capability":
            self._logger._error("Error Code 3: API Usage Error (no such compute capability.)")
            return False
        self._capabilities = {**self.__dict__.get("_capabilities", {}), index: compute_capability.name}
        return True

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._memory[pool.name] = size

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile._shapes)
        return self._fake.profile_result if self._fake.profile_result < 0 else len(self._profiles) - 1

    def create_timing_cache(self, content: bytes) -> Any:
        return self._fake._bound(ITimingCache)(content)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._content == b"foreign" and not ignore_mismatch:
            if self._fake.cache_error:
                self._logger._error(self._fake.cache_error)
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class Builder(Strict):
    def __init__(self, logger: ILogger) -> None:
        for severity, text in self._fake.complaints:
            logger.log(types.SimpleNamespace(name=severity), text)
        if self._fake.broken:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags: int) -> Any:
        return self._fake._bound(INetworkDefinition)(flags)

    def create_builder_config(self) -> Any:
        return self._fake._bound(IBuilderConfig)(self._logger)

    def create_optimization_profile(self) -> Any:
        return self._fake._bound(IOptimizationProfile)()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        self._fake.builds.append((network, config))
        if self._fake.fails == "build":
            raise RuntimeError("std::bad_alloc")
        if self._fake.build_error == " ":
            return None
        if self._fake.build_error:
            self._logger._error(self._fake.build_error)
            return None
        monitor = config.__dict__.get("progress_monitor")
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            for step in range(2):
                if not monitor.step_complete("Building", step):
                    self._fake.stopped_at = step
                    return None
            monitor.phase_finish("Building")
        document = {
            "build": len(self._fake.builds),
            "flags": sorted(config._flags),
            "network": network._flags,
            "profiles": config._profiles,
            "onnx": base64.b64encode(network._content).decode(),
        }
        return json.dumps(document).encode()


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
        for name, made in zip(names, self._engine._run(names, feed), strict=True):
            cuda.view(addresses[name], made.nbytes)[:] = np.frombuffer(made.tobytes(), np.uint8)

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
        made = self._fake._bound(IExecutionContext)(self, settings)
        self._living.add(made)
        return made

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
        half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in self._graph.initializer)
        profiles = range(max(1, len(self._document["profiles"])))
        chosen = (context._profile or 0) if context is not None and context._shapes else None
        layers = []
        for profile in profiles if self._listing.flavour.precision_flags else profiles[:1]:
            for node in self._graph.node:
                if KINDS.get(node.op_type) not in ("CONVOLUTION", "MATRIX_MULTIPLY"):
                    continue
                text = "Int8" if node.input[0] in quantised else "Half" if half else "Float"
                if self._document["profiles"] and (
                    chosen is None or (self._listing.flavour.precision_flags and profile != chosen)
                ):
                    text = "N/A due to dynamic shapes"
                suffix = f" [profile {profile}]" if profile else ""
                told = {
                    "Name": f"{called(node)}{suffix}",
                    "LayerType": KINDS[node.op_type],
                    "Inputs": [{"Format/Datatype": text}],
                }
                layers.append({**told, "Metadata": f"[ONNX Layer: {called(node)}]"})
        return json.dumps({"Layers": layers})

    num_io_tensors = property(lambda self: len(self._graph.input) + len(self._graph.output))

    def get_tensor_name(self, index: int) -> str:
        return str([*self._graph.input, *self._graph.output][index].name)

    def get_tensor_mode(self, name: str) -> Any:
        return self._fake.api.TensorIOMode["INPUT" if name in [one.name for one in self._graph.input] else "OUTPUT"]

    def get_tensor_location(self, name: str) -> Any:
        return self._fake.api.TensorLocation["HOST" if self._fake.fails == "host" else "DEVICE"]

    def get_tensor_dtype(self, name: str) -> Any:
        value = next(one for one in (*self._graph.input, *self._graph.output) if one.name == name)
        return self._fake.api.DataType[TYPES[value.type.tensor_type.elem_type]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        tensors = (*self._tensors("input"), *self._tensors("output"))
        return next(shape for other, _, shape in tensors if other == name)

    def _run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self._opened = self._opened or onnxruntime.InferenceSession(self._content, providers=["CPUExecutionProvider"])
        return list(self._opened.run(names, feed))

    def _tensors(self, which: str) -> list[tuple[str, str, tuple[int, ...]]]:
        """(name, numpy's dtype, shape with -1 for a free axis)."""
        found = []
        for value in self._graph.input if which == "input" else self._graph.output:
            kind = value.type.tensor_type
            dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
            found.append((value.name, dtype, tuple(axis.dim_value or -1 for axis in kind.shape.dim)))
        return found


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


CLASSES = (
    ILogger, IProgressMonitor, IProfiler, ITensor, ILayer, INetworkDefinition, ParserError, OnnxParser, IOptimizationProfile,
    ITimingCache, IBuilderConfig, Builder, IRuntimeConfig, IExecutionContext, EngineInspector, ICudaEngine, Runtime,
)  # fmt: skip


class FakeTensorRT:
    """The module ``api`` for one listing, what it should do, and what it was asked."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.information: str | None = None
        self.build_error, self.profile_result = "", 0
        self.broken, self.loads = False, True
        self.builds: list[tuple[Any, Any]] = []
        self.layer_types: dict[str, str] = {}
        self.stopped_at: int | None = None
        self.shapes_set: dict[str, tuple[int, ...]] = {}
        self.cuda, self.contexts, self.fails = FakeCuda(), 0, ""
        self.output_shape: tuple[int, ...] | None = None
        self.plugins_registered = self.measures_more = False
        self.refused_builds: set[int] = set()
        self.cache_error, self.complaints = "", list[tuple[str, str]]()
        self._made: dict[type, type] = {}
        module: Any = types.ModuleType(listing.module)
        self.api = module
        self.api.__version__ = listing.version
        self.api.__spec__ = importlib.machinery.ModuleSpec(listing.module, None)
        for name, members in listing.enums.items():
            setattr(self.api, name, enum.IntEnum(name, members, start=0))
        for one in CLASSES:
            if listing.has(one.__name__):
                setattr(self.api, one.__name__, self._bound(one))
        if listing.has("init_libnvinfer_plugins"):
            self.api.init_libnvinfer_plugins = self._register_plugins

    def _register_plugins(self, logger: ILogger, namespace: str) -> bool:
        self.plugins_registered = self.fails != "plugins"
        return self.plugins_registered

    def _bound(self, kind: type) -> Any:
        if kind not in self._made:
            known = {"_listing": self.listing, "_kind": kind.__name__, "_fake": self, "__module__": "tests.fake_trt"}
            self._made[kind] = type(kind.__name__, (kind,), known)
        return self._made[kind]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
        """As if it were installed, on a machine with a GPU."""
        import sys

        monkeypatch.setitem(sys.modules, self.listing.module, self.api)
        for module in ("flavour", "inspector"):
            monkeypatch.setattr(f"edgekit.backends.tensorrt.{module}.cuda_absence", lambda: None)
        monkeypatch.setattr("edgekit.backends.tensorrt.engines.gpu_facts", lambda: dict(GPU))
        monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: dict(GPU))
        return self

    def install_with_cuda(self, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
        """As ``install``, and engines run, on the fake of CUDA."""
        self.cuda.install(monkeypatch)
        set_driver(monkeypatch, None)
        # whatever GPU is in this machine: the record's is told
        monkeypatch.setattr("edgekit.backends.tensorrt.session.gpu_facts", dict)
        return self.install(monkeypatch)


LENET = ("node_conv2d", "node_conv2d_1", "node_linear", "node_linear_1", "node_linear_2")


def layers_json(*types_of: str, tactic: str = "0x0000000000000002", key: str = "Format/Datatype") -> str:
    """What an inspector says of LeNet's layers that read these formats, between two reformats."""
    reformat = {"Name": "Reformatting CopyNode for conv", "LayerType": "Reformat", "Inputs": [{key: "Float"}], "TacticName": ""}
    layers = [
        {"Name": f"conv{index}", "LayerType": "CaskConvolution", "Inputs": [{key: text}], "TacticName": tactic}
        | ({"Metadata": f"[ONNX Layer: {LENET[index]}]"} if index < len(LENET) else {})
        for index, text in enumerate(types_of or ("Row major linear FP32",))
    ]
    return json.dumps({"Layers": [reformat, *layers, reformat], "Bindings": ["input", "output"]})
