"""ONNX Runtime, on the CPU, on CUDA or through its TensorRT provider, never silently on another."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import onnxruntime as ort

from edgekit.backends import ModelFiles
from edgekit.build_options import BuildOptions
from edgekit.engines import with_default_range
from edgekit.errors import BundleError, FallbackError, first_line
from edgekit.files import read_bytes
from edgekit.machine import cores
from edgekit.tensors import Array, Feed, TensorSpec, shape_text

PROVIDERS = {"ort-cpu": "CPUExecutionProvider", "ort-cuda": "CUDAExecutionProvider", "ort-tensorrt": "TensorrtExecutionProvider"}
NO_TF32 = "NVIDIA_TF32_OVERRIDE"
ERRORS_ONLY = 3


def available_providers() -> list[str]:
    """Providers compiled into the installed package; not what works here."""
    return list(ort.get_available_providers())


class OrtBackend:
    """An inference session whose first provider is the one asked for."""

    def __init__(
        self, name: str, session: ort.InferenceSession, files: ModelFiles, facts: Mapping[str, str], device: str
    ) -> None:
        self.name, self.facts = name, facts
        self.inputs: tuple[TensorSpec, ...] = files.inputs
        self.outputs: tuple[TensorSpec, ...] = files.outputs
        self._session, self._device = session, device
        self._names = [spec.name for spec in files.outputs]
        self._path = files.onnx

    @classmethod
    def open(cls, kind: str, files: ModelFiles, threads: int | None = None, batches: Sequence[int] = ()) -> OrtBackend:
        """Raises BundleError for a file ONNX Runtime refuses, FallbackError when another provider would run it."""
        provider = PROVIDERS[kind]
        options = session_options(threads)
        if kind != "ort-cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            if hasattr(ort, "preload_dlls"):
                ort.preload_dlls()
        # from bytes, ONNX Runtime reads no file beside this one, which no checksum covers
        content = read_bytes(files.onnx, "ONNX file", BundleError)
        try:
            session = ort.InferenceSession(content, options, providers=_providers(kind, files, batches))
        except Exception as problem:
            if kind != "ort-cpu" and _opens_on_cpu(content):
                raise FallbackError(
                    f"ONNX Runtime cannot use {provider}: {first_line(problem)}; run edgekit doctor to see what is missing"
                ) from problem
            raise BundleError(
                f"ONNX Runtime refuses {files.onnx} on {provider}: {first_line(problem)}; export it again"
            ) from problem
        _check_provider(session, provider)
        _check_used(session, provider)
        _check_names(session, files)
        facts = {
            "onnxruntime": ort.__version__,
            "providers": ", ".join(session.get_providers()),
            "precision": files.precision,
            "graph optimisation": "all",
            "threads": str(threads or cores()),
        }
        if kind == "ort-cpu":
            return cls(kind, session, files, facts, "cpu")
        forced = os.environ.get(NO_TF32, "0") if kind == "ort-tensorrt" else "0"
        facts |= {"TF32": "off" if forced == "0" else f"as {NO_TF32}={forced} says"} | placement(session)
        return cls(kind, session, files, facts, "cuda")

    def run(self, feed: Feed) -> dict[str, Array]:
        """Host arrays in, host arrays out."""
        try:
            outputs = self._session.run(self._names, dict(feed))
        except Exception as problem:
            raise self._failure(feed, problem) from problem
        return dict(zip(self._names, outputs, strict=True))

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Inputs and outputs stay on the device."""
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, self._device, 0))
        for name in self._names:
            binding.bind_output(name, self._device)
        session, synchronize = self._session, binding.synchronize_outputs

        def call() -> None:
            try:
                session.run_with_iobinding(binding)
                synchronize()
            except Exception as problem:
                raise self._failure(feed, problem) from problem

        return call

    def _failure(self, feed: Feed, problem: Exception) -> BundleError:
        shapes = ", ".join(f"{name} {shape_text(array.shape)}" for name, array in feed.items())
        return BundleError(f"ONNX Runtime cannot run {self._path} on {shapes}: {first_line(problem)}; export it again")

    def __enter__(self) -> OrtBackend:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        del self._session


def session_options(threads: int | None) -> ort.SessionOptions:
    """On so many threads, or on all cores; nothing is printed but errors."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    return options


def tensorrt_problem() -> str:
    """Why the TensorRT provider cannot load here, with the remedy: ONNX Runtime brings the provider, and not TensorRT."""
    provider = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    if not provider.is_file():
        return ""  # another system, or built in: the session will tell
    linked = re.search(rb"libnvinfer\.so\.(\d+)", provider.read_bytes())
    name, major = (linked[0].decode(), f" {linked[1].decode()}") if linked else (str(provider), "")
    try:
        ctypes.CDLL(name)
    except OSError as problem:
        return (
            f"ONNX Runtime's TensorRT provider does not load: {first_line(problem)}; "
            f"install TensorRT{major} and add its folder to LD_LIBRARY_PATH"
        )
    return ""


def _providers(kind: str, files: ModelFiles, batches: Sequence[int]) -> list[tuple[str, dict[str, str]]]:
    """The one asked for; behind TensorRT also CUDA, or what TensorRT leaves would go to the CPU."""
    cuda = (PROVIDERS["ort-cuda"], {"use_tf32": "0"})
    if kind == "ort-tensorrt":
        # the provider has no option for TF32 in every release; what the user has set stays, and is in the facts
        os.environ.setdefault(NO_TF32, "0")
        return [(PROVIDERS[kind], tensorrt_settings(files, batches)), cuda]
    return [cuda] if kind == "ort-cuda" else [(PROVIDERS[kind], {})]


def tensorrt_settings(files: ModelFiles, batches: Sequence[int]) -> dict[str, str]:
    """One engine for all batch sizes, or each larger one would build anew in the middle of a run."""
    settings = {"trt_fp16_enable": "1"} if files.precision == "float16" else {}
    free = [spec for spec in files.inputs if any(isinstance(axis, str) for axis in spec.shape)]
    for sizes in with_default_range(files.inputs, BuildOptions(), batches).profiles:
        for which, batch in (("min", sizes.min), ("opt", sizes.opt), ("max", sizes.max)):
            shapes = (f"{spec.name}:{shape_text(spec.concrete(batch))}" for spec in free)
            settings[f"trt_profile_{which}_shapes"] = ",".join(shapes)
    return settings


def placement(session: ort.InferenceSession) -> dict[str, str]:
    """How many nodes landed on the CPU although another provider comes first; empty where this release cannot tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    parts = session.get_provider_graph_assignment_info()
    found = [(part.ep_name == PROVIDERS["ort-cpu"], node.op_type) for part in parts for node in part.get_nodes()]
    kinds = dict.fromkeys(kind for on_cpu, kind in found if on_cpu)
    if not kinds:
        return {"nodes on the CPU": f"none of {len(found)}"}
    return {"nodes on the CPU": f"{sum(on_cpu for on_cpu, _ in found)} of {len(found)}: {', '.join(kinds)}"}


def _opens_on_cpu(content: bytes) -> bool:
    try:
        ort.InferenceSession(content, providers=[PROVIDERS["ort-cpu"]])
    except Exception:
        return False
    return True


def _check_provider(session: ort.InferenceSession, provider: str) -> None:
    used = session.get_providers()
    if not used or used[0] != provider:
        raise FallbackError(
            f"ONNX Runtime was asked for {provider} and silently chose {', '.join(used) or 'nothing'}; "
            "run edgekit doctor to see what is missing"
        )


def _check_used(session: ort.InferenceSession, provider: str) -> None:
    """A provider may come first and be given no node, where this release can tell."""
    if provider != PROVIDERS["ort-tensorrt"] or not hasattr(session, "get_provider_graph_assignment_info"):
        return
    used = list(dict.fromkeys(part.ep_name for part in session.get_provider_graph_assignment_info()))
    if provider not in used:
        raise FallbackError(
            f"ONNX Runtime was asked for {provider}, which took no node of the model: all went to "
            f"{', '.join(used) or 'nothing'}; use ort-cuda"
        )


def _check_names(session: ort.InferenceSession, files: ModelFiles) -> None:
    for what, found, wanted in (
        ("inputs", session.get_inputs(), files.inputs),
        ("outputs", session.get_outputs(), files.outputs),
    ):
        if [item.name for item in found] != [spec.name for spec in wanted]:
            raise BundleError(
                f"{files.onnx} has the {what} {[item.name for item in found]} where the manifest says "
                f"{[spec.name for spec in wanted]}; export the bundle again"
            )
