"""Nodes that draw random numbers, or round to steps, are found by their operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import ModelError
from edgekit.onnx.free import open_onnx
from edgekit.onnx.steps import random_node, rounding_node
from tests.onnx.crafted import conv, model_of, node, tensor


def scaled_noise(kind: str, **attributes: Any) -> onnx.ModelProto:
    """Adds random numbers that are too small to move a float32 output by more than rounding."""
    tiny = numpy_helper.from_array(np.float32(1e-9), "tiny")
    nodes = [node(kind, ["x"], "r", "noise", **attributes), node("Mul", ["r", "tiny"], "t"), node("Add", ["x", "t"], "y")]
    return model_of(nodes, [tiny])


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("RandomNormalLike", {}), ("RandomUniformLike", {"seed": 1.0}), ("Bernoulli", {})],
)
def test_noise_that_two_runs_do_not_show_is_refused_by_its_operator(
    tmp_path: Path, kind: str, attributes: dict[str, Any]
) -> None:
    onnx.save(scaled_noise(kind, **attributes), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=rf"depend on random numbers, which {kind} noise draws"):
        open_onnx(tmp_path / "net.onnx")


def test_a_random_number_that_no_output_needs_is_harmless(tmp_path: Path) -> None:
    model = model_of([node("RandomNormalLike", ["x"], "unused", "noise"), node("Neg", ["x"], "y")], [])
    assert random_node(model) == ""
    onnx.save(model, tmp_path / "net.onnx")
    assert open_onnx(tmp_path / "net.onnx").fixed is None


@pytest.mark.parametrize(
    ("ratio", "trains", "fault"), [(0.5, True, "Dropout drop"), (0.5, False, ""), (0.0, True, ""), (None, True, "Dropout drop")]
)
def test_a_dropout_is_random_where_it_trains(ratio: float | None, trains: bool, fault: str) -> None:
    stored = [numpy_helper.from_array(np.array(trains), "train")]
    stored += [] if ratio is None else [numpy_helper.from_array(np.float32(ratio), "ratio")]
    dropout = node("Dropout", ["x", "" if ratio is None else "ratio", "train"], "y", "drop")
    assert random_node(model_of([dropout], stored)) == fault
    old = helper.make_node("Dropout", ["x"], ["y"], "drop", is_test=int(not trains))
    assert random_node(model_of([old], [], opset=6)) == ("Dropout drop" if trains else "")


def test_a_random_operator_in_a_branch_and_in_a_function_is_found() -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [node(kind, ["x"], "b", kind)], name, [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
        )
        for name, kind in (("then", "Neg"), ("else", "RandomNormalLike"))
    }
    stored = [numpy_helper.from_array(np.array(True), "yes")]
    assert random_node(model_of([helper.make_node("If", ["yes"], ["y"], **branches)], stored)) == (
        "RandomNormalLike RandomNormalLike"
    )
    function = helper.make_function("own", "Noise", ["a"], ["b"], [node("Bernoulli", ["a"], "b")], [helper.make_opsetid("", 17)])
    model = model_of([helper.make_node("Noise", ["x"], ["y"], domain="own")], [])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert random_node(model).startswith("Bernoulli ")


def test_rounding_of_values_is_found_and_that_of_shapes_is_not() -> None:
    half = numpy_helper.from_array(np.array([1.0, 1.0, 0.5, 0.5], np.float32), "half")
    sizes = [
        node("Shape", ["x"], "s"),
        node("Cast", ["s"], "f", to=TensorProto.FLOAT),
        node("Mul", ["f", "half"], "h"),
        node("Floor", ["h"], "g"),
        node("Cast", ["g"], "to", "cut", to=TensorProto.INT64),
        node("Resize", ["x", "", "", "to"], "y"),
    ]
    assert rounding_node(model_of(sizes, [half])) == ""
    assert rounding_node(model_of([conv(), node("Round", ["c"], "y")], [tensor("w", 6, 4, 3, 3)])) == "Round round"
    cast = [node("Cast", ["x"], "i", "cut", to=TensorProto.INT8), node("Cast", ["i"], "y", "back", to=TensorProto.FLOAT)]
    assert rounding_node(model_of(cast, [])) == "Cast cut"
    widened = [node("Cast", ["x"], "i", "wider", to=TensorProto.INT64), node("Cast", ["i"], "y", to=TensorProto.INT32)]
    assert rounding_node(model_of(widened, [], kind=TensorProto.INT32)) == ""
