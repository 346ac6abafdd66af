"""A fresh name is the one that is asked for, or one that nobody has."""

from __future__ import annotations

from edgekit.onnx.names import fresh_name
from edgekit.onnx.placing import Graph
from tests.onnx.crafted import model_of, node, tensor


def test_a_name_is_given_once() -> None:
    taken = {"a", "a.1"}
    assert [fresh_name(name, taken) for name in ("a", "a", "b", "b")] == ["a.2", "a.3", "b", "b.1"]
    assert taken == {"a", "a.1", "a.2", "a.3", "b", "b.1"}


def test_a_graph_gives_no_name_that_a_value_of_it_has() -> None:
    graph = Graph(model_of([node("Add", ["x", "w"], "a"), node("Relu", ["a"], "y")], [tensor("w", 1)]))
    assert [graph.fresh(name) for name in ("x", "w", "a", "y", "z", "z")] == ["x.1", "w.1", "a.1", "y.1", "z", "z.1"]
