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
from edgekit.bundle.files import ModelFiles
from edgekit.commands.verify import ROOM
from edgekit.errors import BundleError, TooLargeError
from edgekit.machine.bounds import current_time_bound, memory_bound, time_bound
from edgekit.tensors import TensorSpec
from tests.ways import way

INPUT, OUTPUT = TensorSpec("input", "float32", ("batch", 1, 28, 28)), TensorSpec("output", "float32", ("batch", 10))
FEED = {"input": np.zeros((2, 1, 28, 28), np.float32)}


def files_of(path: Path, content: bytes) -> ModelFiles:
    path.write_bytes(content)
    return ModelFiles(path, (INPUT,), (OUTPUT,))


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
    monkeypatch.setenv("EDGEKIT_SECONDS", "0.2")
    with (
        pytest.raises(BundleError, match=r"model\.onnx has a loop that does not end within 0\.2 s; do not .*EDGEKIT_SECONDS"),
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


def chain(length: int, side: int = 600) -> bytes:
    """Products of matrices that are made of nothing, one behind the other."""
    nodes = [
        helper.make_node("Add", ["seed", "one"], ["value"]),
        helper.make_node("Expand", ["value", "square"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{index}", "m0"], [f"m{index + 1}"]) for index in range(length)),
        helper.make_node("Identity", [f"m{length}"], ["waste"]),
    ]
    one = onnx.numpy_helper.from_array(np.zeros((), np.float32), "one")
    return hostile.model(nodes, [one, hostile.ints("square", side, side)])


def test_work_without_loops_ends_with_its_time_bound_and_says_how_to_raise_it(tmp_path: Path) -> None:
    files = files_of(tmp_path / "model.onnx", chain(2000))
    with (
        time_bound(0.3),
        pytest.raises(BundleError, match=r"model\.onnx takes longer than 0 s, which its size does not explain.*EDGEKIT_SECONDS"),
        open_session(way("ort-cpu"), files) as opened,
    ):
        opened.run(FEED)


def test_the_same_work_runs_where_it_has_the_time(tmp_path: Path) -> None:
    with time_bound(3600), open_session(way("ort-cpu"), files_of(tmp_path / "model.onnx", chain(5))) as opened:
        for _ in range(2):
            assert opened.run(FEED)["output"].shape == (2, 10)


def test_a_bound_that_is_over_ends_what_begins_behind_it() -> None:
    ended = []
    with time_bound(3600) as bound:
        bound.at_end(lambda: ended.append("first"))
        assert current_time_bound() is bound
        bound.end()
        bound.at_end(lambda: ended.append("second"))
    assert ended == ["first", "second"]
    assert current_time_bound() is None


def doubling(depth: int) -> bytes:
    """Functions that each call the one before twice."""
    model = onnx.load_from_string(hostile.model([helper.make_node("f0", ["seed"], ["waste"], domain="own")], []))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for index in range(depth):
        call = f"f{index + 1}" if index + 1 < depth else "Identity"
        domain = "own" if index + 1 < depth else ""
        nodes = [helper.make_node(call, ["a"], ["b"], domain=domain), helper.make_node(call, ["b"], ["c"], domain=domain)]
        model.functions.append(helper.make_function("own", f"f{index}", ["a"], ["c"], nodes, imports))
    model.opset_import.append(helper.make_opsetid("own", 1))
    content: bytes = model.SerializeToString()
    return content


def test_functions_that_double_are_counted_before_they_are_expanded(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match=r"expand to 2,09\d,\d\d\d nodes, which no network has"),
        open_session(way("ort-cpu"), files_of(tmp_path / "model.onnx", doubling(21))),
    ):
        pass
    with open_session(way("ort-cpu"), files_of(tmp_path / "few.onnx", doubling(4))) as opened:
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
