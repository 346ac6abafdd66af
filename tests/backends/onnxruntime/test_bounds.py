"""Files that would take all memory or all time end in one sentence, and no text of theirs reaches the terminal by itself."""

from __future__ import annotations

import resource
from pathlib import Path

import hostile_bundles as hostile
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.backends import open_session
from edgekit.backends.onnxruntime import session as sessions
from edgekit.bundle.files import ModelFiles
from edgekit.commands.verify import ROOM
from edgekit.errors import BundleError, TooLargeError
from edgekit.machine.bounds import memory_bound
from edgekit.tensors import TensorSpec
from tests.ways import way

INPUT, OUTPUT = TensorSpec("input", "float32", ("batch", 1, 28, 28)), TensorSpec("output", "float32", ("batch", 10))
FEED = {"input": np.zeros((2, 1, 28, 28), np.float32)}


def files_of(path: Path, content: bytes) -> ModelFiles:
    path.write_bytes(content)
    return ModelFiles(path, (INPUT,), (OUTPUT,), "float32", "0")


@pytest.mark.parametrize("kind", [kind for kind in hostile.MODELS if "10^9" in kind or "10^10" in kind or "opened" in kind])
def test_a_tensor_that_is_made_of_nothing_does_not_take_the_memory(kind: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        memory_bound(ROOM),
        pytest.raises(TooLargeError, match=r"model\.onnx.* takes more memory than its tensors explain") as caught,
        open_session(way("ort-cpu"), files_of(tmp_path / "model.onnx", hostile.MODELS[kind]())) as opened,
    ):
        opened.run(FEED)
    assert "\n" not in str(caught.value)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < ROOM


def test_a_loop_without_an_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "LOOP_SECONDS", 0.2)
    with (
        pytest.raises(BundleError, match=r"model\.onnx has a loop that does not end within 0\.2 s; do not trust it"),
        open_session(way("ort-cpu"), files_of(tmp_path / "model.onnx", hostile.loop())) as opened,
    ):
        opened.run(FEED)


def test_a_loop_with_an_end_runs(tmp_path: Path) -> None:
    model = onnx.load_from_string(hostile.loop())
    for tensor in model.graph.initializer:
        if tensor.name == "most":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(5, np.int64), "most"))
    with open_session(way("ort-cpu"), files_of(tmp_path / "model.onnx", model.SerializeToString())) as opened:
        assert opened.run(FEED)["output"].shape == (2, 10)


def test_a_file_without_loops_has_no_timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.Timer", lambda *anything: pytest.fail("a timer was started"))
    content = hostile.model([helper.make_node("Identity", ["seed"], ["waste"])], [])
    with open_session(way("ort-cpu"), files_of(tmp_path / "model.onnx", content)) as opened:
        assert opened.run(FEED)["output"].shape == (2, 10)


def test_onnx_runtimes_own_log_writes_nothing_of_a_file_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tensor = helper.make_tensor("bad", TensorProto.INT64, [1], [7])
    nodes = [
        helper.make_node("Reshape", ["flat", "bad"], ["waste"], name="\x1b[31mred\u202e"),
    ]
    content = hostile.model(nodes, [tensor])
    with (
        pytest.raises(BundleError, match="cannot run"),
        open_session(way("ort-cpu"), files_of(tmp_path / "model.onnx", content)) as opened,
    ):
        opened.run(FEED)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
