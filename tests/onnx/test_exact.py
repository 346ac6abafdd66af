"""Running an ONNX file in float64."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.onnx import exact as onnx_exact
from edgekit.sources import onnx_file as pack_onnx
from tests.onnx.crafted import export, model_of, node, norm, plain, statistics, tensor

WINDOWS: list[tuple[str, dict[str, Any]]] = [
    ("Conv", {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
    ("Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("Conv", {"auto_pad": "SAME_UPPER", "strides": [3, 2]}),
    ("Conv", {"auto_pad": "VALID"}),
    ("Conv", {"group": 4, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
    ("ConvTranspose", {"group": 2, "strides": [2, 3], "pads": [1, 0, 2, 1], "dilations": [1, 2], "output_padding": [1, 2]}),
    ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "ceil_mode": 1, "dilations": [2, 1]}),
    ("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1], "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    ("AveragePool", {"auto_pad": "SAME_UPPER", "kernel_shape": [3, 3], "strides": [2, 2]}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "attributes"), WINDOWS)
def test_float64_windows_agree_with_onnx_runtime(kind: str, attributes: dict[str, Any]) -> None:
    group = attributes.get("group", 1)
    stored = []
    if kind.startswith("Conv"):
        outputs = 4 if group == 4 else 6
        shape = (outputs, 4 // group) if kind == "Conv" else (4, 6 // group)
        stored = [tensor("w", *shape, 3, 2), tensor("b", outputs)]
    model = model_of(
        [node(kind, ["x", *(item.name for item in stored)], "y", **attributes)], stored, shape=("n", 4, 9, 8), opset=19, ir=9
    )
    feed = {"x": np.random.default_rng(0).standard_normal((2, 4, 9, 8)).astype(np.float32)}
    exact = onnx_exact.run_file_exact(model, feed)["y"]
    output = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
    assert exact.dtype == np.float64
    assert exact.shape == output.shape
    assert 0 < np.abs(exact - output).max() < 1e-6 or kind == "MaxPool"
    assert np.abs(exact - output).max() < 1e-6


def test_float64_is_float64_throughout() -> None:
    constant = node("Constant", [], "k", value_float=0.1)
    cast = node("Cast", ["x"], "c", to=TensorProto.FLOAT)
    fill = node("ConstantOfShape", ["shape"], "z", value=numpy_helper.from_array(np.array([0.1], np.float32)))
    shape = numpy_helper.from_array(np.array([1, 4, 8, 8]), "shape")
    model = model_of([constant, cast, fill, node("Mul", ["c", "k"], "m"), node("Add", ["m", "z"], "y")], [shape])
    feed = {"x": np.full((3, 4, 8, 8), 1 / 3)}
    exact = onnx_exact.run_file_exact(model, feed)["y"]
    tenth = float(np.float32(0.1))
    assert np.abs(exact - (tenth / 3 + tenth)).max() < 1e-16
    stored = [tensor("t", 1, 2, 3), numpy_helper.from_array(np.array([1, 4, 8, 8]), "size")]
    with pytest.raises(onnx_exact.Inexact, match="AffineGrid computes in float32 only"):
        onnx_exact.run_file_exact(
            model_of([node("AffineGrid", ["t", "size"], "g"), node("ReduceSum", ["g"], "y")], stored, opset=20), feed
        )
    quantise = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    with pytest.raises(onnx_exact.Inexact, match="DynamicQuantizeLinear rounds to steps"):
        onnx_exact.run_file_exact(model_of([quantise, node("Mul", ["x", "s"], "y")], []), feed)


def test_float64_gives_up_in_time_and_on_unknown_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = {"x": np.zeros((3, 4, 8, 8), np.float32)}
    clock = itertools.count()
    chain = [
        node("Relu", ["x"], "y0"),
        *(node("Relu", [f"y{index}"], f"y{index + 1}") for index in range(7)),
        node("Relu", ["y7"], "y"),
    ]
    with monkeypatch.context() as patch:
        patch.setattr("edgekit.onnx.exact.time.monotonic", lambda: float(next(clock)))
        with pytest.raises(onnx_exact.Inexact, match="more than"):  # between two operators of one sample
            onnx_exact.run_file_exact(model_of(chain, []), {"x": feed["x"][:1]}, 4.0)
        assert next(clock) < 7
    with pytest.raises(onnx_exact.Inexact, match="more than"):
        onnx_exact.run_file_exact(plain(), feed, 0.0)
    with pytest.raises(onnx_exact.Inexact, match="statistics of the batch"):
        onnx_exact.run_file_exact(model_of([norm("x", "y", extra=("a", "b"), training_mode=1)], statistics("bn", 4)), feed)


def test_a_reference_that_disagrees_with_onnx_runtime_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_exact.run_file_exact
    monkeypatch.setattr(
        pack_onnx, "run_file_exact", lambda *args, **batch: {name: 1.01 * array for name, array in right(*args, **batch).items()}
    )
    report = export(tmp_path, plain())
    assert report.original_error is None
    assert "differs from ONNX Runtime by 9.9e-03" in report.notes[0]
