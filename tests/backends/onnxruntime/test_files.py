"""Files that are refused before ONNX Runtime opens them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekit.backends import open_session, table
from edgekit.bundle.files import ModelFiles
from edgekit.errors import BundleError
from edgekit.progress import SILENT
from edgekit.setups import Setup
from edgekit.tensors import TensorSpec, sample_feed
from tests.ways import way


@pytest.fixture
def files(files: ModelFiles) -> ModelFiles:
    """Files whose checksum nobody asks for: another file comes in place of theirs."""
    return files._replace(onnx_sha256="")


def compiled_file(path: Path) -> None:
    """The file with a branch that holds a compiled program, in any domain: providers do not look at that."""
    model = onnx.load(path)
    node = onnx.helper.make_node("EPContext", [], ["y"], domain="mine", ep_cache_context=b"code", embed_mode=1)
    branch = onnx.helper.make_graph([node], "branch", [], [onnx.helper.make_tensor_value_info("y", 1, [1])])
    model.graph.node.append(onnx.helper.make_node("If", ["input"], ["z"], then_branch=branch, else_branch=branch))
    onnx.save(model, path)


@pytest.mark.parametrize("kind", ["ort-cpu", "ort-cuda", "ort-tensorrt"])
def test_a_file_with_a_compiled_program_is_refused_before_onnxruntime_sees_it(
    files: ModelFiles, pretended_provider: list[Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    compiled_file(files.onnx)
    monkeypatch.setitem(sys.modules, "onnx", None)  # boards that run files have no such package
    with pytest.raises(BundleError, match=r"model\.onnx has an EPContext node, .*; export the model again without compiling it"):
        open_session(way(kind), files)
    assert pretended_provider == []


def outside(name: str, kind: str) -> onnx.ModelProto:
    """``y = x w`` with ``w`` in the file w.bin, at each of the places where ONNX Runtime follows such a name."""
    w = onnx.TensorProto(name="w", data_type=1, dims=[4] if "sparse" in kind else [4, 4], data_location=onnx.TensorProto.EXTERNAL)
    w.external_data.add(key="location", value=name)
    index = onnx.numpy_helper.from_array(np.array([0, 5, 10, 15]), "index")
    sparse = onnx.SparseTensorProto(values=w, indices=index, dims=[4, 4])
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    given: dict[str, Any] = {"initializer": {"initializer": [w]}, "sparse initializer": {"sparse_initializer": [sparse]}}.get(
        kind, {}
    )
    if not given:
        value = {"sparse_value": sparse} if kind == "sparse constant" else {"value": w}
        nodes.insert(0, onnx.helper.make_node("Constant", [], ["w"], **value))
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in "xy")
    opsets, functions = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("mine", 1)], []
    if kind.startswith("function"):
        default = [onnx.helper.make_attribute("K", w)] if kind == "function default" else []
        if default:
            nodes[0].attribute[0].ClearField("t")
            nodes[0].attribute[0].ref_attr_name = "K"
        functions = [onnx.helper.make_function("mine", "F", ["x"], ["y"], nodes, opsets[:1], attribute_protos=default)]
        nodes = [onnx.helper.make_node("F", ["x"], ["y"], domain="mine")]
    graph = onnx.helper.make_graph(nodes, "outside", [x], [y], **given)
    return onnx.helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


@pytest.mark.parametrize(
    "kind", ["initializer", "sparse initializer", "constant", "sparse constant", "function", "function default"]
)
def test_weights_in_another_file_are_refused_before_onnxruntime_looks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Given bytes it looks in the current folder, and runs with whatever of that name lies there."""
    monkeypatch.chdir(tmp_path)
    np.ones(16, np.float32).tofile("w.bin")
    path = tmp_path / "net.onnx"
    path.write_bytes(outside("w.bin", kind).SerializeToString())
    found: list[Any] = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *given, **named: found.append(given))
    monkeypatch.setitem(sys.modules, "onnx", None)  # boards that run files have no such package
    x, y = (TensorSpec(name, "float32", ("batch", 4)) for name in "xy")
    for runtime in ("ort-cpu", "ort-cuda", "ort-tensorrt"):
        with pytest.raises(BundleError, match=r"net\.onnx keeps weights in another file, .*; export the model again with its"):
            table()[runtime].open(ModelFiles(path, (x,), (y,)), Setup(runtime), SILENT)
    assert found == []


def test_a_file_that_has_changed_since_is_looked_into_again_for_its_layers(files: ModelFiles) -> None:
    with open_session(way("ort-cpu"), files) as opened:
        files.onnx.write_bytes(outside("w.bin", "initializer").SerializeToString())
        with pytest.raises(BundleError, match="keeps weights in another file"):
            opened.layer_times(sample_feed(files.inputs, 1), 1)  # type: ignore[attr-defined]  # not every session has it; this one does


def test_a_file_cut_off_whose_bytes_say_epcontext_is_refused(files: ModelFiles, pretended_provider: list[Any]) -> None:
    compiled_file(files.onnx)
    files.onnx.write_bytes(files.onnx.read_bytes()[:-3])
    with pytest.raises(BundleError, match=r"model\.onnx is not a whole ONNX file: a field ends behind.*; export it again"):
        open_session(way("ort-cpu"), files)
    assert pretended_provider == []


def test_a_node_that_is_merely_named_epcontext_runs(files: ModelFiles) -> None:
    model = onnx.load(files.onnx)
    model.graph.node[0].name = "EPContext"
    onnx.save(model, files.onnx)
    with open_session(way("ort-cpu"), files) as opened:
        assert opened.run(sample_feed(files.inputs, 2))["output"].shape == (2, 10)


def test_onnxruntimes_own_format_is_no_onnx_file(files: ModelFiles, tmp_path: Path) -> None:
    """Nothing that looks into a file here can read it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "own.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(files.onnx), options, providers=["CPUExecutionProvider"])
    content = (tmp_path / "own.ort").read_bytes()
    assert onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).get_inputs()
    files.onnx.write_bytes(content)
    with pytest.raises(BundleError, match=r"is not a whole ONNX file: .*; export it again"):
        open_session(way("ort-cpu"), files)
