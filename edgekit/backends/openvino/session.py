"""OpenVINO on the CPU, in the precision that was asked for and in no other."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

if "openvino" not in sys.modules:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it has a stub where this is not installed
import openvino  # type: ignore[import-untyped,unused-ignore]

from edgekit.backends.contract import LayerTime
from edgekit.bundle.files import ModelFiles
from edgekit.errors import BundleError, EdgekitError
from edgekit.files import cache_root
from edgekit.machine.bounds import TimeBound, current_time_bound, granted_seconds, too_large, too_long
from edgekit.machine.child import Failure, Limits, run_child
from edgekit.machine.cpu import cores, cpu_facts
from edgekit.onnx.untrusted import read_for_session
from edgekit.setups import Setup
from edgekit.tensors import Array, Feed, TensorSpec, shape_text

DEVICE = "CPU"
CORE = openvino.Core()
VERSION = str(openvino.__version__).partition("-")[0]
HINTS = {"float32": "f32", "bfloat16": "bf16"}
WARM_UP = 3
MAIN_THREAD = threading.main_thread().ident
COMPILE_SECONDS, COMPILE_BYTES = 120.0, 4 << 30
"""What compiling a file in a process of its own may take; ``COMPILE_BYTES`` beside eight times the file."""
OUT_OF_MEMORY = ("bad_alloc", "allocate", "MemoryError")


def capabilities() -> frozenset[str]:
    """What the CPU plugin computes in here, such as ``FP32``, ``BF16``, ``INT8``."""
    return frozenset(CORE.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))


class OpenVinoSession:
    """A compiled model with as many requests as there are callers at once: a request takes one."""

    def __init__(self, compiled: Any, files: ModelFiles, content: bytes, config: Mapping[str, Any]) -> None:
        self.inputs: tuple[TensorSpec, ...] = files.inputs
        self.outputs: tuple[TensorSpec, ...] = files.outputs
        self._path, self._content, self._config = files.onnx, content, dict(config)
        self._compiled = compiled
        self._idle: deque[Any] = deque([compiled.create_infer_request()])
        self._ports = _ports(compiled, files)
        self._bound: list[Any] = []
        self._ended: dict[TimeBound, list[Any]] = {}
        asked = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.facts: Mapping[str, str] = {
            "openvino": VERSION,
            "device": str(CORE.get_property(DEVICE, "FULL_DEVICE_NAME")),
            "precision": _precision(files.precision, asked),
            "threads": str(compiled.get_property("INFERENCE_NUM_THREADS")),
        } | cpu_facts()

    @classmethod
    def open(cls, files: ModelFiles, setup: Setup, precision: str) -> OpenVinoSession:
        """Compile the file, in a process of its own first; raises BundleError for a file that OpenVINO refuses."""
        content = read_for_session(files.onnx, files.onnx_sha256)
        config = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": setup.threads or cores(),
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # it would quantise the activations of weights in 8 bits
        }
        if files.original:  # a changed copy of a file that was compiled before has no operator that it had not
            _check_compiles(content, config, files.onnx)
        try:
            compiled = CORE.compile_model(CORE.read_model(content), DEVICE, config)
        except (RuntimeError, MemoryError) as problem:
            raise _refused(files.onnx, problem) from problem
        return cls(compiled, files, content, config)

    def run(self, feed: Feed) -> dict[str, Array]:
        """Host arrays in, host arrays out; raises ModelError for another dtype, which OpenVINO would convert."""
        self._check_dtypes(feed)
        with self._request() as request:
            self._infer(request, feed, dict(feed))
            return {name: np.array(request.get_tensor(port).data) for name, port in self._ports.items()}

    @contextmanager
    def _request(self) -> Iterator[Any]:
        """A request that no other thread has meanwhile."""
        try:
            request = self._idle.pop()
        except IndexError:  # every other one is another caller's
            request = self._compiled.create_infer_request()
        try:
            yield request
        finally:
            self._idle.append(request)

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Inputs stay in memory that OpenVINO reads; outputs stay in its own. Runs use another request."""
        self._check_dtypes(feed)
        request = self._compiled.create_infer_request()
        self._bound.append(request)  # of one that is gone the model keeps a pointer, and a call of another thread crashes
        try:
            for name, array in feed.items():
                request.set_tensor(name, openvino.Tensor(np.ascontiguousarray(array)))
        except RuntimeError as problem:
            raise self._failure(feed, problem) from problem
        return lambda: self._infer(request, feed, None)

    def _check_dtypes(self, feed: Feed) -> None:
        for spec in self.inputs:
            if spec.name in feed and str(feed[spec.name].dtype) != spec.dtype:
                spec.check(feed[spec.name])

    def _infer(self, request: Any, feed: Feed, inputs: dict[str, Array] | None) -> None:
        """One call of ``request``, on ``inputs`` or on what it holds."""
        bound = current_time_bound()
        if bound is not None and request not in self._ended.setdefault(bound, []):
            self._ended[bound].append(request)
            bound.at_end(request.cancel)
        try:
            if bound is None and threading.get_ident() == MAIN_THREAD:
                request.infer(inputs) if inputs is not None else request.infer()
                return
            # infer() cannot be cancelled; this can, and ends with the node that it is at. infer() computes in the thread that
            # calls it, and where several do, the process crashes or hangs (openvino #24509): this computes in OpenVINO's own
            request.start_async(inputs) if inputs is not None else request.start_async()
            request.wait()
            if bound is not None and bound.over:
                raise too_long(self._path, bound.seconds)
        except RuntimeError as problem:
            raise self._failure(feed, problem) from problem

    def _failure(self, feed: Feed, problem: Exception) -> BundleError:
        shapes = ", ".join(f"{name} {shape_text(array.shape)}" for name, array in feed.items())
        bound = current_time_bound()
        if any(text in str(problem) for text in OUT_OF_MEMORY):
            return too_large(f"running {self._path} on {shapes}")
        if bound is not None and bound.over:
            return too_long(self._path, bound.seconds)
        return BundleError(f"OpenVINO cannot run {self._path} on {shapes}: {_reason(problem)}", "see whether ort-cpu runs it")

    def layer_times(self, feed: Feed, count: int) -> tuple[LayerTime, ...]:
        """The layer times of a second model, compiled with counters: these slow every call."""
        compiled = CORE.compile_model(CORE.read_model(self._content), DEVICE, self._config | {"PERF_COUNT": True})
        request = compiled.create_infer_request()
        calls: list[dict[str, float]] = []
        operators: dict[str, str] = {}
        for _ in range(WARM_UP + count):
            request.infer(dict(feed))
            ran = [layer for layer in request.get_profiling_info() if layer.status.name == "EXECUTED"]
            operators |= {layer.node_name: layer.node_type for layer in ran}
            calls.append({layer.node_name: layer.real_time.total_seconds() * 1e3 for layer in ran})
        hints = _origins(compiled)
        counted = calls[WARM_UP:]
        return tuple(
            LayerTime(name, operator, hints.get(name, (name,)), tuple(call.get(name, 0.0) for call in counted))
            for name, operator in operators.items()
        )

    def __enter__(self) -> OpenVinoSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        del self._idle, self._bound, self._compiled, self._ports


def _precision(file: str, arithmetic: str) -> str:
    """What is computed in: OpenVINO computes all floats, also those of float16 and float64 files, in one type."""
    floats = {"f32": "float32", "bf16": "bfloat16"}.get(arithmetic, arithmetic)
    return f"{file}, floats in {floats}" if file in ("int8", "float64") or floats != file else file


def _ports(compiled: Any, files: ModelFiles) -> dict[str, Any]:
    """Each output of the files as the compiled model has it; raises BundleError where it has another set."""
    ports = {spec.name: next((port for port in compiled.outputs if spec.name in port.names), None) for spec in files.outputs}
    lacking = [name for name, port in ports.items() if port is None]
    taken = {name for port in compiled.inputs for name in port.names}
    lacking += [spec.name for spec in files.inputs if spec.name not in taken]
    if lacking:
        raise BundleError(f"{files.onnx} has no tensor {lacking[0]!r}, which the manifest names", "export the bundle again")
    return ports


def _origins(compiled: Any) -> dict[str, tuple[str, ...]]:
    """The names of the file's nodes that each layer of the compiled model was made from."""
    origins = {}
    for layer in compiled.get_runtime_model().get_ops():
        names = str(layer.get_rt_info()["originalLayersNames"].astype(str))
        origins[layer.get_friendly_name()] = tuple(name for name in names.split(",") if name)
    return origins


def _check_compiles(content: bytes, config: Mapping[str, Any], path: Path) -> None:
    """Compile in a child, unless one has compiled the same here before; raises BundleError where it crashes or never ends."""
    settings = json.dumps(config, sort_keys=True)
    machine = f"{openvino.__version__} {CORE.get_property(DEVICE, 'FULL_DEVICE_NAME')} {sorted(capabilities())}"
    key = hashlib.sha256(b"\0".join((content, settings.encode(), machine.encode()))).hexdigest()
    passed = _passed(key)
    if passed is not None and passed.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.onnx"
        copy.write_bytes(content)
        bound = current_time_bound()
        limits = Limits(bound.seconds if bound else granted_seconds(COMPILE_SECONDS), COMPILE_BYTES + 8 * len(content))
        outcome = run_child("edgekit.backends.openvino.probe", (str(copy), settings), limits, key="compiled")
    if isinstance(outcome, Failure) and outcome.kind == "time":
        raise too_long(path, limits.seconds)
    if isinstance(outcome, Failure):
        raise BundleError(f"OpenVINO cannot compile {path}: {outcome.sentence()}", "see whether ort-cpu runs it")
    with suppress(OSError):  # a cache that cannot be written is none
        if passed is not None:
            passed.parent.mkdir(parents=True, exist_ok=True)
            passed.touch()


def _passed(key: str) -> Path | None:
    """The file that stands for a compilation that went well; None where this user has no cache."""
    try:
        return cache_root() / "openvino" / key
    except EdgekitError:
        return None


def _refused(path: Path, problem: Exception) -> BundleError:
    if any(text in str(problem) for text in OUT_OF_MEMORY):
        return too_large(f"opening {path}")
    return BundleError(f"OpenVINO refuses {path}: {_reason(problem)}", "see whether ort-cpu runs it")


def _reason(problem: Exception) -> str:
    """The last line of its text: the lines before name OpenVINO's own source files."""
    return next((line.strip() for line in reversed(str(problem).splitlines()) if line.strip()), type(problem).__name__)
