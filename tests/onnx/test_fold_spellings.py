"""Batch norm as converters spell it: written out, behind copies, between transposes, with numbers that nodes compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle.folder import open_bundle
from edgekit.commands.inspect import inspect
from edgekit.onnx import fold as onnx_fold
from edgekit.onnx.exact import run_file_exact
from edgekit.tensors import worst_error
from tests.onnx.crafted import codes, conv, export, folds, model_of, node, norm, statistics, tensor

Nodes = list[onnx.NodeProto]
Stored = list[onnx.TensorProto]
CHANNELS = 6


def integers(name: str, *numbers: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers), name)


def behind_conv(nodes: Nodes, stored: Stored, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """A convolution whose output c goes into ``nodes``."""
    return model_of([conv(), *nodes], [tensor("w", CHANNELS, 4, 3, 3), *stored], opset=opset, ir=ir)


def numbers(*names: str, shape: Sequence[int] = (1, CHANNELS, 1, 1)) -> Stored:
    return [tensor(name, *shape, low=0.5, high=1.5) for name in names]


NHWC = [node("Transpose", ["c"], "t", "there", perm=[0, 2, 3, 1]), node("Transpose", ["u"], "y", "back", perm=[0, 3, 1, 2])]
SPELLINGS = {
    "mul, add": (behind_conv([node("Mul", ["c", "g"], "e"), node("Add", ["e", "h"], "y")], numbers("g", "h")), "mul"),
    "the numbers first": (behind_conv([node("Mul", ["g", "c"], "e"), node("Add", ["h", "e"], "y")], numbers("g", "h")), "mul"),
    "sub, div, mul, add": (
        behind_conv(
            [
                node("Sub", ["c", "m"], "d"),
                node("Div", ["d", "s"], "e"),
                node("Mul", ["e", "g"], "f"),
                node("Add", ["f", "h"], "y"),
            ],
            numbers("m", "s", "g", "h", shape=(CHANNELS, 1, 1)),
        ),
        "sub",
    ),
    "a number less the rest": (
        behind_conv([node("Mul", ["c", "g"], "e"), node("Sub", ["h", "e"], "y")], numbers("g", "h")),
        "mul",
    ),
    "conv, add, norm": (
        behind_conv(
            [node("Add", ["c", "b"], "e"), norm("e", "y")], [*numbers("b", shape=(CHANNELS, 1, 1)), *statistics("bn", CHANNELS)]
        ),
        "bn",
    ),
    "norm, scalar": (
        behind_conv([norm("c", "e"), node("Mul", ["e", "half"], "y")], [*numbers("half", shape=()), *statistics("bn", CHANNELS)]),
        "bn",
    ),
    "matmul, add, norm": (
        model_of(
            [
                node("Flatten", ["x"], "f"),
                node("MatMul", ["f", "w"], "m", "matmul"),
                node("Add", ["m", "b"], "g"),
                norm("g", "y"),
            ],
            [tensor("w", 256, 5), tensor("b", 5), *statistics("bn", 5)],
            rank=2,
        ),
        "bn",
    ),
    "matmul of sequences": (
        model_of(
            [
                node("Reshape", ["x", "rows"], "f"),
                node("MatMul", ["f", "w"], "m", "matmul"),
                node("Mul", ["m", "g"], "e"),
                node("Add", ["e", "h"], "y"),
            ],
            [tensor("w", 64, 5), integers("rows", 0, 4, 64), *numbers("g", "h", shape=(5,))],
            rank=3,
        ),
        "mul",
    ),
    "identity, dropout": (
        behind_conv([node("Identity", ["c"], "i"), node("Dropout", ["i"], "d"), norm("d", "y")], statistics("bn", CHANNELS)),
        "bn",
    ),
    "between transposes": (
        behind_conv(
            [NHWC[0], node("Transpose", ["t"], "v", "again", perm=[0, 3, 1, 2]), norm("v", "y")], statistics("bn", CHANNELS)
        ),
        "bn",
    ),
    "channels last": (
        behind_conv(
            [NHWC[0], node("Mul", ["t", "g"], "e"), node("Add", ["e", "h"], "u"), NHWC[1]], numbers("g", "h", shape=(CHANNELS,))
        ),
        "mul",
    ),
    "numbers that nodes compute": (
        behind_conv(
            [
                node("Sqrt", ["v"], "s"),
                node("Unsqueeze", ["s", "axes"], "s4"),
                node("Div", ["c", "s4"], "e"),
                node("Add", ["e", "h"], "y"),
            ],
            [*numbers("v", shape=(CHANNELS,)), integers("axes", 0, 2, 3), *numbers("h")],
        ),
        "div",
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_folds_and_the_bundle_verifies(name: str, tmp_path: Path) -> None:
    model, first = SPELLINGS[name]
    report = export(tmp_path, model)
    layer = "matmul" if "matmul" in name else "conv"
    assert folds(report) == {first: (layer,)}
    assert (report.fold.before, codes(report)) == (1, {})
    folded = onnx.load(tmp_path / "bundle" / "model.onnx")
    operators = {item.op_type for item in folded.graph.node}
    assert not operators & {"BatchNormalization", "Mul", "Div", "Sub", "Sqrt"}
    assert ("Add" in operators) == (layer == "matmul")
    assert [item.name for item in folded.graph.output] == ["y"]


def by_position() -> onnx.TensorProto:
    return tensor("g", 1, 1, 6, 6, low=0.5, high=1.5)


UNFOLDED = {
    "by position": behind_conv([node("Mul", ["c", "g"], "e"), node("Add", ["e", "h"], "y")], [by_position(), *numbers("h")]),
    "a bias alone": behind_conv([node("Add", ["c", "h"], "y")], numbers("h")),
    "a scalar alone": behind_conv([node("Mul", ["c", "g"], "y")], numbers("g", shape=())),
    "two readers": behind_conv(
        [
            node("Mul", ["c", "g"], "e"),
            node("Add", ["e", "h"], "f"),
            node("Relu", ["c"], "r"),
            node("Add", ["f", "r"], "y", "sum"),
        ],
        numbers("g", "h"),
    ),
    "with itself": behind_conv([node("Mul", ["c", "c"], "e"), node("Add", ["e", "h"], "y")], numbers("h")),
    "one over the rest": behind_conv([node("Relu", ["c"], "r"), node("Div", ["g", "r"], "y")], numbers("g")),
    "through a nonlinearity": behind_conv([node("Relu", ["c"], "r"), node("Mul", ["r", "g"], "y")], numbers("g")),
}


@pytest.mark.parametrize("name", UNFOLDED)
def test_what_is_no_scale_of_channels_stays(name: str) -> None:
    folding = onnx_fold.fold_onnx(UNFOLDED[name])
    assert folding.report.before == 0
    assert [item.op_type for item in folding.model.graph.node] == [item.op_type for item in UNFOLDED[name].graph.node]


def test_a_dropout_that_trains_is_not_seen_through() -> None:
    drops = helper.make_node("Dropout", ["c", "", "train"], ["d"], "drop")
    model = behind_conv([drops, norm("d", "y")], [numpy_helper.from_array(np.array(True), "train"), *statistics("bn", CHANNELS)])
    report = onnx_fold.fold_onnx(model).report
    assert [row.obstacles[0].code for row in report.kept] == ["rule"] or [row.obstacles[0].code for row in report.kept] == [
        "between"
    ]


def test_a_written_out_norm_behind_a_shared_weight_is_kept_with_the_reason(tmp_path: Path) -> None:
    twin = conv(output="d", name="twin")
    model = behind_conv(
        [node("Mul", ["c", "g"], "e"), node("Add", ["e", "h"], "f"), twin, node("Add", ["f", "d"], "y", "sum")], numbers("g", "h")
    )
    report = onnx_fold.fold_onnx(model).report
    assert [(row.norm, row.kind, row.nodes, row.obstacles[0].code) for row in report.kept] == [
        ("mul", "Mul, Add", 0, "shared-weight")
    ]


def test_weights_that_nodes_make_are_stored_only_where_a_norm_needs_them(tmp_path: Path) -> None:
    def made(output: str, *shape: int) -> onnx.NodeProto:
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.25])
        return helper.make_node("ConstantOfShape", [f"{output}.shape"], [output], f"make {output}", value=value)

    shapes = [integers("w.shape", CHANNELS, 4, 3, 3), integers("v.shape", 5, CHANNELS, 3, 3)]
    nodes = [made("w"), made("v"), conv(), norm("c", "n"), conv("n", "y", "v", "second")]
    model = model_of(nodes, [*shapes, *statistics("bn", CHANNELS)])
    assert folds(export(tmp_path, model)) == {"bn": ("conv",)}
    folded = onnx.load(tmp_path / "bundle" / "model.onnx")
    assert [item.op_type for item in folded.graph.node] == ["ConstantOfShape", "Conv", "Conv"]


def test_an_absurd_constant_is_not_computed() -> None:
    huge = helper.make_node("ConstantOfShape", ["shape"], ["g"], "huge")
    nodes = [huge, node("Mul", ["c", "g"], "e"), node("Add", ["e", "h"], "y")]
    model = behind_conv(nodes, [integers("shape", 1 << 20, 1 << 20), *numbers("h")])
    assert onnx_fold.fold_onnx(model).report.before == 0


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """A layer and a random chain of steps, copies and transposes behind it."""
    transposed, groups = draw(st.booleans()), draw(st.sampled_from([1, 2]))
    shape = (4, CHANNELS // groups, 3, 3) if transposed else (CHANNELS, 4 // groups, 3, 3)
    layer = node("ConvTranspose" if transposed else "Conv", ["x", "w"], "v0", "layer", group=groups)
    nodes, stored, last, axis = [layer], [tensor("w", *shape)], "v0", 1
    for index in range(draw(st.integers(1, 6))):
        output = f"v{index + 1}"
        kind = draw(st.sampled_from(["Mul", "Div", "Add", "Sub", "BatchNormalization", "Identity", "Transpose"]))
        if kind == "Identity":
            nodes.append(node(kind, [last], output, output))
        elif kind == "Transpose":
            order = draw(st.permutations([1, 2, 3]))
            nodes.append(node(kind, [last], output, output, perm=[0, *order]))
            axis = [0, *order].index(axis)
        elif kind == "BatchNormalization" and axis == 1:
            nodes.append(norm(last, output, output))
            stored += statistics(output, CHANNELS)
        elif kind != "BatchNormalization":
            wide = draw(st.booleans())
            by_channel = [CHANNELS if place == axis else 1 for place in range(axis, 4)]
            stored += numbers(f"{output}.n", shape=by_channel if wide else ())
            first = kind != "Div" and draw(st.booleans())
            nodes.append(node(kind, [f"{output}.n", last] if first else [last, f"{output}.n"], output, output))
        else:
            continue
        last = output
    nodes.append(node("Tanh", [last], "y", "end"))
    return model_of(nodes, stored)


@given(chains())
def test_any_chain_computes_the_same_in_float64(model: onnx.ModelProto) -> None:
    folding = onnx_fold.fold_onnx(model)
    if folding.exact is None:
        assert not folding.report.folded
        return
    feed = {"x": np.random.default_rng(0).standard_normal((1, 4, 5, 5)).astype("float32")}
    assert worst_error(run_file_exact(folding.exact, feed), run_file_exact(model, feed)) <= 1e-13
    onnx.checker.check_model(folding.model)
    left = {item.op_type for item in folding.model.graph.node}
    assert left <= {"Conv", "ConvTranspose", "Identity", "Transpose", "Tanh"}


@pytest.mark.parametrize("opset", [17, 19, 21, 23])
def test_weights_that_are_stored_in_8_bits_stay_so(tmp_path: Path, opset: int) -> None:
    rng = np.random.default_rng(0)
    stored = [
        numpy_helper.from_array(rng.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8), "q"),
        numpy_helper.from_array(np.float32(0.01), "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
        *statistics("bn", 6),
    ]
    nodes = [node("DequantizeLinear", ["q", "scale", "zero"], "w"), conv(), norm("c", "y")]
    report = export(tmp_path, model_of(nodes, stored, opset=opset, ir=8 if opset < 21 else 10))
    assert (len(report.fold.folded), len(report.fold.kept)) == (0, 1)
    assert "w of conv is quantised" in report.fold.kept[0].reason
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(open_bundle(tmp_path / "bundle").onnx_of()).graph.initializer}
    assert kinds["q"] == TensorProto.INT8


def test_inspect_counts_norms_that_are_written_out(tmp_path: Path) -> None:
    scale = [tensor("s", 1, CHANNELS, 1, 1), tensor("b", 1, CHANNELS, 1, 1)]
    place = tmp_path / "net.onnx"
    place.write_bytes(behind_conv([node("Mul", ["c", "s"], "m"), node("Add", ["m", "b"], "y")], scale).SerializeToString())
    report = inspect(place)
    assert (report.batch_norms, report.written_out) == (0, 1)
    place.write_bytes(behind_conv([node("Relu", ["c"], "y")], []).SerializeToString())
    assert inspect(place).written_out == 0


def test_a_stored_table_behind_a_product_is_no_bias_of_ours(tmp_path: Path) -> None:
    """A vision transformer adds its positions behind a scaled product."""
    rng = np.random.default_rng(3)
    stored = [
        numpy_helper.from_array(rng.standard_normal((8, 5)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.uniform(0.5, 2, 5).astype(np.float32), "gamma"),
        numpy_helper.from_array(rng.standard_normal((1, 4, 5)).astype(np.float32), "positions"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Mul", ["m", "gamma"], ["s"]),
        helper.make_node("Add", ["s", "positions"], ["y"]),
    ]
    report = export(tmp_path, model_of(nodes, stored, shape=("batch", 4, 8), rank=3))
    assert [fold.kind for fold in report.fold.folded] == ["Mul"]
    assert report.fold.kept == ()


@pytest.mark.parametrize("first", [True, False])
def test_the_obstacle_behind_a_product_is_the_product_on_whichever_side_the_numbers_stand(tmp_path: Path, first: bool) -> None:
    product = node("Mul", ["k", "c"] if first else ["c", "k"], "m", "vary")
    report = export(
        tmp_path,
        model_of([conv(), product, norm("m", "y")], [tensor("w", 6, 4, 3, 3), tensor("k", 1, 6, 6, 6), *statistics("bn", 6)]),
    )
    assert codes(report) == {"bn": "between"}
    assert report.fold.kept[0].reason == "Mul vary between it and conv has not one stored number for each channel"
