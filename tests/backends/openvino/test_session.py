"""OpenVINO as a backend: the precision that was asked for, no telemetry, one sentence for what it refuses or crashes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgekit.backends.openvino.session as openvino_session
from edgekit.backends import open_session
from edgekit.backends.contract import ByLayer
from edgekit.bundle.files import ModelFiles
from edgekit.commands.bench import bench
from edgekit.commands.verify import verify
from edgekit.errors import BundleError, MissingError, ModelError, UsageError
from edgekit.latency.layers import nodes_of
from edgekit.latency.loop import Timing
from edgekit.machine.bounds import time_bound
from edgekit.machine.child import Failure, Limits
from edgekit.onnx.read import read_nodes
from edgekit.setups import Setup
from edgekit.tensors import sample_feed
from tests.ways import way, why_not

HAS_BF16 = "BF16" in openvino_session.capabilities()


def test_a_bundle_verifies_in_float32(bundle: Path) -> None:
    (parity,) = verify(bundle, ["openvino"]).parities
    assert parity.passed
    assert parity.facts["precision"] == "float32"


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bfloat16 arithmetic, and the row says so")
def test_bfloat16_is_only_where_it_is_asked_for_and_fails_the_bar_of_float32(bundle: Path) -> None:
    (parity,) = verify(bundle, ["openvino precision=bfloat16"]).parities
    assert not parity.passed
    assert parity.facts["precision"] == "float32, floats in bfloat16"
    assert "bfloat16" in parity.outputs[0].cause or "float16" in parity.outputs[0].cause


def test_bfloat16_is_absent_where_the_cpu_has_none(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_session, "capabilities", lambda: frozenset({"FP32"}))
    assert "no bfloat16" in why_not("openvino", files, precision="bfloat16")
    assert why_not("openvino", files) == ""
    with pytest.raises(MissingError, match="leave out precision=bfloat16"):
        open_session(way("openvino", precision="bfloat16"), files)


def test_other_precisions_and_options_are_refused(bundle: Path) -> None:
    for words in ("openvino precision=float8", "openvino optimisation=off"):
        with pytest.raises(UsageError, match="openvino"):
            verify(bundle, [words])


@pytest.mark.parametrize("content", [b"", b"not an ONNX file", b"\x08\x0a\x12\xff\xff\xff\xff"])
def test_a_file_that_is_none_is_one_sentence(files: ModelFiles, tmp_path: Path, content: bytes) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(content)
    with pytest.raises(BundleError, match=r"damaged\.onnx") as caught:
        open_session(way("openvino"), files._replace(onnx=damaged, onnx_sha256=""))
    assert "\n" not in str(caught.value)


def test_an_operator_that_it_lacks_is_one_sentence(files: ModelFiles, tmp_path: Path) -> None:
    node = helper.make_node("Nothing", ["input"], ["output"], domain="com.example")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, 28, 28]) for name in ("input", "output"))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets)
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(BundleError, match=r"OpenVINO cannot compile .*odd\.onnx.*see whether ort-cpu runs it") as caught:
        open_session(way("openvino"), files._replace(onnx=tmp_path / "odd.onnx", onnx_sha256=""))
    assert "\n" not in str(caught.value)


def test_a_compilation_that_ends_its_process_is_one_sentence(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(openvino_session, "run_child", lambda *given, **named: Failure("signal", "crashes with signal 11"))
    with pytest.raises(BundleError, match="it crashes with signal 11; see whether ort-cpu runs it"):
        open_session(way("openvino"), files)


def test_a_file_is_compiled_in_a_child_once(files: ModelFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    with open_session(way("openvino"), files):
        pass
    monkeypatch.setattr(openvino_session, "run_child", lambda *given, **named: pytest.fail("it was compiled before"))
    with open_session(way("openvino"), files):
        pass
    with pytest.raises(BaseException, match="compiled before"):  # other threads are another compilation
        open_session(way("openvino", threads=1), files)


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_names_that_differ_from_the_file_are_refused(files: ModelFiles, what: str) -> None:
    renamed: Any = tuple(msgspec.structs.replace(spec, name="other") for spec in getattr(files, what))
    with pytest.raises(BundleError, match="no tensor 'other'"):
        open_session(way("openvino"), files._replace(**{what: renamed}))


def test_inputs_that_the_file_does_not_take_are_one_sentence(files: ModelFiles) -> None:
    with open_session(way("openvino"), files) as opened:
        wrong = {"input": np.zeros((2, 1, 5, 5), np.float32)}
        with pytest.raises(BundleError, match="2x1x5x5") as ran:
            opened.run(wrong)
        with pytest.raises(BundleError, match="2x1x5x5") as bound:
            opened.bind(wrong)
        assert "\n" not in f"{ran.value}{bound.value}"


def test_compiling_takes_the_seconds_that_the_user_grants(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = []

    def child(module: str, words: object, limits: Limits, key: str) -> dict[str, bool]:
        granted.append(limits.seconds)
        return {"compiled": True}

    monkeypatch.setattr(openvino_session, "run_child", child)
    for place, seconds in enumerate(("7", "")):
        monkeypatch.setenv("EDGEKIT_CACHE", str(files.onnx.parent / f"cache {place}"))
        monkeypatch.setenv("EDGEKIT_SECONDS", seconds)
        open_session(way("openvino"), files).__exit__(None, None, None)
    assert granted == [7, openvino_session.COMPILE_SECONDS]


def test_compiling_beyond_its_time_says_how_to_grant_more(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(files.onnx.parent / "cache"))
    monkeypatch.setattr(openvino_session, "run_child", lambda *words, key: Failure("time", "takes longer than 7 s"))
    monkeypatch.setenv("EDGEKIT_SECONDS", "7")
    with pytest.raises(BundleError, match=r"takes longer than 7 s, which .*; do not trust it; .* EDGEKIT_SECONDS"):
        open_session(way("openvino"), files)


def test_a_run_beyond_its_time_is_ended(files: ModelFiles) -> None:
    feed = sample_feed(files.inputs, 4096)
    with open_session(way("openvino", threads=1), files) as opened:
        with time_bound(3600) as bound:
            opened.run(feed)
            bound.end()
            with pytest.raises(BundleError, match="EDGEKIT_SECONDS"):
                opened.run(feed)
        opened.run(feed)


def test_layers_are_told_in_the_files_nodes(files: ModelFiles) -> None:
    with open_session(way("openvino"), files) as opened:
        assert isinstance(opened, ByLayer)
        times = opened.layer_times(sample_feed(files.inputs, 2), 5)
    assert all(len(layer.ms) == 5 for layer in times)
    nodes = read_nodes(files.onnx)
    covered = {name for layer in nodes_of(times, nodes) for name in layer}
    heavy = {node.name for node in nodes if node.operator in ("Conv", "Gemm")}
    assert heavy <= covered


def test_bench_times_it_beside_another(bundle: Path) -> None:
    report = bench(bundle, [Setup("ort-cpu", threads=1), Setup("openvino", threads=1)], Timing((1,), 0.05))
    assert {row.backend for row in report.rows} == {"ort-cpu", "openvino"}


def test_no_telemetry_is_imported() -> None:
    code = (
        "import sys\nimport edgekit.backends.openvino.session\n"
        "print(sorted(name for name in sys.modules if name.startswith('openvino_telemetry') and sys.modules[name]))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_arrays_of_another_dtype_are_refused_and_not_converted(files: ModelFiles) -> None:
    with open_session(way("openvino"), files) as opened:
        wrong = {"input": np.zeros((2, 1, 28, 28))}
        for use in (opened.run, opened.bind):
            with pytest.raises(ModelError, match="takes float32"):
                use(wrong)
