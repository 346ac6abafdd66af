"""Times by layer, read from ONNX Runtime's profile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.backends import open_session
from edgekit.backends.contract import LayerTime
from edgekit.backends.onnxruntime.layers import node_times
from edgekit.bundle.files import ModelFiles
from edgekit.latency.layers import nodes_of
from edgekit.onnx.read import read_nodes
from edgekit.setups import Setup
from edgekit.tensors import TensorSpec, sample_feed


def test_what_the_bodies_of_if_and_loop_take_is_told_once(tmp_path: Path) -> None:
    """ONNX Runtime's profile lists a body's nodes too, within their If's or Loop's own time; one is named as an outer node."""
    onnx.save(control_flow(), tmp_path / "m.onnx")
    inputs = (TensorSpec("x", "float32", ("batch", 64)),)
    outputs = (TensorSpec("y", "float32", ("batch", 64)),)
    with open_session(Setup("ort-cpu", threads=1), ModelFiles(tmp_path / "m.onnx", inputs, outputs)) as opened:
        layers = opened.layer_times(sample_feed(inputs, 2), 3)  # type: ignore[attr-defined]  # not every session has it; this one does
    names = [node.name for node in read_nodes(tmp_path / "m.onnx")]
    assert sorted(layer.name for layer in layers) == sorted(names)
    assert nodes_of(layers, read_nodes(tmp_path / "m.onnx")) == [(layer.name,) for layer in layers]


def control_flow() -> onnx.ModelProto:
    """An If in an If, whose body names a node as the graph outside does, and a Loop."""
    make, kind = onnx.helper, onnx.TensorProto

    def body(name: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        return make.make_graph(nodes, name, [], [make.make_tensor_value_info(nodes[-1].output[0], kind.FLOAT, None)])

    def branch(name: str, way: str) -> onnx.NodeProto:
        product = [make.make_node("MatMul", ["h", "eye"], [f"{way}.p"], name="product")]
        other = [make.make_node("Neg", ["h"], [f"{way}.n"], name=f"{way}.neg")]
        sides = {"then_branch": body(f"{way}.then", product), "else_branch": body(f"{way}.else", other)}
        return make.make_node("If", ["positive"], [f"{way}.out"], name=name, **sides)

    nested = [branch("inner", "i"), make.make_node("Tanh", ["i.out"], ["n.out"], name="behind")]
    plain = [make.make_node("Tanh", ["h"], ["e.out"], name="else")]
    sides = {"then_branch": body("then", nested), "else_branch": body("else", plain)}
    value = make.make_tensor_value_info
    state = [value("i", kind.INT64, []), value("go", kind.BOOL, []), value("v", kind.FLOAT, None)]
    after = [value("on", kind.BOOL, []), value("w", kind.FLOAT, None)]
    steps = [make.make_node("Identity", ["go"], ["on"], name="on"), make.make_node("Sin", ["v"], ["w"], name="sine")]
    nodes = [
        make.make_node("MatMul", ["x", "eye"], ["h"], name="product"),
        make.make_node("ReduceSum", ["h"], ["sum"], keepdims=0, name="sum"),
        make.make_node("Less", ["sum", "huge"], ["positive"], name="less"),
        make.make_node("If", ["positive"], ["f"], name="branch", **sides),
        make.make_node("Loop", ["times", "", "f"], ["l"], name="loop", body=make.make_graph(steps, "b", state, after)),
        make.make_node("Cos", ["l"], ["y"], name="end"),
    ]
    x, y = ([value(name, kind.FLOAT, ["batch", 64])] for name in ("x", "y"))
    values = {"eye": np.eye(64), "huge": np.asarray(1e9)}
    constants = [onnx.numpy_helper.from_array(numbers.astype(np.float32), name) for name, numbers in values.items()]
    constants += [onnx.numpy_helper.from_array(np.int64(5), "times")]
    graph = make.make_graph(nodes, "g", x, y, constants)
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 20)], ir_version=10)


# what the profile says


def event(name: str, ts: int, us: int) -> dict[str, object]:
    """Of a node, or, with a capital, of the session."""
    if name[0].isupper() or name == "model_run":
        return {"cat": "Session", "name": name, "ts": ts, "dur": us, "args": {}}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": us, "args": {"op_name": name.title()}}


GRAPH = "SequentialExecutor::Execute"


@pytest.mark.parametrize("says_where_graphs_end", [True, False])
def test_calls_that_warm_up_are_left_out_and_nodes_of_one_name_add_up(says_where_graphs_end: bool) -> None:
    events = [event("Session_initialization", 0, 1)]
    for ts, nodes in ((10, {"conv": 900}), (1000, {"conv": 20, "relu": 3, "relu ": 4}), (1100, {"conv": 30})):
        starts = [ts + sum(list(nodes.values())[:place]) for place in range(len(nodes))]
        events += [event(name.strip(), start, us) for start, (name, us) in zip(starts, nodes.items(), strict=True)]
        events += [event(GRAPH, ts, 50)] if says_where_graphs_end else []
        events += [{"cat": "Node", "name": "conv_fence_before", "ts": ts, "dur": 5}, event("model_run", ts, 60)]
    assert node_times(events, 1) == (
        LayerTime("conv", "Conv", ("conv",), (0.02, 0.03)),
        LayerTime("relu", "Relu", ("relu",), (0.007, 0.0)),
    )


def test_a_body_that_begins_in_the_microsecond_of_its_node_is_still_a_body() -> None:
    """Microseconds are cut off: If, graph, and the body's first node may all begin at once, and a body may take none."""
    events = [event("conv", 10, 5), event("relu", 16, 1)]
    events += [event("neg", 20, 0), event("conv", 20, 3), event(GRAPH, 20, 4), event("if", 20, 5)]
    events += [event("relu", 25, 2), event(GRAPH, 10, 17), event("model_run", 9, 19)]
    assert node_times(events, 0) == (
        LayerTime("conv", "Conv", ("conv",), (0.005,)),
        LayerTime("relu", "Relu", ("relu",), (0.003,)),
        LayerTime("if", "If", ("if",), (0.005,)),
    )
