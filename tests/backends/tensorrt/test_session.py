"""The way of a feed through engines of every flavour, on strict fakes of TensorRT and of CUDA.

The fake kernel is ONNX Runtime on the file that the plan was built of, so the numbers are right only if every shape, address,
copy and wait is. What no fake can show is in tests/test_gpu.py.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edgekit.backends import open_session
from edgekit.backends.contract import DeviceTimes, Session
from edgekit.backends.tensorrt.flavour import find
from edgekit.backends.tensorrt.session import TensorRTSession
from edgekit.bundle.folder import open_bundle
from edgekit.commands.bench import bench
from edgekit.commands.build import build
from edgekit.errors import EngineError
from edgekit.latency.loop import Timing
from edgekit.reports.bench import BenchReport
from edgekit.reports.console import draw
from edgekit.tensors import BatchRange
from tests.backends.tensorrt.opened import SECONDS, engine_of, feed_of, truth
from tests.fake_cuda import Error
from tests.fake_trt import FakeTensorRT
from tests.trt_listing import LISTINGS, TEN
from tests.ways import way, ways

pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.version)
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
            backend.device_times(feed, 3)  # type: ignore[attr-defined]  # not every session has it; this one does
            backend.layer_times(feed, 2)  # type: ignore[attr-defined]  # not every session has it; this one does
            assert len(ten.cuda.memory) <= 6
            call()  # its own memory is still there
        assert len(ten.cuda.events) == 0
    assert ten.cuda.left == {}


def test_the_gpus_clock_waits_once_for_all_calls(ten: FakeTensorRT, opened: Session) -> None:
    """On a stream that is idle a launch would be timed with the work: one more call is always under way."""
    opened.device_times(feed_of(opened, 2), 2)  # type: ignore[attr-defined]  # not every session has it; this one does
    ten.cuda.calls.clear()
    assert opened.device_times(feed_of(opened, 2), 5) == DeviceTimes((1.0,) * 5)  # type: ignore[attr-defined]  # not every session has it; this one does
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
    by_row = {(row.backend, row.batch, row.boundary): row.device_ms for row in report.rows if row.device_ms}
    assert by_row == {("tensorrt", 1, "device"): (0.5,) * 100, ("tensorrt", 8, "device"): (4.0,) * 100}
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
    by_row = {row.batch: row.launch_bound for row in report.rows if row.boundary == "device"}
    assert by_row == {1: True, 8: False}
    assert BenchReport.from_json(report.to_json()) == report
    console = Console(width=200)
    with console.capture() as captured:
        draw(report.page(), console)
    assert f"tensorrt, batch 1: ≤ {at_most} ms by the GPU's own clock.\ntensorrt, batch 8: 4 ms by" in captured.get()
    assert "≤: the GPU waited for the host" in captured.get()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cudaEventCreate", "create an event"),
        ("cudaEventRecord", "record an event"),
        ("cudaEventElapsedTime", "read the GPU's clock"),
    ],
)
def test_an_event_that_fails_is_one_sentence_and_nothing_is_left(
    ten: FakeTensorRT, bundle: Path, name: str, expected: str
) -> None:
    ten.cuda.fails[name] = Error.cudaErrorInvalidResourceHandle
    with pytest.raises(EngineError, match=f"^CUDA cannot {expected}: invalid resource handle; try again"):
        bench(bundle, ways("tensorrt"), Timing(batches=(1,), seconds=SECONDS))
    assert ten.cuda.left == {}
