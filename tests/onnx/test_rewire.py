"""Copies of a file that show more values, or whose nodes read given ones, are whole ONNX files that run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgekit.onnx.rewire import EXACT, alone, node_by_node, with_outputs

Array = np.ndarray[Any, Any]


def file(kind: int = TensorProto.FLOAT) -> bytes:
    """Y = (x + 1) * 2, and an integer shape beside it."""
    one, two = (helper.make_tensor(name, kind, [], [number]) for name, number in (("one", 1.0), ("two", 2.0)))
    nodes = [
        helper.make_node("Add", ["x", "one"], ["sum"], "add"),
        helper.make_node("Shape", ["sum"], ["shape"], "shape"),
        helper.make_node("Mul", ["sum", "two"], ["product"], "mul"),
        helper.make_node("Reshape", ["product", "shape"], ["y"], "reshape"),
    ]
    x, y = (helper.make_tensor_value_info(name, kind, ["batch", 3]) for name in "xy")
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [one, two]), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    return bytes(model.SerializeToString())


def run(content: bytes, names: list[str], feed: dict[str, Array]) -> list[Array]:
    return list(onnxruntime.InferenceSession(content).run(names, feed))


X = np.arange(6, dtype=np.float32).reshape(2, 3)
GIVEN = {"sum": np.full((2, 3), 10, np.float32), "product": np.full((2, 3), 7, np.float32), "y": X, "x": X}


def test_values_that_no_input_changes_are_computed_alone_from_what_they_read() -> None:
    """Between other nodes and tensors, behind others, and from a Constant."""
    model = onnx.load_from_string(file())
    stored = {"codes": X.astype(np.int8), "scale": np.float32(0.5), "zero": np.int8(1), "large": np.zeros((500, 500), np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items())
    constant = onnx.numpy_helper.from_array(np.array([3, 2], np.int64), "")
    model.graph.node.extend(
        [
            helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], "dequantise"),
            helper.make_node("Constant", [], ["sizes"], value=constant),
            helper.make_node("Reshape", ["w", "sizes"], ["turned"], "turn"),
            helper.make_node("Mul", ["product", "large"], ["unread"], "unread"),
            helper.make_node("DequantizeLinear", ["codes", "scale", ""], ["other"], "an empty name is none"),
            helper.make_node("TopK", ["product", "k"], ["", "places"], "nor here"),
        ]
    )
    content = model.SerializeToString()
    small = alone(content, ["w", "turned", "other"])
    assert len(small) < len(content) - stored["large"].nbytes
    w, turned, other = run(small, ["w", "turned", "other"], {})
    assert np.array_equal(w, (X - 1) / 2)
    assert np.array_equal(turned, w.reshape(3, 2))
    assert np.array_equal(other, X / 2)


def test_values_inside_become_outputs() -> None:
    total, y = run(with_outputs(file(), ["sum"]), ["sum", "y"], {"x": X})
    assert np.array_equal(total, X + 1)
    assert np.array_equal(y, 2 * (X + 1))


def test_each_node_reads_what_is_given_and_not_what_was_computed() -> None:
    content, given = node_by_node(file(), GIVEN)
    assert set(given) == {EXACT + name for name in ("sum", "product")}
    total, product, y = run(with_outputs(content, ["sum", "product"]), ["sum", "product", "y"], {"x": X, **given})
    assert np.array_equal(total, X + 1)
    assert np.array_equal(product, np.full((2, 3), 20))
    assert np.array_equal(y, np.full((2, 3), 7))


def test_the_copy_keeps_all_else_of_the_file() -> None:
    before, after = onnx.load_from_string(file()), onnx.load_from_string(node_by_node(file(), GIVEN)[0])
    onnx.checker.check_model(after, full_check=True)
    assert (before.opset_import[0], before.ir_version) == (after.opset_import[0], after.ir_version)
    assert before.graph.initializer == after.graph.initializer
    assert before.graph.output == after.graph.output
    for mine, theirs in zip(before.graph.node, after.graph.node, strict=True):
        assert [name.removeprefix(EXACT) for name in theirs.input] == list(mine.input)
        assert (mine.name, mine.op_type, mine.output, mine.attribute) == (
            theirs.name, theirs.op_type, theirs.output, theirs.attribute,
        )  # fmt: skip


@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.DOUBLE, np.float64), (TensorProto.FLOAT16, np.float16)])
def test_other_floats_are_declared_as_what_they_are(kind: int, dtype: type) -> None:
    content, given = node_by_node(file(kind), {"sum": np.full((2, 3), 10, dtype)})
    (product,) = run(with_outputs(content, ["product"]), ["product"], {"x": X.astype(dtype), **given})
    assert product.dtype == dtype
    assert np.array_equal(product, np.full((2, 3), 20))


def test_whole_numbers_such_as_shapes_are_left_to_the_graph() -> None:
    content, given = node_by_node(file(), {"shape": np.array([3, 2])})
    assert given == {}
    assert onnx.load_from_string(content) == onnx.load_from_string(file())


def test_a_malformed_message_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="behind its message"):
        node_by_node(file()[:-3], GIVEN)
