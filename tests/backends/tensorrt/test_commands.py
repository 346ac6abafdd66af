"""verify, bench and predict through TensorRT."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.cli.app import main
from edgekit.commands.bench import bench
from edgekit.commands.predict import predict
from edgekit.commands.verify import verify
from edgekit.errors import EngineError, UsageError
from edgekit.latency.loop import Timing
from edgekit.reports.bench import BenchReport
from edgekit.reports.verify import VerifyReport
from tests.backends.tensorrt.opened import SECONDS
from tests.fake_cuda import Error
from tests.fake_trt import FakeTensorRT
from tests.fake_trt_engine import ICudaEngine
from tests.trt_listing import LISTINGS
from tests.ways import way, ways

pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)


def test_verify_and_bench_take_tensorrt_in_where_it_is_and_build_once(
    ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # onnxruntime-gpu would believe in the GPU that is made up
    monkeypatch.setattr("edgekit.backends.onnxruntime.session.available_providers", lambda: ["CPUExecutionProvider"])
    report = verify(bundle)
    assert report.passed
    by_backend = {parity.backend: parity for parity in report.parities}
    assert by_backend["tensorrt"].facts["engine sha256"]
    assert 0 < by_backend["tensorrt"].outputs[0].normalised < 1e-5
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
    assert [parity.backend for parity in verified.parities] == ["tensorrt"]
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


def test_the_flavour_that_is_named_is_the_one_that_runs(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where both are installed, the first that works is taken unless one is named."""
    rtx = FakeTensorRT(LISTINGS[-1])
    rtx.cuda = ten.cuda
    rtx.install(monkeypatch)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": "8.9"})
    picture = tmp_path / "picture.png"
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
