"""What only a machine with an NVIDIA GPU can show of a target's runtimes; it needs no PyTorch, so a board can run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.backends import open_session
from edgekit.backends.tensorrt.build import build_engine, read_model
from edgekit.backends.tensorrt.engines import Engine, engine_folder, read_record
from edgekit.backends.tensorrt.flavour import find
from edgekit.backends.tensorrt.network import OnnxFile
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.bundle.folder import open_bundle
from edgekit.bundle.variants import own_outputs
from edgekit.commands.bench import bench
from edgekit.commands.build import build
from edgekit.commands.doctor import doctor
from edgekit.commands.further import Further
from edgekit.commands.verify import verify
from edgekit.errors import EngineError
from edgekit.latency.loop import Timing
from edgekit.machine.gpu import gpu_state
from edgekit.onnx.read import read_nodes
from edgekit.reports.bench import BenchReport
from edgekit.setups import Setup
from edgekit.tensors import BatchRange, sample_feed
from tests.gpu_checks import ON_GPU, check_own_clock
from tests.onnx_files import half, quantised
from tests.trt_variants import int8_model, with_both
from tests.ways import way, ways, why_not

KEPT = 64 << 20
RANGE = BuildOptions(profiles=(BatchRange(1, 2, 4),))
pytestmark = ON_GPU


@pytest.fixture
def bundle(repository: Path) -> Path:
    """A committed one, because exporting takes PyTorch; no test here changes it."""
    return repository / "exported" / "lenet"


@pytest.fixture
def _ort_cuda() -> None:
    problem = why_not("ort-cuda")
    if problem:
        pytest.skip(problem)


@pytest.mark.usefixtures("_ort_cuda")
def test_cuda_computes_what_the_original_model_does(bundle: Path) -> None:
    report = verify(bundle, ways("ort-cuda"))
    assert report.passed
    assert report.parities[0].backend == "ort-cuda"
    assert 0 < report.parities[0].outputs[0].normalised < 1e-5


@pytest.mark.usefixtures("_ort_cuda")
def test_cuda_is_really_what_runs(bundle: Path) -> None:
    with open_session(way("ort-cuda"), open_bundle(bundle).files()) as opened:
        assert opened.facts["providers"].startswith("CUDAExecutionProvider")
        assert opened.facts["TF32"] == "off"
        assert opened.facts.get("nodes on the CPU", "none").startswith("none")


@pytest.mark.usefixtures("_ort_cuda")
def test_cuda_is_timed_at_both_boundaries(bundle: Path) -> None:
    report = bench(bundle, ways("ort-cpu", "ort-cuda"), Timing(batches=(1, 8), seconds=0.05))
    rows = [row for row in report.rows if row.backend == "ort-cuda"]
    assert [(row.batch, row.boundary) for row in rows] == [
        (batch, boundary) for batch in (1, 8) for boundary in ("device", "end-to-end")
    ]
    assert all(row.count >= 5 for row in rows)
    assert {comparison.baseline for comparison in report.comparisons} == {"ort-cpu"}


@pytest.mark.usefixtures("_ort_cuda")
def test_the_gpus_state_goes_into_the_facts_of_its_rows_alone(bundle: Path) -> None:
    if gpu_state() is None:
        pytest.skip("no management library")
    report = bench(bundle, ways("ort-cpu", "ort-cuda"), Timing(batches=(1,), seconds=0.05))
    assert all(("GPU clock" in row.facts) is (row.backend == "ort-cuda") for row in report.rows)


@pytest.mark.usefixtures("_ort_cuda")
def test_the_doctor_says_that_onnxruntime_runs_on_cuda_and_whether_tensorrt_loads() -> None:
    by_name = {finding.name: finding for finding in doctor().findings}
    assert by_name["NVIDIA driver"].status == "ok"
    assert by_name["onnxruntime-gpu"].runs_on in ("CUDA, CPU", "CUDA, TensorRT, CPU")
    assert ("TensorRT" in by_name["onnxruntime-gpu"].runs_on) is (why_not("ort-tensorrt") == "")


def test_the_tensorrt_provider_of_onnxruntime_really_runs_it_without_tf32(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    problem = why_not("ort-tensorrt")
    if problem:
        pytest.skip(problem)
    report = verify(bundle, ways("ort-tensorrt"))
    assert report.passed
    assert report.parities[0].facts["TF32"].startswith("asked off by NVIDIA_TF32_OVERRIDE=0; ")
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    assert report.parities[0].facts["providers"].startswith("TensorrtExecutionProvider")
    assert 0 < report.parities[0].outputs[0].normalised < 1e-5


@pytest.fixture
def _tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a cache of its own: what is run here was built here, or refused here."""
    problem = why_not("tensorrt")
    if problem:
        pytest.skip(problem)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_tensorrt")
def test_an_engine_computes_what_the_original_model_does_and_says_in_what(bundle: Path) -> None:
    report = verify(bundle, ways("tensorrt"))
    assert report.passed
    assert 0 < report.parities[0].outputs[0].normalised < 1e-5
    facts = report.parities[0].facts
    assert (facts["precision"], facts["precision read from"], facts["TF32"]) == ("float32", "engine", "off")
    assert build(bundle).cached


@pytest.mark.usefixtures("_tensorrt")
@pytest.mark.parametrize("graph", [False, True])
def test_an_engine_is_timed_with_and_without_a_graph_and_gives_its_memory_back(bundle: Path, graph: bool) -> None:
    from cuda.bindings import runtime

    def timed() -> BenchReport:
        return bench(bundle, ways("ort-cpu", "tensorrt", cuda_graph=graph), Timing(batches=(1, 8), seconds=0.05))

    timed()  # CUDA's own start takes memory too, and keeps it
    _, before, _ = runtime.cudaMemGetInfo()
    report = timed()
    rows = [row for row in report.rows if row.backend == "tensorrt"]
    assert {row.facts["CUDA graph"] for row in rows} == {"on" if graph else "off"}
    assert all(row.count >= 5 for row in rows)
    check_own_clock(rows)
    _, after, _ = runtime.cudaMemGetInfo()
    assert before - after < KEPT  # a desktop takes and gives on the same GPU


@pytest.mark.usefixtures("_tensorrt")
@pytest.mark.parametrize("graph", [False, True])
def test_calls_that_alternate_on_one_context_still_compute_the_same(bundle: Path, graph: bool) -> None:
    with open_session(way("tensorrt", cuda_graph=graph), open_bundle(bundle).files()) as opened:
        feeds = [sample_feed(opened.inputs, batch, batch) for batch in (1, 8, 32)]
        first = [opened.run(feed)["output"] for feed in feeds]
        calls = [opened.bind(feed) for feed in feeds]
        for _ in range(3):
            for call, feed, before in zip(calls, feeds, first, strict=True):
                call()
                np.testing.assert_array_equal(opened.run(feed)["output"], before)


@pytest.mark.usefixtures("_tensorrt")
def test_a_plan_that_is_no_plan_is_refused_in_one_sentence(bundle: Path) -> None:
    files = open_bundle(bundle).files()
    built = build(bundle)
    assert built.engine is not None
    record = read_record(Path(built.engine))
    assert record is not None
    from edgekit.backends.tensorrt.session import TensorRTSession  # it takes cuda-python, which is there where this runs

    with pytest.raises(EngineError, match=r"refuses the engine .*--rebuild"):
        TensorRTSession.open(files, find(), Engine(Path("x.plan"), b"not a plan", record, True))


@pytest.mark.usefixtures("_tensorrt")
@pytest.mark.parametrize("graph", [False, True])
def test_layers_add_up_to_the_whole_and_name_the_files_nodes(bundle: Path, graph: bool) -> None:
    report = bench(bundle, ways("tensorrt", cuda_graph=graph), Timing(batches=(1, 8), seconds=0.05), further=Further(layers=True))
    assert [layer.batch for layer in report.layers] == [1, 8]
    nodes = {node.name for node in read_nodes(open_bundle(bundle).onnx_of())}
    for one in report.layers:
        whole = next(row for row in report.rows if (row.batch, row.boundary) == (one.batch, "device"))
        assert 0 < one.total_ms < 10 * np.median(whole.device_ms)
        named = {name for layer in one.layers for name in layer.nodes}
        assert named <= nodes
        assert {name for name in nodes if name.startswith(("node_conv", "node_linear"))} <= named


@pytest.mark.usefixtures("_tensorrt")
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_an_engine_computes_in_the_precision_of_its_file_and_says_so(bundle: Path, precision: str) -> None:
    """This is where a release whose words for its layers are not known yet shows."""
    lenet = read_model(open_bundle(bundle).files())
    models: dict[str, Callable[[], OnnxFile]] = {"float32": lambda: lenet, "float16": lambda: half(lenet), "int8": quantised}
    model = models[precision]()
    built = build_engine(find(), model, RANGE)
    assert built.record.precision.problems == ()
    assert built.record.precision.read_from == "engine"
    assert precision in built.record.precision.found
    assert built.record.precision.in_engine.get(precision)
    # an int8 file may be called by the type that its numbers are stored in
    for other in {"float32", "float16"} - {precision} if precision != "int8" else ():
        assert build_engine(find(), model._replace(precision=other), RANGE).record.precision.problems


@pytest.mark.usefixtures("_tensorrt")
@pytest.mark.parametrize("variant", ["float32", "int8", "float16"])
def test_each_variant_of_a_bundle_is_built_verified_and_found_again(bundle: Path, tmp_path: Path, variant: str) -> None:
    """The int8 file is the portable one: TensorRT reads its uint8 as int8, and it computes the same."""
    variants = with_both(Path(shutil.copytree(bundle, tmp_path / "variants")))
    setup = f"tensorrt variant={variant}"
    report = build(variants.root, setup)
    assert report.precision is not None
    assert (report.passed, report.precision.problems, report.notes) == (True, (), ())
    assert report.precision.in_network == ({"float32": 5} if variant == "float32" else {variant: 4, "float32": 1})
    assert report.precision.in_engine.get(variant)
    (parity,) = verify(variants.root, [setup]).parities
    assert parity.passed
    assert parity.facts["engine sha256"] == report.engine_sha256
    own = own_outputs(variants, variant)
    if own is not None:
        with open_session(Setup.parse(setup), variants.files(variant)) as opened:
            inputs = variants.golden().inputs
            outputs = [opened.run({"input": inputs["input"][place : place + 1]})["output"] for place in range(8)]
        difference = np.concatenate(outputs) - own["output"][:8]
        assert np.square(own["output"][:8]).sum() > 100 * np.square(difference).sum()  # 20 dB


@pytest.mark.usefixtures("_tensorrt")
def test_a_file_meant_for_255_codes_is_told_of(bundle: Path) -> None:
    """The same file with the scale of other runtimes, from elsewhere."""
    opened = open_bundle(bundle)
    model = int8_model(opened, largest=255)
    foreign = read_model(opened.files())._replace(content=model.SerializeToString(), precision="int8")
    (note,) = build_engine(find(), foreign, RANGE).record.notes
    assert note.startswith("TensorRT reads uint8 as int8")


@pytest.mark.usefixtures("_tensorrt")
def test_an_engine_of_several_profiles_runs_and_tells_its_layers_on_each(bundle: Path) -> None:
    from edgekit.backends.tensorrt.session import TensorRTSession

    files = open_bundle(bundle).files()
    model = read_model(files)
    built = build_engine(find(), model, BuildOptions(profiles=(BatchRange(1, 1, 1), BatchRange(8, 8, 16))))
    with TensorRTSession.open(files, find(), built) as opened, open_session(way("ort-cpu"), files) as reference:
        for batch in (1, 8, 16, 1):
            feed = sample_feed(opened.inputs, batch, batch)
            np.testing.assert_allclose(opened.run(feed)["output"], reference.run(feed)["output"], rtol=1e-3, atol=1e-4)
            assert opened.layer_times(feed, 3)
        with pytest.raises(EngineError, match="takes no batch of 4"):
            opened.run(sample_feed(opened.inputs, 4))


@pytest.mark.usefixtures("_tensorrt")
def test_an_engine_of_the_cache_serves_another_process(bundle: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "verify", str(bundle), "--backend", "tensorrt", "--json"]
    answers = [json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout) for _ in range(2)]
    first, second = (layer["parities"][0]["facts"]["engine sha256"] for layer in answers)
    assert first == second  # two builds are seldom equal byte by byte
    assert len(list(engine_folder().glob("*.plan"))) == 1
