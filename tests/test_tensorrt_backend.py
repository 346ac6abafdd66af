"""Engines that run, on strict fakes of TensorRT and of CUDA: the way of a feed through every flavour, and each way it can fail.

The fake kernel is ONNX Runtime on the file that the plan was built of, so the numbers are right only if every shape, address,
copy and wait is. What no fake can show is in tests/test_gpu.py.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

import edgekit.backends
import edgekit.backends.tensorrt.flavour
from edgekit.backends import open_session
from edgekit.backends.contract import DeviceTimes, Session
from edgekit.backends.tensorrt.build import build_engine, read_model
from edgekit.backends.tensorrt.engines import Engine
from edgekit.backends.tensorrt.flavour import find
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.backends.tensorrt.session import TensorRTSession, _layer_times
from edgekit.bundle.folder import open_bundle
from edgekit.cli.app import main
from edgekit.commands.bench import bench
from edgekit.commands.build import build
from edgekit.commands.predict import predict
from edgekit.commands.verify import verify
from edgekit.errors import EngineError, MissingError, ModelError, UsageError
from edgekit.latency.layers import layers_report, nodes_of
from edgekit.latency.loop import Timing
from edgekit.machine.packages import pip_install
from edgekit.onnx.read import Node, read_nodes
from edgekit.reports.bench import BenchReport
from edgekit.reports.build import BuildReport, EngineLayer
from edgekit.reports.console import draw
from edgekit.reports.verify import VerifyReport
from edgekit.setups import Setup
from edgekit.tensors import BatchRange, TensorSpec, sample_feed
from tests.fake_cuda import TEXTS, Error, FakeCuda
from tests.fake_trt import GPU, FakeTensorRT, ICudaEngine, layers_json
from tests.trt_listing import LISTINGS
from tests.ways import NO_DRIVER, building, set_driver, way, ways, why_not

runtime = pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)
TEN = next(one for one in LISTINGS if one.version.startswith("10."))
SECONDS = 0.01


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def ten(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT 10 on a machine with a GPU; engines run."""
    return FakeTensorRT(TEN).install_with_cuda(monkeypatch)


@pytest.fixture
def opened(ten: FakeTensorRT, bundle: Path) -> Iterator[Session]:
    with open_session(way("tensorrt"), open_bundle(bundle).files()) as backend:
        yield backend
    assert ten.cuda.left == {}


def feed_of(backend: Session, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    return sample_feed(backend.inputs, batch, seed)


def truth(bundle: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    with open_session(way("ort-cpu", threads=1), open_bundle(bundle).files()) as ort:
        return ort.run(feed)["output"]


def engine_of(bundle: Path, *ranges: BatchRange) -> Engine:
    files = open_bundle(bundle).files()
    model = read_model(files)
    return build_engine(find(), model, BuildOptions(profiles=ranges))


# the way of a feed


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda one: one.version)
@pytest.mark.parametrize("graph", [False, True])
def test_every_flavour_computes_what_the_file_does(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, listing: Any, graph: bool
) -> None:
    fake = FakeTensorRT(listing).install_with_cuda(monkeypatch)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.NAMES", (listing.flavour.name,))
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": "8.6"})
    with open_session(way("tensorrt", cuda_graph=graph), open_bundle(bundle).files()) as backend:
        for batch in (1, 5, 32, 5):
            feed = feed_of(backend, batch, seed=batch)
            outputs = backend.run(feed)
            np.testing.assert_array_equal(outputs["output"], truth(bundle, feed))
            assert outputs["output"].dtype == np.float32
    assert fake.cuda.left == {}
    assert ("cudaGraphLaunch" in fake.cuda.calls) is graph


def test_the_caller_owns_the_outputs_and_the_inputs_may_be_strided(bundle: Path, opened: Session) -> None:
    wide = np.random.default_rng(0).standard_normal((5, 1, 28, 56)).astype(np.float32)
    feed, other = {"input": wide[..., ::2]}, feed_of(opened, 5, 1)
    first = opened.run(feed)["output"]
    kept = first.copy()
    opened.run(other)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(kept, truth(bundle, {"input": wide[..., ::2].copy()}))


@pytest.mark.parametrize("graph", [False, True])
def test_bound_calls_and_runs_may_alternate_on_one_context(ten: FakeTensorRT, bundle: Path, graph: bool) -> None:
    """The fake's kernel fails where a context was set up for other shapes than those of the call."""
    with open_session(way("tensorrt", cuda_graph=graph), open_bundle(bundle).files()) as backend:
        before = ten.contexts
        one, eight = backend.bind(feed_of(backend, 1)), backend.bind(feed_of(backend, 8))
        for _ in range(3):
            one()
            eight()
            backend.run(feed_of(backend, 3))
        assert ten.contexts == before + 1
        assert len(ten.cuda.ready) == int(graph)  # graphs of calls that lost their context are not piled up
    assert ten.cuda.left == {}


def test_a_bound_call_reads_the_inputs_it_was_given_and_copies_nothing_any_more(ten: FakeTensorRT, opened: Session) -> None:
    feed = feed_of(opened, 4)
    call = opened.bind(feed)
    feed["input"].fill(np.nan)
    call()
    ten.cuda.calls.clear()
    call()
    assert ten.cuda.calls == ["cudaStreamSynchronize"]
    address = max(ten.cuda.memory)  # the outputs are taken last
    assert np.isfinite(ten.cuda.view(address, 4 * 10 * 4).view(np.float32)).all()


def test_repeating_a_run_takes_no_more_memory(ten: FakeTensorRT, opened: Session) -> None:
    opened.run(feed_of(opened, 4))
    ten.cuda.calls.clear()
    opened.run(feed_of(opened, 4, 1))
    assert ten.cuda.calls == ["cudaMemcpyAsync", "cudaMemcpyAsync", "cudaStreamSynchronize"]


@pytest.mark.parametrize("graph", [False, True])
def test_a_bench_of_many_batches_keeps_the_memory_of_a_few(ten: FakeTensorRT, bundle: Path, graph: bool) -> None:
    """What a bound call and the clocks took is given back when nobody can use it any more, not when the backend is closed."""
    with open_session(way("tensorrt", cuda_graph=graph), open_bundle(bundle).files()) as backend:
        for batch in range(1, 33):
            feed = feed_of(backend, batch)
            call = backend.bind(feed)
            call()
            backend.device_times(feed, 3)  # type: ignore[attr-defined]
            backend.layer_times(feed, 2)  # type: ignore[attr-defined]
            assert len(ten.cuda.memory) <= 6
            call()  # its own memory is still there
        assert len(ten.cuda.events) == 0
    assert ten.cuda.left == {}


def test_the_gpus_clock_waits_once_for_all_calls(ten: FakeTensorRT, opened: Session) -> None:
    """On a stream that is idle a launch would be timed with the work: one more call is always under way."""
    opened.device_times(feed_of(opened, 2), 2)  # type: ignore[attr-defined]
    ten.cuda.calls.clear()
    assert opened.device_times(feed_of(opened, 2), 5) == DeviceTimes((1.0,) * 5)  # type: ignore[attr-defined]
    assert ten.cuda.calls.count("cudaEventRecord") == 6
    first = ten.cuda.calls.index("cudaEventRecord")
    last = len(ten.cuda.calls) - 1 - ten.cuda.calls[::-1].index("cudaEventRecord")
    assert "cudaStreamSynchronize" not in ten.cuda.calls[first:last]


def test_every_profile_that_is_needed_has_a_context_of_its_own(ten: FakeTensorRT, bundle: Path) -> None:
    built = engine_of(bundle, BatchRange(1, 1, 1), BatchRange(8, 8, 8), BatchRange(2, 2, 4))
    before = ten.contexts
    with TensorRTSession.open(open_bundle(bundle).files(), find(), built) as backend:
        calls = [backend.bind(feed_of(backend, batch)) for batch in (1, 8, 8)]
        for call in calls:
            call()
        assert ten.contexts == before + 2
        with pytest.raises(
            EngineError, match=r"takes no batch of 5 \(min:opt:max: 1:1:1, 8:8:8, 2:2:4\); build it with --batch 5"
        ):
            backend.run(feed_of(backend, 5))
    assert ten.cuda.left == {}


def test_facts_say_all_that_the_numbers_depend_on(ten: FakeTensorRT, opened: Session, bundle: Path) -> None:
    built = build(bundle)
    assert built.cached  # the command and the backend mean the same engine
    assert opened.facts == {
        "flavour": "tensorrt",
        "version": TEN.version,
        "gpu": "Pretended GPU",
        "compute capability": "8.7",
        "driver": "540.4",
        "precision": "float32",
        "precision read from": "engine",
        "TF32": "off",
        "profiles (min:opt:max)": "1:8:32",
        "CUDA graph": "off",
        "engine sha256": built.engine_sha256,
    }


@pytest.mark.parametrize("graph", [False, True])
def test_the_gpus_own_clock_is_asked_after_the_samples(ten: FakeTensorRT, bundle: Path, graph: bool) -> None:
    """The fake's kernel takes half a millisecond a sample, whatever the host's clock says."""
    report = bench(bundle, ways("ort-cpu", "tensorrt", cuda_graph=graph), Timing(batches=(1, 8), seconds=SECONDS))
    told = {(row.backend, row.batch, row.boundary): row.device_ms for row in report.rows if row.device_ms}
    assert told == {("tensorrt", 1, "device"): (0.5,) * 100, ("tensorrt", 8, "device"): (4.0,) * 100}
    assert not any(row.launch_bound for row in report.rows)
    assert BenchReport.from_json(report.to_json()) == report
    console = Console(width=200)
    with console.capture() as captured:
        draw(report.page(), console)
    assert "tensorrt, batch 8: 4 ms by the GPU's own clock" in captured.get()
    assert "≤" not in captured.get()
    assert ten.cuda.left == {}


@pytest.mark.parametrize(("call_ms", "at_most"), [(0.3, "0.3"), (0.7, "0.5")])
def test_a_host_that_queues_slowly_makes_the_gpus_clock_an_upper_bound(
    ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch, call_ms: float, at_most: str
) -> None:
    """The host's own times of whole calls, ``call_ms``, are a bound too."""
    host = iter(range(0, 10**12, 600_000))  # 0.6 ms for each call, whose kernel takes 0.5
    monkeypatch.setattr("edgekit.backends.contract.perf_counter_ns", lambda: next(host))
    loop = count(step=round(call_ms * 1e6))
    monkeypatch.setattr("edgekit.latency.loop.perf_counter_ns", lambda: next(loop))
    report = bench(bundle, ways("tensorrt"), Timing(batches=(1, 8), seconds=SECONDS))
    told = {row.batch: row.launch_bound for row in report.rows if row.boundary == "device"}
    assert told == {1: True, 8: False}
    assert BenchReport.from_json(report.to_json()) == report
    console = Console(width=200)
    with console.capture() as captured:
        draw(report.page(), console)
    assert f"tensorrt, batch 1: ≤ {at_most} ms by the GPU's own clock.\ntensorrt, batch 8: 4 ms by" in captured.get()
    assert "≤: the GPU waited for the host" in captured.get()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cudaEventCreate", "create an event"),
        ("cudaEventRecord", "record an event"),
        ("cudaEventElapsedTime", "read the GPU's clock"),
    ],
)
def test_an_event_that_fails_is_one_sentence_and_nothing_is_left(ten: FakeTensorRT, bundle: Path, name: str, told: str) -> None:
    ten.cuda.fails[name] = Error.cudaErrorInvalidResourceHandle
    with pytest.raises(EngineError, match=f"^CUDA cannot {told}: invalid resource handle; try again"):
        bench(bundle, ways("tensorrt"), Timing(batches=(1,), seconds=SECONDS))
    assert ten.cuda.left == {}


# what can fail, and that memory is given back all the same


FAILURES: list[tuple[str, str]] = [
    ("context", "cannot create an execution context: Requested size was 9 bytes, out of memory; free some"),
    ("profile", "cannot use the profile 0 of the engine: the profile index is out of range; "),
    ("shape", "cannot take input of 2x1x28x28: a shape it does not take; "),
    ("infer", "cannot infer its shapes without hidden: it does not say why; "),
    ("infer raises", "cannot infer its shapes: infer_shapes error code: -1; "),
    ("address", "cannot use memory for input: an address it does not take; "),
    ("enqueue", "cannot run on 2x1x28x28: invalid argument; "),
]


@pytest.mark.parametrize(("step", "told"), FAILURES)
@pytest.mark.parametrize("use", ["run", "bind"])
def test_whatever_tensorrt_refuses_is_one_sentence_and_nothing_is_left(
    ten: FakeTensorRT, bundle: Path, step: str, told: str, use: str
) -> None:
    backend = open_session(way("tensorrt"), open_bundle(bundle).files())
    ten.fails = step
    with pytest.raises(EngineError, match=f"tensorrt {TEN.version} {re.escape(told)}") as caught, backend:
        attempt(backend, use)
    assert "\n" not in str(caught.value)
    assert ten.cuda.left == {}


CUDA_FAILURES = [
    ("cudaMalloc", Error.cudaErrorMemoryAllocation, "take 6272 bytes of the GPU's memory: out of memory; free some"),
    ("cudaMemcpyAsync", Error.cudaErrorInvalidValue, "copy to the GPU: invalid argument; try again, in a new process"),
    ("cudaStreamSynchronize", Error.cudaErrorIllegalAddress, "finish the work on the GPU: an illegal memory access"),
]


@pytest.mark.parametrize(("name", "error", "told"), CUDA_FAILURES)
@pytest.mark.parametrize("use", ["run", "bind"])
def test_whatever_cuda_refuses_is_one_sentence_and_nothing_is_left(
    ten: FakeTensorRT, bundle: Path, name: str, error: Error, told: str, use: str
) -> None:
    backend = open_session(way("tensorrt"), open_bundle(bundle).files())
    if name != "cudaMalloc":
        backend.run(feed_of(backend, 2))
    ten.cuda.fails[name] = error
    with pytest.raises(EngineError, match=f"^CUDA cannot {re.escape(told)}"), backend:
        attempt(backend, use)
    assert ten.cuda.left == {}


def attempt(backend: Session, use: str) -> None:
    if use == "run":
        backend.run(feed_of(backend, 2))
    else:
        backend.bind(feed_of(backend, 2))()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cudaStreamBeginCapture", "cannot begin a graph"),
        ("cudaStreamEndCapture", "cannot record a graph"),
        ("cudaGraphInstantiate", "cannot make a graph ready"),
        ("capture", "cannot run on 2x1x28x28"),
    ],
)
def test_an_engine_that_does_not_become_a_graph_says_what_to_leave_out(
    ten: FakeTensorRT, bundle: Path, name: str, told: str
) -> None:
    backend = open_session(way("tensorrt", cuda_graph=True), open_bundle(bundle).files())
    if name == "capture":
        ten.fails = name
    else:
        ten.cuda.fails[name] = Error.cudaErrorStreamCaptureUnsupported
    with pytest.raises(EngineError, match=f"does not become a CUDA graph: .*{told}.*; leave out --cuda-graph"), backend:
        attempt(backend, "run")
    assert ten.cuda.left == {}


def test_rtx_is_asked_whether_a_graph_can_be_made(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    rtx = FakeTensorRT(LISTINGS[-1]).install_with_cuda(monkeypatch)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": "8.6"})
    rtx.fails = "capturable"
    files = open_bundle(bundle).files()
    with (
        open_session(way("tensorrt", cuda_graph=True, flavour="tensorrt-rtx"), files) as backend,
        pytest.raises(
            EngineError, match="does not become a CUDA graph: it would take memory while it runs; leave out --cuda-graph"
        ),
    ):
        attempt(backend, "run")
    assert "cudaStreamBeginCapture" not in rtx.cuda.calls
    assert "REQUIRE_USER_ALLOCATION" in rtx.builds[0][1]._flags
    assert rtx.cuda.left == {}


def test_a_graph_that_does_not_start_is_one_sentence(ten: FakeTensorRT, bundle: Path) -> None:
    backend = open_session(way("tensorrt", cuda_graph=True), open_bundle(bundle).files())
    ten.cuda.fails["cudaGraphLaunch"] = Error.cudaErrorIllegalAddress
    with pytest.raises(EngineError, match=r"^CUDA cannot launch a graph: an illegal memory access"), backend:
        attempt(backend, "run")
    assert ten.cuda.left == {}


def test_a_stream_that_is_refused_is_one_sentence(ten: FakeTensorRT, bundle: Path) -> None:
    ten.cuda.fails["cudaStreamCreateWithFlags"] = Error.cudaErrorMemoryAllocation
    with pytest.raises(EngineError, match=r"^CUDA cannot create a stream: out of memory"):
        open_session(way("tensorrt"), open_bundle(bundle).files())
    assert ten.cuda.left == {}


def test_memory_that_runs_out_halfway_is_given_back(ten: FakeTensorRT, bundle: Path) -> None:
    ten.cuda.capacity = 7000  # the inputs of two samples fit, the outputs of the next call do not
    with open_session(way("tensorrt"), open_bundle(bundle).files()) as backend:
        backend.run(feed_of(backend, 2))
        with pytest.raises(EngineError, match="out of memory"):
            backend.run(feed_of(backend, 8))
    assert ten.cuda.left == {}


def test_a_feed_that_does_not_fit_is_refused_before_it_reaches_the_gpu(ten: FakeTensorRT, opened: Session) -> None:
    ten.cuda.calls.clear()
    for feed in (
        {"input": np.zeros((2, 1, 5, 5), np.float32)},
        {"input": np.zeros((2, 1, 28, 28), np.float64)},
        {"other": np.zeros((2, 1, 28, 28), np.float32)},
    ):
        for use in (opened.run, opened.bind):
            with pytest.raises(ModelError):
                use(feed)
    assert ten.cuda.calls == []


def test_a_batch_that_the_engine_was_not_built_for_names_those_it_takes(opened: Session) -> None:
    with pytest.raises(EngineError, match=r"takes no batch of 33 \(min:opt:max: 1:8:32\); build it with --batch 33"):
        opened.run(feed_of(opened, 33))


def test_an_output_of_another_shape_than_the_manifest_says_is_refused(ten: FakeTensorRT, opened: Session) -> None:
    for shape in ((2, 11), (2, -1), (2,)):
        ten.output_shape = shape
        with pytest.raises(EngineError, match=r"gives output of .* and the manifest says batch x 10"):
            opened.run(feed_of(opened, 2))


def test_a_call_after_the_end_is_refused_and_reaches_no_freed_memory(ten: FakeTensorRT, bundle: Path) -> None:
    with open_session(way("tensorrt"), open_bundle(bundle).files()) as backend:
        call = backend.bind(feed_of(backend, 2))
        call()
    for use in (call, lambda: backend.run(feed_of(backend, 2)), lambda: backend.bind(feed_of(backend, 2))):
        with pytest.raises(UsageError, match="is closed"):
            use()
    backend.__exit__(None, None, None)


# the engine itself


def test_an_engine_that_does_not_load_says_to_build_it_again(ten: FakeTensorRT, bundle: Path) -> None:
    built = engine_of(bundle, BatchRange(1, 8, 32))
    ten.loads = False
    with pytest.raises(EngineError, match=rf"refuses the engine {built.path}: the GPU is of another kind; .*--rebuild") as caught:
        TensorRTSession.open(open_bundle(bundle).files(), find(), built)
    assert "\n" not in str(caught.value)
    assert ten.cuda.left == {}


def test_an_engine_of_the_cache_that_loads_no_more_is_built_again_once(
    ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_of(bundle, BatchRange(1, 8, 32))
    real, loaded = ICudaEngine.__init__, list[int]()

    def build_again(engine: ICudaEngine, document: dict[str, Any], logger: Any) -> None:
        loaded.append(document["build"])
        real(engine, document, logger)

    monkeypatch.setattr(ICudaEngine, "__init__", build_again)
    ten.refused_builds = {1}
    with open_session(way("tensorrt"), open_bundle(bundle).files()) as backend:
        backend.run(feed_of(backend, 2))
    assert (len(ten.builds), set(loaded)) == (2, {2})
    # what does not load even so is not built over and over
    ten.loads = False
    with pytest.raises(EngineError, match="refuses the engine it has just built"):
        open_session(way("tensorrt"), open_bundle(bundle).files())
    assert len(ten.builds) == 3


def test_a_damaged_engine_in_the_cache_is_built_again_and_never_loaded(ten: FakeTensorRT, bundle: Path) -> None:
    built = engine_of(bundle, BatchRange(1, 8, 32))
    assert built.path is not None
    built.path.write_bytes(b"x" * len(built.plan))
    with open_session(way("tensorrt"), open_bundle(bundle).files()) as backend:
        backend.run(feed_of(backend, 2))
    assert len(ten.builds) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "other"}, "output float32 free x 10 where the manifest says other float32 free x 10"),
        ({"dtype": "float16"}, "output float32 free x 10 where the manifest says output float16"),
        ({"shape": ("batch", 11)}, "output float32 free x 10 where the manifest says output float32 free x 11"),
        ({"shape": (1, 10)}, "output float32 free x 10 where the manifest says output float32 1x10"),
    ],
)
def test_an_engine_of_other_tensors_than_the_manifest_says_is_refused(
    ten: FakeTensorRT, bundle: Path, change: dict[str, Any], told: str
) -> None:
    files, built = open_bundle(bundle).files(), engine_of(bundle, BatchRange(1, 8, 32))
    wrong = (msgspec.structs.replace(files.outputs[0], **change),)
    with pytest.raises(EngineError, match=f"has the outputs {told}.*--rebuild"):
        TensorRTSession.open(files._replace(outputs=wrong), find(), built)
    with pytest.raises(EngineError, match=r"has the inputs .* where the manifest says x "):
        TensorRTSession.open(files._replace(inputs=(TensorSpec("x", "float32", (1,)),)), find(), built)


def test_a_tensor_that_lives_on_the_host_is_refused(ten: FakeTensorRT, bundle: Path) -> None:
    ten.fails = "host"
    with pytest.raises(EngineError, match=r"in the host's memory .*; run the bundle with ort-cpu, and report it"):
        open_session(way("tensorrt"), open_bundle(bundle).files())
    assert len(ten.builds) == 1


def test_an_engine_that_failed_its_check_is_not_run(ten: FakeTensorRT, bundle: Path) -> None:
    ten.information = layers_json("Half")
    with pytest.raises(EngineError, match=r"failed its check: .*node_conv2d in float16.*edgekit build"):
        open_session(way("tensorrt"), open_bundle(bundle).files())


# present or absent


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name in packages else real(name, package))


def test_nothing_is_imported_where_there_is_no_flavour_or_no_driver(ten: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    set_driver(monkeypatch, NO_DRIVER)
    monkeypatch.setattr(edgekit.backends.tensorrt.flavour.importlib, "import_module", imported.append)
    assert why_not("tensorrt") == "no NVIDIA driver is installed; install one, or use ort-cpu"
    without(monkeypatch, "tensorrt", "tensorrt_rtx")
    assert why_not("tensorrt") == f"TensorRT is not installed; {pip_install('trt')}, or on RTX {pip_install('rtx')}"
    assert imported == []


@pytest.mark.parametrize(("name", "extra"), [("tensorrt", "trt"), ("tensorrt-rtx", "rtx")])
def test_a_flavour_that_is_named_and_not_installed_is_said_before_the_driver(
    ten: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    set_driver(monkeypatch, NO_DRIVER)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    without(monkeypatch, name.replace("-", "_"))
    assert why_not("tensorrt", flavour=name) == f"{name} is not installed; {pip_install(extra)}"


def test_what_else_may_be_missing_is_said_with_its_remedy(
    ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert why_not("tensorrt") == ""
    ten.cuda.fails["cudaGetDeviceCount"] = Error.cudaErrorInsufficientDriver
    assert re.search(r"driver version is insufficient.*cuda-bindings==12", why_not("tensorrt"))
    ten.api.__version__ = "12.0"
    assert "does not know tensorrt 12.0" in why_not("tensorrt")
    monkeypatch.setitem(sys.modules, "edgekit.backends.tensorrt.memory", None)
    ten.api.__version__ = TEN.version
    assert "pip install cuda-bindings" in why_not("tensorrt")
    without(monkeypatch, "onnx")
    assert "pip install onnx" in why_not("tensorrt")
    with pytest.raises(MissingError, match=r"tensorrt cannot run here: .*onnx"):
        open_session(way("tensorrt"), open_bundle(bundle).files())


@pytest.mark.parametrize(("capability", "present"), [("8.9", True), ("12.0", True), ("9.0", False), ("", True)])
def test_rtx_is_absent_on_a_gpu_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch, capability: str, present: bool) -> None:
    FakeTensorRT(LISTINGS[-1]).install_with_cuda(monkeypatch)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.NAMES", ("tensorrt-rtx",))
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": capability})
    problem = why_not("tensorrt")
    assert (problem == "") is present
    assert present or "knows no GPU of compute capability 9.0" in problem


# the commands


def test_verify_and_bench_take_tensorrt_in_where_it_is_and_build_once(
    ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # onnxruntime-gpu would believe in the GPU that is made up
    monkeypatch.setattr("edgekit.backends.onnxruntime.session.available_providers", lambda: ["CPUExecutionProvider"])
    report = verify(bundle)
    assert report.passed
    found = {one.backend: one for one in report.parities}
    assert found["tensorrt"].facts["engine sha256"]
    assert 0 < found["tensorrt"].outputs[0].normalised < 1e-5
    timed = bench(bundle, ways("ort-cpu", "tensorrt"), Timing(batches=(1, 8), seconds=SECONDS))
    rows = [row for row in timed.rows if row.backend == "tensorrt"]
    assert [(row.batch, row.boundary) for row in rows] == [(b, way) for b in (1, 8) for way in ("device", "end-to-end")]
    assert {row.facts["CUDA graph"] for row in rows} == {"off"}
    assert len(ten.builds) == 1
    assert ten.cuda.left == {}


def test_the_command_line_verifies_and_benches_through_tensorrt(
    ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(*args: object) -> bytes:
        monkeypatch.setattr("sys.argv", ["edgekit", *map(str, args), "--backend", "tensorrt", "--json"])
        with pytest.raises(SystemExit) as done:
            main()
        out = capfd.readouterr().out
        assert done.value.code == 0, out
        return out.encode()

    verified = VerifyReport.from_json(run("verify", bundle))
    assert [one.backend for one in verified.parities] == ["tensorrt"]
    timed = BenchReport.from_json(run("bench", bundle, "--batch", "1,64", "--seconds", "0.01", "--cuda-graph"))
    assert {row.facts["CUDA graph"] for row in timed.rows} == {"on"}
    assert {row.facts["profiles (min:opt:max)"] for row in timed.rows} == {"1:8:64"}
    assert ten.cuda.left == {}


def test_numbers_that_are_off_fail_their_parity_on_tensorrt_too(
    ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ICudaEngine._run
    monkeypatch.setattr(ICudaEngine, "_run", lambda *args: [made * np.float32(1.01) for made in real(*args)])
    assert not verify(bundle, ways("tensorrt")).passed


def test_pictures_are_labelled_through_tensorrt(ten: FakeTensorRT, bundle: Path, tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "picture.png"
    Image.fromarray(np.arange(784, dtype=np.uint16).reshape(28, 28).astype(np.uint8)).save(picture)
    through = predict(bundle, [picture], way("tensorrt"))
    assert through.predictions == predict(bundle, [picture]).predictions
    assert ten.cuda.left == {}


def test_an_error_in_the_middle_of_a_bench_gives_memory_back(ten: FakeTensorRT, bundle: Path) -> None:
    ten.cuda.fails["cudaMemcpyAsync"] = Error.cudaErrorIllegalAddress
    with pytest.raises(EngineError, match="copy to the GPU"):
        bench(bundle, ways("ort-cpu", "tensorrt"), Timing(batches=(1,), seconds=SECONDS))
    assert ten.cuda.left == {}


def test_a_cuda_graph_without_tensorrt_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="--cuda-graph is for tensorrt"):
        bench(bundle, ways("ort-cpu", cuda_graph=True), Timing(batches=(1,), seconds=SECONDS))


def test_an_engine_is_run_without_pytorch_or_onnxruntime(environment: dict[str, str]) -> None:
    program = (
        "import sys, edgekit.backends.tensorrt.session, edgekit.commands.verify, edgekit.parity.run, edgekit.latency.loop\n"
        "print(sorted({'torch', 'onnxruntime', 'onnx', 'tensorrt', 'tensorrt_rtx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda one: one.version)
@pytest.mark.parametrize("graph", [False, True])
def test_layers_are_told_in_the_names_of_onnx_nodes_on_every_flavour(
    listing: Any, graph: bool, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    fake = FakeTensorRT(listing).install_with_cuda(monkeypatch)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.NAMES", (listing.flavour.name,))
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": "8.6"})
    fake.information = json.dumps(
        {
            "Layers": [
                {"Name": "Reformatting CopyNode for Input Tensor 0 to node_conv2d", "LayerType": "Reformat"},
                {
                    "Name": "__myl_Conv0",
                    "LayerType": "kgen",
                    "Metadata": "[ONNX Layer: node_conv2d]\x1f[ONNX Layer: node_sigmoid]",
                },
                {"Name": "node_conv2d_1 + PWN(node_sigmoid_1)", "LayerType": "CaskConvolution"},
                {"Name": "(Unnamed Layer* 12) [Shuffle]", "LayerType": "NoOp"},
                {"Name": "__mye_reorder", "LayerType": "Reformat", "Metadata": "[ONNX Layer: node_conv2d_1]"},
            ]
        }
    )
    with open_session(way("tensorrt", cuda_graph=graph), open_bundle(bundle).files()) as opened:
        feed = feed_of(opened, 2)
        bound = opened.bind(feed)
        bound()
        layers = opened.layer_times(feed, 3)
        contexts = fake.contexts
        # the profiler is gone, and earlier calls find a context again
        bound()
        np.testing.assert_allclose(opened.run(feed)["output"], truth(bundle, feed), rtol=1e-5, atol=1e-6)
        assert fake.contexts == contexts + 1
    assert fake.cuda.left == {}
    assert [one.ms for one in layers] == [(0.5 * place,) * 3 for place in (1, 2, 3, 4, 5)]
    nodes = read_nodes(open_bundle(bundle).onnx_of())
    told = layers_report("tensorrt", Setup("tensorrt"), 2, layers, nodes).layers
    assert [(one.operator, one.nodes) for one in told] == [
        ("Reformat", ()),
        ("kgen", ("node_conv2d", "node_sigmoid")),
        ("CaskConvolution", ("node_conv2d_1", "node_sigmoid_1")),
        ("NoOp", ()),
        ("Reformat", ()),
    ]


def test_a_nameless_node_is_found_by_its_output_and_one_that_is_really_called_so_by_its_name() -> None:
    """TensorRT's parser calls a node without a name after its output, and edgekit reads such a node as named like its output."""
    nodes = [
        Node("t0", "Conv", ("x",), ("t0",)),
        Node("node_of_mine", "Softmax", ("t0",), ("t1",)),
        Node("t2", "Gemm", ("t1",), ("t2",)),
    ]
    described = {
        "__myl_Conv": EngineLayer("__myl_Conv", kind="kgen", onnx_nodes=("node_of_t0",)),
        "__myl_Soft": EngineLayer("__myl_Soft", kind="kgen", onnx_nodes=("node_of_mine",)),
    }
    # the last one is described by its name alone, as by TensorRT 8.6
    times = _layer_times([{"__myl_Conv": 1.0, "__myl_Soft": 2.0, "node_of_t2 + bias": 3.0}], described)
    assert nodes_of(times, nodes) == [("t0",), ("node_of_mine",), ("t2",)]
    assert [layer.ms for layer in times] == [(1.0,), (2.0,), (3.0,)]


def test_layers_that_tensorrt_does_not_tell_are_one_sentence_and_nothing_is_left(ten: FakeTensorRT, bundle: Path) -> None:
    with open_session(way("tensorrt"), open_bundle(bundle).files()) as opened:
        ten.fails = "report"
        with pytest.raises(EngineError, match=r"cannot tell what its layers take: there is nothing to report; ") as caught:
            opened.layer_times(feed_of(opened, 1), 2)
        assert "\n" not in str(caught.value)
        del caught  # its traceback holds the context
        ten.fails = ""
        feed = feed_of(opened, 1)
        np.testing.assert_allclose(opened.run(feed)["output"], truth(bundle, feed), rtol=1e-5, atol=1e-6)
    assert ten.cuda.left == {}
    with pytest.raises(UsageError, match="closed"):
        opened.layer_times(feed, 1)


def test_layers_are_told_on_any_profile(ten: FakeTensorRT, bundle: Path) -> None:
    built = engine_of(bundle, BatchRange(1, 1, 1), BatchRange(8, 8, 8))
    with TensorRTSession.open(open_bundle(bundle).files(), find(), built) as backend:
        one, eight = backend.bind(feed_of(backend, 1)), backend.bind(feed_of(backend, 8))
        contexts = ten.contexts
        assert {layer.ms for layer in backend.layer_times(feed_of(backend, 8), 2)} >= {(4.0, 4.0)}
        one()
        assert ten.contexts == contexts + 1  # the other profile kept its own
        eight()
    assert ten.cuda.left == {}


def test_bench_tells_the_layers_of_an_engine(ten: FakeTensorRT, bundle: Path) -> None:
    report = bench(bundle, ways("ort-cpu", "tensorrt"), Timing(batches=(1, 8), seconds=SECONDS), layers=True)
    assert [(one.backend, one.batch) for one in report.layers] == [
        (kind, batch) for kind in ("ort-cpu", "tensorrt") for batch in (1, 8)
    ]


def test_the_flavour_that_is_named_is_the_one_that_runs(ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both are installed, the first that works is taken unless one is named."""
    rtx = FakeTensorRT(LISTINGS[-1])
    rtx.cuda = ten.cuda
    rtx.install(monkeypatch)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": "8.9"})
    picture = bundle / "picture.png"
    from PIL import Image

    Image.fromarray(np.zeros((28, 28), np.uint8)).save(picture)
    for flavour, used in ((None, "tensorrt"), ("tensorrt-rtx", "tensorrt-rtx"), ("tensorrt", "tensorrt")):
        verified = verify(bundle, ways("tensorrt", flavour=flavour))
        assert verified.passed
        assert verified.parities[0].facts["flavour"] == used
        timed = bench(bundle, ways("tensorrt", flavour=flavour), Timing(batches=(1,), seconds=SECONDS))
        assert {row.facts["flavour"] for row in timed.rows} == {used}
        built = len(ten.builds), len(rtx.builds)
        predict(bundle, [picture], way("tensorrt", flavour=flavour))
        assert (len(ten.builds), len(rtx.builds)) == built
    assert len(ten.builds) == len(rtx.builds) == 1
    assert ten.cuda.left == {}


def test_what_runs_as_a_graph_is_verified_as_one(ten: FakeTensorRT, bundle: Path) -> None:
    assert verify(bundle, ways("tensorrt", cuda_graph=True)).parities[0].facts["CUDA graph"] == "on"
    assert "cudaGraphLaunch" in ten.cuda.calls
    with pytest.raises(UsageError, match="--cuda-graph is for tensorrt, which is not among ort-cpu; add --backend tensorrt"):
        verify(bundle, ways("ort-cpu", cuda_graph=True))


# an engine that is given


def built_at(bundle: Path, place: Path, *ranges: str, **options: Any) -> BuildReport:
    profiles = tuple(map(BatchRange.parse, ranges))
    return build(bundle, building(flavour="tensorrt", options=BuildOptions(profiles=profiles, **options)), output=place)


@pytest.mark.parametrize(
    ("ranges", "sizes"),
    [
        (["1:8:64"], "8, 1"),
        (["8:16:64"], "8"),
        (["1:2:4"], "4, 1"),
        (["8"], "8"),
        (["7"], "7"),  # it does not divide the samples: the last batch is filled up
        (["1", "8", "2:2:4"], "1, 8, 4, 2"),
        (["100:128:200"], "100"),
    ],
)
def test_an_engine_that_is_given_is_verified_in_the_batches_it_takes(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, ranges: list[str], sizes: str
) -> None:
    built = built_at(bundle, tmp_path / "net.plan", *ranges, tf32=True)
    report = verify(bundle, ways("tensorrt", engine=tmp_path / "net.plan"))
    (parity,) = report.parities
    assert report.passed
    assert parity.samples == 8
    assert (parity.facts["engine sha256"], parity.facts["batch sizes"]) == (built.engine_sha256, sizes)
    assert parity.facts["TF32"] == "on"
    assert len(ten.builds) == 1
    assert ten.cuda.left == {}


def test_one_sample_in_a_batch_that_is_off_fails(ten: FakeTensorRT, bundle: Path, tmp_path: Path) -> None:
    """The partner of the test above: what fills a batch up is left out, and nothing else."""
    built_at(bundle, tmp_path / "net.plan", "7")
    real = ICudaEngine._run

    def off(engine: ICudaEngine, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = real(engine, names, feed)
        outputs[0][0] += 0.1
        return outputs

    ICudaEngine._run = off  # type: ignore[method-assign]
    try:
        assert not verify(bundle, ways("tensorrt", engine=tmp_path / "net.plan")).passed
    finally:
        ICudaEngine._run = real  # type: ignore[method-assign]


def test_an_engine_that_is_given_is_timed_and_labels_pictures(ten: FakeTensorRT, bundle: Path, tmp_path: Path) -> None:
    from PIL import Image

    place, picture = tmp_path / "net.plan", tmp_path / "picture.png"
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(picture)
    built = built_at(bundle, place, "1:4:16")
    timed = bench(bundle, ways("ort-cpu", "tensorrt", engine=place), Timing(batches=(1, 16), seconds=SECONDS))
    facts = [row.facts for row in timed.rows if row.backend == "tensorrt"]
    assert {one["engine sha256"] for one in facts} == {built.engine_sha256}
    assert predict(bundle, [picture], way("tensorrt", engine=place)).predictions
    with pytest.raises(EngineError, match=r"takes no batch of 32 \(min:opt:max: 1:4:16\); build it with --batch 32"):
        bench(bundle, ways("tensorrt", engine=place), Timing(batches=(1, 32), seconds=SECONDS))
    assert len(ten.builds) == 1
    assert ten.cuda.left == {}


def test_an_engine_for_something_else_is_refused_and_says_in_what(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "net.plan"
    built_at(bundle, place, "1:8:64")

    def refused(told: str) -> None:
        with pytest.raises(EngineError, match=told) as caught:
            verify(bundle, ways("tensorrt", engine=place))
        assert "\n" not in str(caught.value)

    with monkeypatch.context() as other:
        other.setattr("edgekit.backends.tensorrt.engines.gpu_facts", lambda: {**GPU, "gpu": "Another GPU", "driver": ""})
        refused(
            r"plan was built for something else \(GPU Pretended GPU there, Another GPU here, driver 540.4 there, none here\); "
            f"build it again: edgekit build BUNDLE --batch 1:8:64 --output {place}"
        )
    plan = place.read_bytes()
    place.write_bytes(plan[:-1] + b" ")
    refused("net.plan is not the plan that its record tells of; build it again")
    place.write_bytes(plan)
    place.with_name("net.plan.json").unlink()
    refused(r"net.plan' is not an engine that edgekit built: its record net.plan.json is not beside it; make it with")
    place.with_name("net.plan.json").write_text("{}")
    refused(r"net.plan' is not an engine that this edgekit built: net.plan.json is not a record of its own; make it with")
    for odd, told in (("", "is not a file"), ("/", "is not a file"), ("..", "is not a file"), ("gone.plan", "does not exist")):
        with pytest.raises(EngineError, match=rf"^engine '.*' {told}; make it with edgekit build --output$"):
            verify(bundle, ways("tensorrt", engine=Path(odd)))
    assert len(ten.builds) == 1


def test_an_engine_that_may_go_elsewhere_is_run_elsewhere(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = {**GPU, "gpu": "Another GPU", "compute capability": "8.9", "multiprocessors": "80", "gpu memory": "24 GiB"}
    driver = {**GPU, "driver": "580.1", "cuda driver": "13.0"}
    for options, elsewhere in (({"hardware_compatible": True}, gpu), ({"version_compatible": True}, driver)):
        place = tmp_path / f"{next(iter(options))}.plan"
        built_at(bundle, place, "1:8:64", **options)
        built_at(bundle, tmp_path / "plain.plan", "1:8:64")
        with monkeypatch.context() as there:
            there.setattr("edgekit.backends.tensorrt.engines.gpu_facts", lambda elsewhere=elsewhere: elsewhere)
            there.setattr("edgekit.backends.tensorrt.session.gpu_facts", lambda elsewhere=elsewhere: elsewhere)
            (parity,) = verify(bundle, ways("tensorrt", engine=place)).parities
            assert (parity.facts["gpu"], parity.facts["driver"]) == (elsewhere["gpu"], elsewhere["driver"])
            with pytest.raises(EngineError, match=r"plain.plan was built for something else"):
                verify(bundle, ways("tensorrt", engine=tmp_path / "plain.plan"))


def test_an_engine_may_be_given_by_a_link_and_one_that_does_not_load_is_not_rebuilt(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path
) -> None:
    built_at(bundle, tmp_path / "net.plan", "1:8:64")
    (tmp_path / "current.plan").symlink_to("net.plan")
    assert verify(bundle, ways("tensorrt", engine=tmp_path / "current.plan")).passed
    ten.loads = False
    with pytest.raises(EngineError, match=r"refuses the engine .*; build it again: edgekit build BUNDLE --batch 1:8:64 --output"):
        verify(bundle, ways("tensorrt", engine=tmp_path / "net.plan"))
    assert len(ten.builds) == 1


def test_the_engine_that_is_verified_is_the_one_that_is_built_and_timed(ten: FakeTensorRT, bundle: Path) -> None:
    built = build(bundle)
    (parity,) = verify(bundle, ways("tensorrt")).parities
    timed = bench(bundle, ways("tensorrt"), Timing(batches=(1, 8, 32), seconds=SECONDS))
    assert {parity.facts["engine sha256"], *(row.facts["engine sha256"] for row in timed.rows)} == {built.engine_sha256}
    assert len(ten.builds) == 1


def test_the_narrowest_profile_takes_a_batch(ten: FakeTensorRT, bundle: Path) -> None:
    record = engine_of(bundle, BatchRange(1, 8, 32), BatchRange(1, 1, 1), BatchRange(8, 16, 16)).record
    assert [record.profile_for(batch) for batch in (1, 2, 8, 17)] == [1, 0, 2, 0]


def test_an_engine_of_another_file_is_refused(ten: FakeTensorRT, bundle: Path, repository: Path, tmp_path: Path) -> None:
    built_at(bundle, tmp_path / "net.plan", "1:8:64")
    with pytest.raises(EngineError, match=r"net.plan is an engine of another file than .*; give the bundle that it was built of"):
        verify(repository / "exported" / "lenet-scratch", ways("tensorrt", engine=tmp_path / "net.plan"))


def test_an_engine_of_another_flavour_than_asked_for_is_refused_and_its_own_is_taken(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RTX compiles for the GPU that it finds: what was built without one may run on any that it knows."""
    rtx = FakeTensorRT(LISTINGS[-1])
    rtx.cuda = ten.cuda
    rtx.install(monkeypatch)
    place = tmp_path / "net.plan"
    with monkeypatch.context() as without_gpu:
        without_gpu.setattr(
            "edgekit.backends.tensorrt.engines.gpu_facts", dict
        )  # so it is for all that RTX compiles for when it runs
        without_gpu.setattr("edgekit.backends.tensorrt.inspector.cuda_absence", lambda: NO_DRIVER)
        built = build(bundle, building(flavour="tensorrt-rtx"), output=place)
    assert built.precision is not None
    assert built.precision.read_from == "network"
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": "8.9"})
    (parity,) = verify(bundle, ways("tensorrt", engine=place)).parities
    assert (parity.facts["flavour"], parity.facts["engine sha256"]) == ("tensorrt-rtx", built.engine_sha256)
    with pytest.raises(UsageError, match=r"--flavour tensorrt: .*net.plan is an engine of tensorrt-rtx; leave out one"):
        verify(bundle, ways("tensorrt", flavour="tensorrt", engine=place))
    with pytest.raises(
        UsageError, match=r"--(flavour|engine) is for tensorrt, which is not among ort-cpu; add --backend tensorrt"
    ):
        verify(bundle, ways("ort-cpu", engine=place))


def test_what_rtx_builds_beside_a_gpu_that_it_does_not_know_runs_on_those_that_it_knows(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an H200, whose plan is byte by byte the one of a machine without a GPU."""
    rtx = FakeTensorRT(LISTINGS[-1])
    rtx.cuda = ten.cuda
    rtx.install(monkeypatch)
    h200 = {**GPU, "gpu": "NVIDIA H200", "compute capability": "9.0"}
    with monkeypatch.context() as hopper:
        for module in ("engines", "flavour"):
            hopper.setattr(f"edgekit.backends.tensorrt.{module}.gpu_facts", lambda: h200)
        built = build(bundle, building(flavour="tensorrt-rtx"), output=tmp_path / "net.plan")
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": "8.9"})
    (parity,) = verify(bundle, ways("tensorrt", engine=tmp_path / "net.plan")).parities
    assert parity.facts["engine sha256"] == built.engine_sha256
    assert not build(bundle, building(flavour="tensorrt-rtx")).cached  # one for this GPU is another


def test_an_engine_is_given_on_the_command_line(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = built_at(bundle, tmp_path / "net.plan", "1:8:64")
    common = [str(bundle), "--backend", "tensorrt", "--engine", str(tmp_path / "net.plan"), "--json"]
    for command in (["verify"], ["bench", "--batch", "1", "--seconds", "0.01"]):
        monkeypatch.setattr(sys, "argv", ["edgekit", command[0], *common, *command[1:]])
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 0
        assert built.engine_sha256 in capsys.readouterr().out


def test_a_flavour_that_cannot_run_or_is_none_is_refused(
    ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "tensorrt_rtx")
    with pytest.raises(MissingError, match=r"cannot run here: tensorrt-rtx is not installed; pip install .*tensorrt-rtx"):
        verify(bundle, ways(flavour="tensorrt-rtx"))
    with pytest.raises(UsageError, match="no flavour 'trt'; use one of tensorrt, tensorrt-rtx"):
        bench(bundle, ways("tensorrt", flavour="trt"), Timing(seconds=SECONDS))
    with pytest.raises(
        UsageError, match=r"--(flavour|engine) is for tensorrt, which is not among ort-cpu; add --backend tensorrt"
    ):
        verify(bundle, ways("ort-cpu", flavour="tensorrt"))
    with pytest.raises(UsageError, match=r"--(flavour|engine) is for tensorrt"):
        predict(bundle, [], way("ort-cpu", flavour="tensorrt"))


# the fakes themselves


def test_the_fake_of_cuda_has_nothing_that_cuda_python_lacks() -> None:
    """Names, numbers of arguments, and numbers of errors."""
    for name, function in inspect.getmembers(FakeCuda, inspect.isfunction):
        if name.startswith("cuda"):
            signature = (getattr(runtime, name).__doc__ or "").strip().splitlines()[0]
            taken = [one for one in signature[signature.index("(") + 1 : signature.rindex(")")].split(",") if one.strip()]
            assert len(inspect.signature(function).parameters) - 1 == len(taken), signature
    for error in Error:
        assert int(getattr(runtime.cudaError_t, error.name)) == error
    for kind in (FakeCuda.cudaMemcpyKind, FakeCuda.cudaStreamCaptureMode):
        assert all(int(getattr(getattr(runtime, kind.__name__), one.name)) == one for one in kind)
    assert FakeCuda.cudaStreamNonBlocking == runtime.cudaStreamNonBlocking
    assert set(TEXTS) == set(Error) - {Error.cudaSuccess}


def test_the_real_cuda_python_without_a_driver_is_one_sentence() -> None:
    from edgekit.backends.tensorrt.memory import runtime_absence
    from edgekit.machine.gpu import cuda_absence

    problem = runtime_absence()
    assert (problem is None) is (cuda_absence() is None)
    assert not problem or re.fullmatch(r"CUDA cannot start: CUDA driver version is insufficient .*; update .*", str(problem))


def test_the_fakes_refuse_what_they_do_not_know(ten: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.backends.tensorrt import memory as _cuda

    with pytest.raises(AttributeError, match="this CUDA has no cudaMallocManaged"):
        _cuda.cudart.cudaMallocManaged(1)
    with pytest.raises(AttributeError, match="this CUDA has no memory"):
        _ = _cuda.cudart.memory
