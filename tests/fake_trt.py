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
from typing import Any

import onnx
import pytest

from tests.fake_cuda import FakeCuda
from tests.fake_trt_engine import EngineInspector, ICudaEngine, IExecutionContext, IRuntimeConfig, Runtime
from tests.fake_trt_strict import KINDS, TYPES, ILogger, Strict, called
from tests.trt_listing import Listing
from tests.ways import set_driver

GPU = {
    "gpu": "Pretended GPU", "compute capability": "8.7", "multiprocessors": "16", "gpu memory": "8 GiB", "cuda driver": "12.6",
    "driver": "540.4",
}  # fmt: skip


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
        self._network, self._logger, self._errors = network, logger, list[ParserError]()

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
        stored = {tensor.name: tensor for tensor in graph.initializer}
        for number, node in enumerate(graph.node):
            for reason in self._steps_at_fault(node, stored) if not self._errors else ():
                self._errors.append(self._fake._bound(ParserError)(number, node, reason))
            # 8.6 stops at the first, later ones go on
            if node.domain and (not self._errors or self._listing.has("ParserError", "node_name")):
                error = self._fake._bound(ParserError)
                self._errors.append(error(number, node, 'creator && "Plugin not found, are the plugin name right?"'))
        self._fill(graph)
        return not self._errors

    def _steps_at_fault(self, node: Any, stored: dict[str, Any]) -> list[str]:
        """As the parsers of TensorRT-RTX 1.7.1 (seen) and 8 (by reports of it) treat quantised steps."""
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return []
        zero = stored.get(node.input[2]) if len(node.input) > 2 else None
        faults = []
        if zero is not None and onnx.numpy_helper.to_array(zero).any():
            faults.append("Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported.")
        if zero is not None and zero.data_type == onnx.TensorProto.UINT8:
            if self._listing.flavour.uint8_zero_points:
                self._logger.log(
                    types.SimpleNamespace(name="WARNING"), "UINT8 zero_point only on DLA. Defaulting to INT8 instead."
                )
            else:
                faults.append("Assertion failed: TensorRT only supports INT8 for the zero point.")
        kind = getattr(stored.get(node.input[0]), "data_type", 0)
        if kind == onnx.TensorProto.UINT8:
            faults.append("Assertion failed: status.is_success(): Found unsupported input type of UINT8")
        if kind == onnx.TensorProto.INT8 and not self._listing.flavour.int8_constants:
            faults.append(f"{node.input[0]}: invalid weights type of Int8")
        return faults

    def _fill(self, graph: Any) -> None:
        stored = {tensor.name: TYPES.get(tensor.data_type, "FLOAT") for tensor in graph.initializer}
        values = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}

        def tensor(name: str) -> ITensor:
            kind = values[name].type.tensor_type if name in values else None
            dtype = TYPES.get(kind.elem_type, "FLOAT") if kind is not None else stored.get(name, "FLOAT")
            inner = name not in {value.name for value in (*graph.input, *graph.output)}
            dtype = "INT8" if inner and dtype == "UINT8" else dtype  # as which every flavour reads quantised numbers
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
        for kind in CLASSES:
            if listing.has(kind.__name__):
                setattr(self.api, kind.__name__, self._bound(kind))
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
