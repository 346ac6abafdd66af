"""What can fail in a session of TensorRT, and that memory is given back all the same."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edgekit.backends import open_session
from edgekit.backends.contract import Session
from edgekit.bundle.folder import open_bundle
from edgekit.errors import EngineError, ModelError, UsageError
from tests.backends.tensorrt.opened import feed_of
from tests.fake_cuda import Error
from tests.fake_trt import FakeTensorRT
from tests.trt_listing import LISTINGS, TEN
from tests.ways import way

pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)

FAILURES: list[tuple[str, str]] = [
    ("context", "cannot create an execution context: Requested size was 9 bytes, out of memory; free some"),
    ("profile", "cannot use the profile 0 of the engine: the profile index is out of range; "),
    ("shape", "cannot take input of 2x1x28x28: a shape it does not take; "),
    ("infer", "cannot infer its shapes without hidden: it does not say why; "),
    ("infer raises", "cannot infer its shapes: infer_shapes error code: -1; "),
    ("address", "cannot use memory for input: an address it does not take; "),
    ("enqueue", "cannot run on 2x1x28x28: invalid argument; "),
]


@pytest.mark.parametrize(("step", "expected"), FAILURES)
@pytest.mark.parametrize("use", ["run", "bind"])
def test_whatever_tensorrt_refuses_is_one_sentence_and_nothing_is_left(
    ten: FakeTensorRT, bundle: Path, step: str, expected: str, use: str
) -> None:
    backend = open_session(way("tensorrt"), open_bundle(bundle).files())
    ten.fails = step
    with pytest.raises(EngineError, match=f"tensorrt {TEN.version} {re.escape(expected)}") as caught, backend:
        attempt(backend, use)
    assert "\n" not in str(caught.value)
    assert ten.cuda.left == {}


CUDA_FAILURES = [
    ("cudaMalloc", Error.cudaErrorMemoryAllocation, "take 6272 bytes of the GPU's memory: out of memory; free some"),
    ("cudaMemcpyAsync", Error.cudaErrorInvalidValue, "copy to the GPU: invalid argument; try again, in a new process"),
    ("cudaStreamSynchronize", Error.cudaErrorIllegalAddress, "finish the work on the GPU: an illegal memory access"),
]


@pytest.mark.parametrize(("name", "error", "expected"), CUDA_FAILURES)
@pytest.mark.parametrize("use", ["run", "bind"])
def test_whatever_cuda_refuses_is_one_sentence_and_nothing_is_left(
    ten: FakeTensorRT, bundle: Path, name: str, error: Error, expected: str, use: str
) -> None:
    backend = open_session(way("tensorrt"), open_bundle(bundle).files())
    if name != "cudaMalloc":
        backend.run(feed_of(backend, 2))
    ten.cuda.fails[name] = error
    with pytest.raises(EngineError, match=f"^CUDA cannot {re.escape(expected)}"), backend:
        attempt(backend, use)
    assert ten.cuda.left == {}


def attempt(backend: Session, use: str) -> None:
    if use == "run":
        backend.run(feed_of(backend, 2))
    else:
        backend.bind(feed_of(backend, 2))()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cudaStreamBeginCapture", "cannot begin a graph"),
        ("cudaStreamEndCapture", "cannot record a graph"),
        ("cudaGraphInstantiate", "cannot make a graph ready"),
        ("capture", "cannot run on 2x1x28x28"),
    ],
)
def test_an_engine_that_does_not_become_a_graph_says_what_to_leave_out(
    ten: FakeTensorRT, bundle: Path, name: str, expected: str
) -> None:
    backend = open_session(way("tensorrt", cuda_graph=True), open_bundle(bundle).files())
    if name == "capture":
        ten.fails = name
    else:
        ten.cuda.fails[name] = Error.cudaErrorStreamCaptureUnsupported
    with pytest.raises(EngineError, match=f"does not become a CUDA graph: .*{expected}.*; leave out --cuda-graph"), backend:
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
