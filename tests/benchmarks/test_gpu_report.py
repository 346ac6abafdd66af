"""The measurements of the GPU report, on the CPU and with stand-ins for TensorRT and CUDA."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gpu_report
import gpu_table
import msgspec
import numpy as np
import onnx
import pytest

import edgekit.latency.loop
from edgekit.backends import row_of, table
from edgekit.backends.contract import Options
from edgekit.backends.fake import FakeSession
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import open_bundle
from edgekit.errors import BundleError
from edgekit.latency.loop import Timing
from edgekit.onnx.read import batch_norms
from edgekit.progress import Progress
from edgekit.reports.bench import BenchReport
from edgekit.reports.verify import VerifyReport
from edgekit.setups import Absence, Setup
from tests.benchmarks.trials import Trial, changed
from tests.fake_trt import GPU, FakeTensorRT
from tests.trt_listing import LISTINGS

TIMED = [(batch, boundary) for batch in (1, 2) for boundary in ("device", "end-to-end")]


def test_both_sides_are_checked_and_only_one_of_them_is_folded(trial: Trial, bundle: Path) -> None:
    document = trial.document
    assert trial.run.code == 0
    assert trial.run.document["gpu"] == {}  # a trial on the CPU does not look for a GPU
    assert [document[side]["batch_norm_nodes"] for side in ("folded", "unfolded")] == [0, 4]
    assert document["folded"]["onnx_sha256"] == open_bundle(bundle).sha256_of() != document["unfolded"]["onnx_sha256"]
    assert document["failed"] == {}
    for side in ("folded", "unfolded"):
        assert [row["backend"] for row in document[side]["parity"]] == ["torch", "ort-cpu"]
        for row in document[side]["parity"]:
            verified = VerifyReport.from_json((trial.raw / f"bundle-{side}-{row['backend']}-parity.json").read_bytes())
            assert verified.onnx_sha256 == document[side]["onnx_sha256"]
            assert row["outputs"] == msgspec.json.decode(msgspec.json.encode(verified.parities[0].outputs))
            assert row["passed"]
            assert row["facts"] == verified.parities[0].facts
            assert 0 < row["outputs"][0]["normalised"] < 1e-5


def test_every_batch_and_boundary_has_a_row_that_says_what_the_full_report_does(trial: Trial) -> None:
    document = trial.document
    for side in ("folded", "unfolded"):
        timed = BenchReport.from_json((trial.raw / f"bundle-{side}-latency.json").read_bytes())
        assert timed.onnx_sha256 == document[side]["onnx_sha256"]
        rows = document[side]["latency"]
        for backend in ("torch", "ort-cpu"):
            assert [(row["batch"], row["boundary"]) for row in rows if row["backend"] == backend] == TIMED
            assert document[side]["facts"][backend] == [row.facts for row in timed.rows if row.backend == backend][-1]
        for row, full in zip(rows, timed.rows, strict=True):
            assert row["median_ms"] == pytest.approx(full.median_ms, rel=1e-4)
            assert row["low_ms"] <= row["high_ms"]
            assert row["calls"] == full.count
            assert row["launch_bound"] is False
            assert gpu_report.latency_row(msgspec.structs.replace(full, launch_bound=True))["launch_bound"] is True
            assert row["blocks_ms"] == pytest.approx([np.median(block) for block in full.samples_ms], rel=1e-4)
            assert row["percentiles_ms"].keys() == {"90", "99"}
            assert "facts" not in row


def test_what_takes_no_part_is_named_with_its_reason(trial: Trial) -> None:
    skipped = trial.document["skipped"]
    assert list(skipped) == [name for name in table() if name not in ("torch", "ort-cpu")]
    assert all(skipped.values())


class Graphs(Options, frozen=True):
    cuda_graph: bool = False


def test_whatever_backend_has_cuda_graphs_is_measured_with_and_without(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> Absence:
        return Absence("/opt/silicon/lib.so is missing", "install it")

    plain = row_of("ort-cpu")
    graphs = msgspec.structs.replace(plain, name="graphs", options=Graphs)
    away = msgspec.structs.replace(graphs, name="away", absence=absent)
    rows = {row.name: row for row in (graphs, plain, away, msgspec.structs.replace(graphs, name="unwanted"))}
    monkeypatch.setattr("edgekit.backends.table", lambda: rows)
    monkeypatch.setattr(gpu_report, "table", lambda: rows)
    setups, skipped = gpu_report.setups_here(open_bundle(bundle).files(), lambda name: "left out" * (name == "unwanted"))
    assert list(map(str, setups)) == ["graphs", "ort-cpu", "graphs cuda-graph"]
    assert skipped == {"away": "lib.so is missing; install it", "unwanted": "left out"}
    measured = [msgspec.structs.replace(setup, variant="float32", threads=2, batches=(1, 8)) for setup in setups]
    assert list(map(gpu_report.name_of, measured)) == list(map(str, setups))


def test_folded_over_unfolded_has_rows_for_backends_that_run_the_file(trial: Trial) -> None:
    rows = trial.document["folded_over_unfolded"]
    assert [(row["backend"], row["batch"]) for row in rows] == [("ort-cpu", 1), ("ort-cpu", 2)]
    for row in rows:
        assert row["low"] <= row["ratio"] <= row["high"]
        assert len(row["folded_blocks_ms"]) == len(row["unfolded_blocks_ms"]) == 5


def test_the_two_sides_of_a_ratio_take_turns_and_half_the_time_is_a_half(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = {"folded": open_bundle(bundle), "unfolded": changed(bundle, tmp_path / "other")}
    took = {sides["folded"].sha256_of(): 1.0, sides["unfolded"].sha256_of(): 2.0}
    now, turns = [0], []

    def opened(setup: Setup, files: ModelFiles, progress: Progress) -> FakeSession:
        assert (setup.backend, setup.batches) == ("ort-cpu", (4,))

        def work(feed: Any) -> dict[str, Any]:
            assert len(feed["input"]) == 4
            turns.append(files.onnx_sha256)
            now[0] += round(took[files.onnx_sha256] * 1e6)
            return {}

        return FakeSession(work, files.inputs)

    monkeypatch.setattr(edgekit.latency.loop, "perf_counter_ns", lambda: now[0])
    monkeypatch.setattr("edgekit.backends.choose.open_session", opened)
    setups = [Setup("torch"), Setup("ort-cpu")]
    (row,) = gpu_report.ratios(sides, setups, Timing((4,), 0.1), gpu_report.Journal("x"))
    assert (row["backend"], row["batch"], row["ratio"], row["low"], row["high"]) == ("ort-cpu", 4, 0.5, 0.5, 0.5)
    blocks = [turn for turn, before in zip(turns, [None, *turns], strict=False) if turn != before]
    assert blocks == list(took) * (len(blocks) // 2)
    assert len(blocks) == 24  # at each boundary one round to warm up, five to record


def test_the_other_side_of_an_unfolded_bundle_is_the_folded_one(trial: Trial, tmp_path: Path) -> None:
    sides = gpu_report.both_sides(trial.unfolded, tmp_path / "sides")
    assert [batch_norms(onnx.load(side.onnx_of())) for side in sides.values()] == [0, 4]
    assert (list(sides), sides["unfolded"]) == (["folded", "unfolded"], trial.unfolded)
    assert sides["folded"].manifest.files["golden.npz"] == trial.unfolded.manifest.files["golden.npz"]


def test_a_side_that_was_exported_before_takes_no_pytorch(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_bundle(bundle)
    exported = gpu_report.both_sides(opened, tmp_path)["unfolded"]
    monkeypatch.setattr(gpu_report, "other_side", None)
    assert gpu_report.both_sides(opened, tmp_path)["unfolded"].sha256 == exported.sha256


@pytest.mark.parametrize("strange", ["the bundle itself", "another network"])
def test_a_side_of_something_else_is_refused(bundle: Path, tmp_path: Path, repository: Path, strange: str) -> None:
    root = tmp_path / "unfolded"
    shutil.copytree({"the bundle itself": bundle, "another network": repository / "exported" / "lenet-scratch"}[strange], root)
    with pytest.raises(BundleError, match="is not the other side of"):
        gpu_report.both_sides(open_bundle(bundle), tmp_path)


def test_the_original_module_has_no_folded_side_in_the_table(trial: Trial) -> None:
    rows = [
        line.split(" | ")[1:3] for line in gpu_table.markdown(trial.run.document).splitlines() if line.startswith("| bundle |")
    ]
    assert rows == [["backend", "batch norm"], ["torch", "unfolded"], ["ort-cpu", "4 of 4 folded"], ["ort-cpu", "unfolded"]]


# with stand-ins for a GPU


@pytest.mark.usefixtures("_exported_before")
def test_on_a_gpu_tensorrt_is_checked_and_timed_with_and_without_a_graph(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)
    listing = next(listing for listing in LISTINGS if listing.version.startswith("10."))
    fake = FakeTensorRT(listing).install_with_cuda(monkeypatch)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gpu_report, "cuda_absence", lambda: None)
    monkeypatch.setattr(gpu_report, "gpu_facts", lambda: dict(GPU))
    monkeypatch.setattr(gpu_report, "RESULTS", tmp_path / "results")
    arguments = ["--backend", "tensorrt", "--seconds", "0.001", "--batch", "1,2", "--bundle", str(bundle)]
    assert gpu_report.main(arguments) == 0
    document = json.loads((tmp_path / "results" / "pretended-gpu.json").read_text())
    measured = document["bundles"]["bundle"]
    assert document["gpu"] == GPU
    ways = {"tensorrt": "off", "tensorrt cuda-graph": "on"}
    for name in ("folded", "unfolded"):
        assert {row["backend"]: row["facts"]["CUDA graph"] for row in measured[name]["parity"]} == ways
        assert {backend: facts["CUDA graph"] for backend, facts in measured[name]["facts"].items()} == ways
        for backend in ways:
            rows = [row for row in measured[name]["latency"] if row["backend"] == backend]
            assert [(row["batch"], row["boundary"]) for row in rows] == TIMED
            assert all((row["own_clock_ms"] is not None) is (row["boundary"] == "device") for row in rows)
    assert [(row["backend"], row["batch"]) for row in measured["folded_over_unfolded"]] == [
        (way, batch) for way in ways for batch in (1, 2)
    ]
    assert set(measured["skipped"].values()) == {"left out by --backend"}
    assert fake.cuda.left == {}
    assert "cudaGraphLaunch" in fake.cuda.calls
