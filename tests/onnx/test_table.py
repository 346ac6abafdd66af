"""Multiply-accumulates and parameters wherever an ONNX file keeps its weights, and where a size is free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.onnx.table import onnx_table
from tests.onnx.crafted import conv, model_of, node, norm, plain, statistics, tensor

WEIGHTS, MACS = 6 * 4 * 9, 6 * 6 * 6 * 4 * 9
SHAPE = numpy_helper.from_array(np.array([6, 4, 3, 3]), "shape")


def saved(folder: Path, nodes: Sequence[onnx.NodeProto], stored: Sequence[onnx.TensorProto]) -> Path:
    onnx.save(model_of(nodes, stored), folder / "net.onnx")
    return folder / "net.onnx"


def test_weights_beside_the_file_are_counted(tmp_path: Path) -> None:
    onnx.save(plain(), tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    (tmp_path / "net.data").unlink()
    report = onnx_table(tmp_path / "net.onnx")
    assert (report.parameters, report.macs) == (WEIGHTS + 12, MACS)
    assert report.layers[0].output_shape == ("batch", 6, 6, 6)


@pytest.mark.parametrize("spelling", ["fill", "identity", "cast", "constant", "chain"])
def test_weights_that_nodes_compute_are_counted_where_they_are_used(tmp_path: Path, spelling: str) -> None:
    fill = node("ConstantOfShape", ["shape"], "w", value=numpy_helper.from_array(np.array([0.1], np.float32)))
    made: dict[str, list[onnx.NodeProto]] = {
        "fill": [fill],
        "identity": [node("Identity", ["w0"], "w")],
        "cast": [node("Cast", ["half"], "w", to=TensorProto.FLOAT)],
        "constant": [node("Constant", [], "w", value=tensor("w", 6, 4, 3, 3))],
        "chain": [node("Transpose", ["flipped"], "t", perm=[1, 0, 2, 3]), node("Neg", ["t"], "w")],
    }
    stored = {
        "fill": [SHAPE], "identity": [tensor("w0", 6, 4, 3, 3)], "cast": [tensor("half", 6, 4, 3, 3, dtype="float16")],
        "constant": [], "chain": [tensor("flipped", 4, 6, 3, 3)],
    }  # fmt: skip
    report = onnx_table(saved(tmp_path, [*made[spelling], conv(), norm("c", "y")], [*stored[spelling], *statistics("bn", 6)]))
    assert (report.parameters, report.macs) == (WEIGHTS + 12, MACS)
    assert [(layer.op, layer.parameters) for layer in report.layers if layer.parameters] == [
        ("Conv", WEIGHTS), ("BatchNormalization", 12),
    ]  # fmt: skip


def test_what_no_layer_learns_is_no_parameter(tmp_path: Path) -> None:
    half = node("Constant", [], "half", value=numpy_helper.from_array(np.float32(0.5)))
    scales = node("Constant", [], "scales", value=numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32)))
    nodes = [half, scales, node("Mul", ["x", "half"], "m"), node("Resize", ["m", "", "scales"], "y")]
    assert onnx_table(saved(tmp_path, nodes, [])).parameters == 0


def test_a_layer_of_a_free_size_is_named_and_not_counted_as_one_pixel(tmp_path: Path) -> None:
    model = plain(shape=("batch", 4, "height", 8))
    onnx.save(model, tmp_path / "net.onnx")
    report = onnx_table(tmp_path / "net.onnx")
    assert report.macs == 0
    assert report.facts["not counted"] == "multiply-accumulates of conv, whose size is free"
    assert "not counted" not in onnx_table(saved(tmp_path, plain().graph.node, plain().graph.initializer)).facts


def test_layers_inside_functions_are_counted(tmp_path: Path) -> None:
    function = helper.make_function("own", "Layer", ["a", "w"], ["b"], [conv("a", "b")], [helper.make_opsetid("", 17)])
    model = model_of([helper.make_node("Layer", ["x", "w"], ["y"], domain="own")], [tensor("w", 6, 4, 3, 3)])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, tmp_path / "net.onnx")
    report = onnx_table(tmp_path / "net.onnx")
    assert (report.parameters, report.macs, report.ops) == (WEIGHTS, MACS, {"Conv": 1})
