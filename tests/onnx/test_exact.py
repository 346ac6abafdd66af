"""Running an ONNX file in float64."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekit.onnx import exact as onnx_exact
from edgekit.onnx.kernels import ConstantOfShape
from edgekit.sources import onnx_file as pack_onnx
from tests.onnx.crafted import conv, export, model_of, node, norm, plain, statistics, tensor

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
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [5, 5], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [5, 5], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [3, 2], "strides": [1, 2], "dilations": [2, 3], "ceil_mode": 1}),
    ("LpPool", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1], "p": 3}),
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


def test_an_average_leaves_out_a_last_window_that_starts_in_the_padding() -> None:
    pool = node("AveragePool", ["x"], "y", kernel_shape=[3], strides=[3], pads=[1, 1], ceil_mode=1)
    model = model_of([pool], [], shape=("n", 1, 5), rank=3, opset=19, ir=9)
    exact = onnx_exact.run_file_exact(model, {"x": np.arange(5, dtype=np.float32).reshape(1, 1, 5)})["y"]
    assert exact.tolist() == [[[0.5, 3.0]]]  # 0 and 1; 2, 3 and 4; a third window would start at 6, in the padding


def lrn(**attributes: Any) -> onnx.ModelProto:
    return model_of([node("LRN", ["x"], "y", **attributes)], [], opset=9)


@pytest.mark.parametrize("size", [1, 3, 5, 11])
def test_lrn_is_that_of_pytorch_in_float64(size: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 8, 8)).astype(np.float32)
    alpha, beta = float(np.float32(0.3)), 0.75
    truth = torch.nn.functional.local_response_norm(torch.from_numpy(x.astype(np.float64)), size, alpha, beta, 1.5).numpy()
    exact = onnx_exact.run_file_exact(lrn(size=size, alpha=0.3, beta=beta, bias=1.5), {"x": x})["y"]
    assert np.abs(exact - truth).max() < 1e-14


OPERATORS: list[tuple[str, int, dict[str, Any]]] = [
    ("LRN", 9, {"size": 3, "alpha": 0.5}),
    ("Softmax", 11, {}),
    ("LogSoftmax", 11, {"axis": 2}),
    ("Hardmax", 11, {"axis": 3}),
    ("Softmax", 13, {"axis": 1}),
    ("GlobalLpPool", 17, {"p": 3}),
    ("Erf", 13, {}),
    ("Dropout", 7, {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "opset", "attributes"), OPERATORS)
def test_float64_operators_agree_with_onnx_runtime(kind: str, opset: int, attributes: dict[str, Any]) -> None:
    model = model_of([node(kind, ["x"], "y", **attributes)], [], opset=opset)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)}
    exact = onnx_exact.run_file_exact(model, feed, batch=2)["y"]
    output = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
    assert exact.dtype == np.float64
    assert np.abs(exact - output).max() < 2e-6


@pytest.mark.parametrize("transform", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resizing_agrees_with_onnx_runtime(mode: str, transform: str) -> None:
    scales = numpy_helper.from_array(np.array([1, 1, 1.7, 0.6], np.float32), "scales")
    resize = node("Resize", ["x", "", "scales"], "y", mode=mode, coordinate_transformation_mode=transform)
    model = model_of([resize], [scales], shape=("n", 4, 8, 9))
    feed = {"x": np.random.default_rng(0).standard_normal((1, 4, 8, 9)).astype(np.float32)}
    exact = onnx_exact.run_file_exact(model, feed)["y"]
    output = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
    assert np.abs(exact - output).max() < 1e-5


def test_erf_has_the_digits_of_float64() -> None:
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8))
    model = model_of([node("Erf", ["x"], "y")], [], kind=TensorProto.DOUBLE)
    assert np.abs(onnx_exact.run_file_exact(model, {"x": x})["y"] - np.vectorize(math.erf)(x)).max() < 1e-15


def test_a_loop_stacks_what_its_iterations_give() -> None:
    body = helper.make_graph(
        [node("Identity", ["keep"], "kept"), node("Add", ["sum", "x"], "next"), node("Identity", ["next"], "scan")],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("kept", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("scan", TensorProto.FLOAT, None),
        ],
    )
    turns = numpy_helper.from_array(np.array(3), "turns")
    loop = helper.make_node("Loop", ["turns", "", "x"], ["last", "scans"], body=body)
    model = model_of([loop, node("ReduceSum", ["scans", "axes"], "y", keepdims=0)], [turns, axes(0)])
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    values = {value.operator: value.outputs for value in onnx_exact.node_values(model, {"x": x})}
    assert values["Loop"]["scans"].shape == (3, 1, 4, 8, 8)
    assert np.abs(values["ReduceSum"]["y"] - 9 * x.astype(np.float64)).max() < 1e-14


def test_a_loop_without_an_end_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scalars = [("turn", TensorProto.INT64), ("keep", TensorProto.BOOL)]
    inputs = [helper.make_tensor_value_info(name, kind, []) for name, kind in scalars]
    inputs.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, None))
    kept = [helper.make_tensor_value_info("kept", TensorProto.BOOL, []), helper.make_tensor_value_info("next", 1, None)]
    body = helper.make_graph([node("Identity", ["keep"], "kept"), node("Neg", ["sum"], "next")], "body", inputs, kept)
    model = model_of([helper.make_node("Loop", ["", "", "x"], ["y"], body=body)], [])
    clock = itertools.count()
    monkeypatch.setattr("edgekit.onnx.evaluator.time.process_time", lambda: float(next(clock)))
    with pytest.raises(onnx_exact.Inexact, match="float64 would take more than 50 s"):
        onnx_exact.run_file_exact(model, {"x": np.ones((1, 4, 8, 8), np.float32)}, 50.0)
    assert next(clock) < 60


def axes(*numbers: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers), "axes")


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("RandomNormalLike", {}),
        ("RandomUniformLike", {}),
        ("Bernoulli", {}),
        ("Multinomial", {}),
        ("RandomNormal", {"shape": [1, 4, 8, 8]}),
        ("RandomUniform", {"shape": [1, 4, 8, 8]}),
    ],
)
def test_random_operators_are_refused_by_name(kind: str, attributes: dict[str, Any]) -> None:
    random = node(kind, [] if attributes else ["x"], "r", **attributes)
    with pytest.raises(onnx_exact.Inexact, match=f"^{kind} is random$"):
        onnx_exact.run_file_exact(model_of([random, node("Add", ["x", "r"], "y")], []), {"x": np.zeros((1, 4, 8, 8))})


@pytest.mark.parametrize(("ratio", "refused"), [(0.5, True), (0.0, False)])
def test_dropout_in_training_is_random_unless_it_drops_nothing(ratio: float, refused: bool) -> None:
    stored = [numpy_helper.from_array(np.float32(ratio), "ratio"), numpy_helper.from_array(np.array(True), "train")]
    model, feed = model_of([node("Dropout", ["x", "ratio", "train"], "y")], stored), {"x": np.ones((1, 4, 8, 8))}
    if refused:
        with pytest.raises(onnx_exact.Inexact, match="Dropout is in training mode"):
            onnx_exact.run_file_exact(model, feed)
    else:
        assert (onnx_exact.run_file_exact(model, feed)["y"] == 1).all()


def test_every_node_has_a_value_and_is_forgotten_when_nobody_reads_it() -> None:
    chain = [node("Relu", ["x"], "a", "first"), node("Neg", ["a"], "b"), node("Exp", ["b"], "y", "")]
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    model = model_of(chain, [])
    values = list(onnx_exact.node_values(model, {"x": x}))
    assert [(value.name, value.operator, list(value.outputs)) for value in values] == [
        ("first", "Relu", ["a"]), ("neg", "Neg", ["b"]), ("exp", "Exp", ["y"]),
    ]  # fmt: skip
    assert all(value.outputs[name].dtype == np.float64 for value in values for name in value.outputs)
    assert np.array_equal(values[2].outputs["y"], np.exp(-np.maximum(x.astype(np.float64), 0)))
    known = [set(moment.values) for moment in onnx_exact.ExactFile(model).moments({"x": x})]
    assert ["a" in names for names in known] == [True, True, False]


def test_what_depends_on_no_input_is_computed_once_and_samples_together_or_alone_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fills, right = itertools.count(), ConstantOfShape._run
    monkeypatch.setattr(ConstantOfShape, "_run", lambda *args, **more: (next(fills), right(*args, **more))[1])
    shape = numpy_helper.from_array(np.array([6, 4, 3, 3]), "shape")
    fill = node("ConstantOfShape", ["shape"], "w", value=numpy_helper.from_array(np.array([0.1], np.float32)))
    model = model_of([fill, conv(output="y")], [shape])
    model.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [4]))  # as files of IR 3 have it
    feed = {"x": np.random.default_rng(0).standard_normal((5, 4, 8, 8)).astype(np.float32)}
    alone = onnx_exact.run_file_exact(model, feed)["y"]
    assert next(fills) == 1
    together = onnx_exact.run_file_exact(model, feed, batch=2)["y"]
    assert together.shape == alone.shape
    assert np.abs(together - alone).max() < 1e-14


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
    counts: dict[str, Any] = {"max_gram_length": 1, "min_gram_length": 1, "max_skip_count": 0, "mode": "TF", "ngram_counts": [0]}
    words = node("TfIdfVectorizer", ["i"], "g", ngram_indexes=[0, 1], pool_int64s=[0, 1], **counts)
    integers = node("Cast", ["f"], "i", to=TensorProto.INT64)
    with pytest.raises(onnx_exact.Inexact, match="TfIdfVectorizer computes in float32 only"):
        onnx_exact.run_file_exact(
            model_of(
                [node("Reshape", ["x", "flat"], "f"), integers, words, node("Relu", ["g"], "y")],
                [numpy_helper.from_array(np.array([1, -1]), "flat")],
            ),
            feed,
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
        patch.setattr("edgekit.onnx.exact.time.process_time", lambda: float(next(clock)))
        with pytest.raises(onnx_exact.Inexact, match="more than"):  # between two operators of one sample
            onnx_exact.run_file_exact(model_of(chain, []), {"x": feed["x"][:1]}, 4.0)
        assert next(clock) < 7
    with pytest.raises(onnx_exact.Inexact, match="more than"):
        onnx_exact.run_file_exact(plain(), feed, 0.0)
    with pytest.raises(onnx_exact.Inexact, match="statistics of the batch"):
        onnx_exact.run_file_exact(model_of([norm("x", "y", extra=("a", "b"), training_mode=1)], statistics("bn", 4)), feed)


@pytest.mark.parametrize(("slow", "refused"), [(30.0, True), (2.0, False)])
def test_the_second_batch_tells_what_all_take_and_the_load_of_the_machine_does_not(
    monkeypatch: pytest.MonkeyPatch, slow: float, refused: bool
) -> None:
    """Each batch takes ``slow`` seconds of this thread; the first takes a hundred more, and the clock on the wall runs away."""
    turns, now = itertools.count(), iter(itertools.accumulate(itertools.chain([0.0, 100.0 + slow], itertools.repeat(slow))))
    monkeypatch.setattr("edgekit.onnx.exact.time.thread_time", lambda: next(now))
    monkeypatch.setattr("edgekit.onnx.exact.time.monotonic", lambda: 1e9 * next(turns))
    feed = {"x": np.random.default_rng(0).standard_normal((6, 4, 8, 8)).astype(np.float32)}
    if refused:
        with pytest.raises(onnx_exact.Inexact, match="would take about 180 s of a processor's time, and 100 s are allowed"):
            onnx_exact.run_file_exact(plain(), feed, 100.0)
    else:
        assert onnx_exact.run_file_exact(plain(), feed, 100.0)["y"].shape[0] == 6


def test_a_reference_that_disagrees_with_onnx_runtime_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_exact.run_file_exact
    monkeypatch.setattr(
        pack_onnx, "run_file_exact", lambda *args, **batch: {name: 1.01 * array for name, array in right(*args, **batch).items()}
    )
    report = export(tmp_path, plain())
    assert report.original_error is None
    assert "differs from ONNX Runtime by 9.9e-03" in report.notes[0]
