"""Regimes of nonlinearities: where each begins, and which of them values reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import GoldenPart
from edgekit.commands.export import export
from edgekit.onnx.regimes import nonlinearities
from edgekit.parity.inputs import Recorded
from edgekit.sources.measuring import not_reached


def model(node: onnx.NodeProto, ends: dict[str, float] | None = None) -> onnx.ModelProto:
    """A model of Identity and ``node``, which reads ``inner``; ``ends``: scalars that are stored."""
    stored = [helper.make_tensor(name, TensorProto.FLOAT, [], [number]) for name, number in (ends or {}).items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["inner"]), node], "g", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def activation(operator: str, **attributes: Any) -> onnx.ModelProto:
    return model(helper.make_node(operator, ["inner"], ["y"], operator, **attributes))


@pytest.mark.parametrize(
    ("operator", "attributes", "bounds"),
    [
        ("Relu", {}, [0, 6]),
        ("HardSwish", {}, [-3, 3]),
        ("HardSigmoid", {"alpha": 0.25, "beta": 0.5}, [-2, 2]),
        ("ThresholdedRelu", {"alpha": 2.0}, [2]),
        ("LeakyRelu", {}, [0]),
        ("Sigmoid", {}, [-4, 4]),
    ],
)
def test_the_bounds_of_an_activation_are_known(operator: str, attributes: dict[str, float], bounds: list[float]) -> None:
    (node,) = nonlinearities(activation(operator, **attributes))
    assert (node.name, node.value, list(node.bounds)) == (operator, "inner", bounds)


def test_a_clip_has_the_ends_that_are_stored() -> None:
    (node,) = nonlinearities(model(helper.make_node("Clip", ["inner", "low", "high"], ["y"]), {"low": -1.0, "high": 2.5}))
    assert list(node.bounds) == [-1, 2.5]
    (node,) = nonlinearities(model(helper.make_node("Clip", ["inner", "", "high"], ["y"]), {"high": 2.5}))
    assert list(node.bounds) == [2.5]
    assert nonlinearities(model(helper.make_node("Clip", ["inner"], ["y"]))) == []


def test_a_node_that_is_linear_or_from_elsewhere_has_no_regimes() -> None:
    assert nonlinearities(activation("Neg")) == []
    assert nonlinearities(model(helper.make_node("Relu", ["inner"], ["y"], domain="com.example"))) == []


@pytest.mark.parametrize(
    ("values", "reached"),
    [
        ([-1.0, 1.0, 7.0], [True, True, True]),
        ([0.0, 6.0], [False, True, False]),
        ([-1.0, 7.0], [True, False, True]),
        ([np.nan], [False, False, False]),
        ([], [False, False, False]),
        ([np.nan, 7.0], [False, False, True]),
    ],
)
def test_regimes_are_reached_by_values_inside_them(values: list[float], reached: list[bool]) -> None:
    (node,) = nonlinearities(activation("Relu"))
    assert list(node.regimes(np.asarray(values, np.float32))) == reached


def recorded(largest: float) -> Recorded:
    values = np.linspace(-largest, largest, 64, dtype=np.float32).reshape(16, 4)
    outputs = values.astype(np.float64)
    return Recorded(GoldenArrays({"x": values}, {"y": outputs}, {"y": values}, None), (GoldenPart("normal", 16),))


def test_what_no_golden_input_reaches_is_a_note() -> None:
    content = activation("Relu").SerializeToString()
    (note,) = not_reached(content, recorded(5))
    assert "1 of 1 nonlinearities" in note
    assert "Relu Relu above 6" in note
    assert not_reached(content, recorded(7)) == ()


def test_an_export_says_what_its_golden_inputs_do_not_reach(tmp_path: Path) -> None:
    node = helper.make_node("Clip", ["inner", "low", "high"], ["y"], "far")
    onnx.save(model(node, {"low": -3.0, "high": 1e6}), tmp_path / "model.onnx")
    report = export(str(tmp_path / "model.onnx"), tmp_path / "bundle")
    assert any("Clip far above 1e+06" in note for note in report.notes)
