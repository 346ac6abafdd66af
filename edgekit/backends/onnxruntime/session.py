"""ONNX Runtime, on the CPU, on CUDA or through its TensorRT provider, never silently on another."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import TracebackType

import onnxruntime as ort

from edgekit.backends.onnxruntime.linked import linked_tensorrt, loading_problem
from edgekit.backends.tensorrt.options import BuildOptions, with_default_range
from edgekit.bundle.files import ModelFiles
from edgekit.errors import BundleError, FallbackError, first_line
from edgekit.machine.bounds import MORE_TIME, TimeBound, current_time_bound, granted_seconds, too_large, too_long
from edgekit.machine.cpu import cores, cpu_facts
from edgekit.machine.gpu import TF32_OVERRIDE, tf32_fact, without_tf32
from edgekit.onnx.rewire import with_outputs
from edgekit.onnx.untrusted import read_for_session
from edgekit.onnx.wire import operators
from edgekit.setups import Absence, Setup
from edgekit.tensors import Array, Feed, TensorSpec, shape_text

PROVIDERS = {"ort-cpu": "CPUExecutionProvider", "ort-cuda": "CUDAExecutionProvider", "ort-tensorrt": "TensorrtExecutionProvider"}
QUANTISED = {"QuantizeLinear", "DequantizeLinear"}
FATAL_ONLY = 4  # errors are raised as well; its log would write names from the file to the terminal as they are
LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_NUMBERS = ("float16", "float", "double", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
IN_NUMPY = {f"tensor({kind})" for kind in _NUMBERS}
"""Types of values that numpy has; it has no bfloat16 and no sequences."""
LOOPS = {"Loop", "Scan"}
LOOP_SECONDS = 50.0
"""Seconds after which a run of a file with loops is ended, because a loop may be endless."""
OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory", "bad array new length", "not enough space", "MemoryError")
"""Texts of ONNX Runtime's errors when memory cannot be allocated."""
# a package that is only half there is found out here
VERSION, _ = str(ort.__version__), (ort.InferenceSession, ort.SessionOptions, ort.OrtValue, ort.get_available_providers)
ENDLESS: AbstractContextManager[ort.RunOptions | None] = nullcontext()
"""Of a run that nothing ends: made once, because a call of a small network takes microseconds."""
ASKED_OFF = f"asked off by {TF32_OVERRIDE}=0; edgekit verify shows whether it is: TF32 errs by about 1e-3"


def available_providers() -> list[str]:
    """Providers compiled into the installed package; not what works here."""
    return list(ort.get_available_providers())


class OrtSession:
    """An inference session whose first provider is the one asked for."""

    def __init__(self, session: ort.InferenceSession, files: ModelFiles, setup: Setup, facts: Mapping[str, str]) -> None:
        self.facts = facts
        self.inputs: tuple[TensorSpec, ...] = files.inputs
        self.outputs: tuple[TensorSpec, ...] = files.outputs
        self._session, self._setup = session, setup
        self._device = "cpu" if setup.backend == "ort-cpu" else "cuda"
        self._names = [spec.name for spec in files.outputs]
        self._path, self._sha256 = files.onnx, files.onnx_sha256
        self._seconds: float | None = None
        self._bound: tuple[TimeBound, ort.RunOptions] | None = None
        self._leaving = ExitStack()

    @classmethod
    def open(cls, files: ModelFiles, setup: Setup) -> OrtSession:
        """Open the files with the provider of the setup's backend.

        Raises BundleError for a file ONNX Runtime refuses, FallbackError when another provider would run it.
        """
        kind, content = setup.backend, read_for_session(files.onnx, files.onnx_sha256)
        with ExitStack() as stack:
            if kind == "ort-tensorrt":
                stack.enter_context(without_tf32())  # the provider has no option for TF32 in every release
            providers = _providers(kind, files, setup.batches, content)
            session = _open(content, files.onnx, setup, providers)
            _check_provider(session, PROVIDERS[kind])
            _check_used(session, PROVIDERS[kind])
            _check_names(session, files)
            facts = {
                "onnxruntime": VERSION,
                "providers": ", ".join(session.get_providers()),
                "precision": _precision(files, providers[0][1]),
                "graph optimisation": optimisation_of(setup),
                "threads": str(setup.threads or cores()),
            }
            facts |= cpu_facts() if kind == "ort-cpu" else {"TF32": _tf32(kind)} | placement(session)
            opened = cls(session, files, setup, facts)
            opened._seconds = granted_seconds(LOOP_SECONDS) if LOOPS & operators(content) else None
            opened._leaving = stack.pop_all()
        return opened

    def run(self, feed: Feed) -> dict[str, Array]:
        """Host arrays in, host arrays out."""
        try:
            with self._ending() as options:
                outputs = self._session.run(self._names, dict(feed), options)
        except Exception as problem:
            raise self._failure(feed, problem) from problem
        return dict(zip(self._names, outputs, strict=True))

    def _ending(self) -> AbstractContextManager[ort.RunOptions | None]:
        """Options of a run that ends with the time bound of the work, or else, in a file with loops, after a while."""
        bound = current_time_bound()
        if bound is None:
            return ENDLESS if self._seconds is None else ended_after(self._seconds)
        if self._bound is None or self._bound[0] is not bound:
            options = ort.RunOptions()
            bound.at_end(lambda: setattr(options, "terminate", True))
            self._bound = bound, options
        return nullcontext(self._bound[1])

    def inside(self, names: Sequence[str], feed: Feed) -> dict[str, Array]:
        """The values of the main graph, from a second session that has them as outputs; it may fuse less than the first."""
        shown = [name for name in names if name not in self._names]
        content = with_outputs(read_for_session(self._path, self._sha256), shown)
        session = new_session(content, session_options(self._setup), [(PROVIDERS[self._setup.backend], {})])
        wanted = [item.name for item in session.get_outputs() if item.name in {*names} and item.type in IN_NUMPY]
        try:
            return dict(zip(wanted, session.run(wanted, dict(feed)), strict=True))
        except Exception as problem:
            raise self._failure(feed, problem) from problem

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Inputs and outputs stay on the device."""
        binding = self._session.io_binding()
        try:
            for name, array in feed.items():
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, self._device, 0))
            for name in self._names:
                binding.bind_output(name, self._device)
        except Exception as problem:  # the device's memory is full
            raise self._failure(feed, problem) from problem
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
        if _out_of_memory(problem) and self._device == "cpu":
            return too_large(f"running {self._path} on {shapes}")
        bound = current_time_bound()
        if bound is not None and bound.over:
            return too_long(self._path, bound.seconds)
        if "terminate flag" in str(problem):
            return BundleError(f"{self._path} has a loop that does not end within {self._seconds:g} s", MORE_TIME)
        remedy = "export it again" if self._device == "cpu" else "use smaller batches, or see whether ort-cpu runs it"
        return BundleError(f"ONNX Runtime cannot run {self._path} on {shapes}: {first_line(problem)}", remedy)

    def __enter__(self) -> OrtSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        del self._session
        self._leaving.close()


def _out_of_memory(problem: Exception) -> bool:
    return isinstance(problem, MemoryError) or any(text in str(problem) for text in OUT_OF_MEMORY)


@contextmanager
def ended_after(seconds: float) -> Iterator[ort.RunOptions]:
    """Options of a run that ends after ``seconds``, at the next node or turn of a loop."""
    options = ort.RunOptions()
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def optimisation_of(setup: Setup) -> str:
    """The level that the setup asks for, or the runtime's own default."""
    return str(setup.options.get("optimisation", "all"))


def session_options(setup: Setup) -> ort.SessionOptions:
    """Options of a session: the setup's threads, or one for each core; the log stays silent."""
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[optimisation_of(setup)]
    options.intra_op_num_threads = setup.threads or cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    # bytes of its own format would be taken too, and nothing here has looked into those
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def new_session(
    content: bytes, options: ort.SessionOptions, providers: Sequence[tuple[str, dict[str, str]]]
) -> ort.InferenceSession:
    """Open a session that never falls back to another provider, and prints nothing on stdout."""
    with redirect_stdout(sys.stderr):
        return ort.InferenceSession(content, options, providers=list(providers), enable_fallback=0)


def _open(content: bytes, path: Path, setup: Setup, providers: Sequence[tuple[str, dict[str, str]]]) -> ort.InferenceSession:
    kind, options = setup.backend, session_options(setup)
    if kind != "ort-cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if hasattr(ort, "preload_dlls"):
            with redirect_stdout(sys.stderr):  # it prints what it cannot load
                ort.preload_dlls()
    bound = current_time_bound()
    if bound is not None and hasattr(options, "set_load_cancellation_flag"):  # ONNX Runtime 1.22
        bound.at_end(lambda: options.set_load_cancellation_flag(True))
    try:
        return new_session(content, options, providers)
    except Exception as problem:
        if bound is not None and bound.over:
            raise too_long(path, bound.seconds) from problem
        if kind != "ort-cpu" and _opens_on_cpu(content):
            raise FallbackError(
                f"ONNX Runtime cannot use {PROVIDERS[kind]}: {first_line(problem)}", "run edgekit doctor to see what is missing"
            ) from problem
        if _out_of_memory(problem):
            raise too_large(f"opening {path}") from problem
        raise BundleError(
            f"ONNX Runtime refuses {path} on {PROVIDERS[kind]}: {first_line(problem)}", "export it again"
        ) from problem


def provider_absence() -> Absence | None:
    """With a driver: why the TensorRT provider cannot load here; None where it can."""
    library = linked_tensorrt(Path(ort.__file__).parent)
    with without_tf32():  # it may be now that the library reads the variable
        problem = loading_problem(library, driver=True) if library else ""  # built in, or another system: the session will tell
    if not problem:
        return None
    major = library.rpartition(".")[2]
    return Absence(
        f"ONNX Runtime's TensorRT provider does not load: {problem}",
        f"pip install 'tensorrt=={major}.*', or install TensorRT {major} and add its folder to LD_LIBRARY_PATH",
    )


def _providers(kind: str, files: ModelFiles, batches: Sequence[int], content: bytes) -> list[tuple[str, dict[str, str]]]:
    """The setup's provider; behind TensorRT also CUDA, so that nodes which TensorRT refuses do not run on the CPU."""
    cuda = (PROVIDERS["ort-cuda"], {"use_tf32": "0"})
    if kind == "ort-tensorrt":
        quantised = bool(QUANTISED & operators(content))
        return [(PROVIDERS[kind], tensorrt_settings(files, batches, quantised)), cuda]
    return [cuda] if kind == "ort-cuda" else [(PROVIDERS[kind], {})]


def tensorrt_settings(files: ModelFiles, batches: Sequence[int], quantised: bool = False) -> dict[str, str]:
    """One engine for all batch sizes, or each larger one would build anew in the middle of a run."""
    settings = {"trt_fp16_enable": "1"} if files.precision == "float16" else {}
    if quantised:  # the file's own scales are taken; TensorRT 8 and 10 refuse them without
        settings["trt_int8_enable"] = "1"
    free = [spec for spec in files.inputs if spec.free]
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
    assigned = [(part.ep_name == PROVIDERS["ort-cpu"], node.op_type) for part in parts for node in part.get_nodes()]
    kinds = dict.fromkeys(kind for on_cpu, kind in assigned if on_cpu)
    if not kinds:
        return {"nodes on the CPU": f"none of {len(assigned)}"}
    return {"nodes on the CPU": f"{sum(on_cpu for on_cpu, _ in assigned)} of {len(assigned)}: {', '.join(kinds)}"}


def _precision(files: ModelFiles, settings: Mapping[str, str]) -> str:
    """TensorRT picks among what is allowed, whatever the types in the file."""
    half = ", allowed for every node" if "trt_fp16_enable" in settings else ""
    return files.precision + half + (", int8 where the file quantises" if "trt_int8_enable" in settings else "")


def _tf32(kind: str) -> str:
    if kind != "ort-tensorrt":
        return tf32_fact()
    # TensorRT's own default is on, and a library that was loaded earlier may not look at the variable again
    return ASKED_OFF if os.environ.get(TF32_OVERRIDE) == "0" else tf32_fact(asked=True)


def _opens_on_cpu(content: bytes) -> bool:
    """Whether, and not why not: the caller raises what the provider that was asked for has said."""
    try:
        new_session(content, session_options(Setup("ort-cpu")), [(PROVIDERS["ort-cpu"], {})])
    except Exception:
        return False
    return True


def _check_provider(session: ort.InferenceSession, provider: str) -> None:
    used = session.get_providers()
    if not used or used[0] != provider:
        raise FallbackError(
            f"ONNX Runtime was asked for {provider} and silently chose {', '.join(used) or 'nothing'}",
            "run edgekit doctor to see what is missing",
        )


def _check_used(session: ort.InferenceSession, provider: str) -> None:
    """A provider may come first and be given no node, where this release can tell."""
    if provider != PROVIDERS["ort-tensorrt"] or not hasattr(session, "get_provider_graph_assignment_info"):
        return
    used = list(dict.fromkeys(part.ep_name for part in session.get_provider_graph_assignment_info()))
    if provider not in used:
        raise FallbackError(
            f"ONNX Runtime was asked for {provider}, which took no node of the model: all went to {', '.join(used) or 'nothing'}",
            "use ort-cuda",
        )


def _check_names(session: ort.InferenceSession, files: ModelFiles) -> None:
    for kind, names, expected in (
        ("inputs", session.get_inputs(), files.inputs),
        ("outputs", session.get_outputs(), files.outputs),
    ):
        if [item.name for item in names] != [spec.name for spec in expected]:
            raise BundleError(
                f"{files.onnx} has the {kind} {[item.name for item in names]} where the manifest says "
                f"{[spec.name for spec in expected]}",
                "export the bundle again",
            )
