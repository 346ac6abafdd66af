"""The int8 file is read alike everywhere: its spelling, and what ONNX Runtime and OpenVINO compute from it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.strategies as st
import lesser_cpu
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle.folder import open_bundle
from edgekit.machine.cpu import vnni_absence
from edgekit.onnx.calibration import limits_of, observe, values_of
from edgekit.onnx.placing import Graph, Placement, placed
from edgekit.onnx.qdq import CODES, CODES_OF_SIGNED, codes_of_layers, quantised_model, weight_codes
from edgekit.onnx.run import open_unoptimised
from edgekit.tensors import Array, Feed, bounded_snr_db, normalised_error
from tests.onnx.crafted import model_of, node, tensor

STEP = 1 / CODES
NO_LEAST = np.zeros(1)


class Converted(NamedTuple):
    """A network, its int8 file, where the steps of that are, and samples."""

    model: onnx.ModelProto
    file: onnx.ModelProto
    placement: Placement
    limits: dict[str, float]
    feed: Feed

    def outputs(self, level: str) -> Array:
        return open_unoptimised(self.file, Path("file.onnx"), level=level)(self.feed)["y"]


def converted(model: onnx.ModelProto, feed: Feed) -> Converted:
    placement = placed(Graph(model), {})
    limits = limits_of(placement, observe(placement, values_of(model, set(placement.groups), feed)), "minmax")
    file = quantised_model(model, placement, limits, {})
    onnx.checker.check_model(file, full_check=True)
    return Converted(model, file, placement, limits, feed)


def numbers(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conv(source: str, output: str, weight: str) -> onnx.NodeProto:
    return node("Conv", [source, weight, f"{weight}.b"], output, f"conv_{output}", pads=[1, 1, 1, 1])


@pytest.fixture(scope="module")
def residual() -> Converted:
    """Conv, Relu, Conv, the sum with what went in, Relu, average, Gemm; its input may be negative."""
    nodes = [
        conv("x", "a", "w1"), node("Relu", ["a"], "b", "relu_a"), conv("b", "c", "w2"), node("Relu", ["c"], "d", "relu_c"),
        conv("d", "e", "w3"), node("Add", ["e", "b"], "s"), node("Relu", ["s"], "t", "relu_s"),
        node("GlobalAveragePool", ["t"], "p"), node("Flatten", ["p"], "f"),
        node("Gemm", ["f", "g", "g.b"], "y", "gemm", transB=1),
    ]  # fmt: skip
    stored = [tensor(f"w{index}", 16, 16, 3, 3, low=-0.1, high=0.1) for index in (1, 2, 3)]
    stored += [tensor(f"w{index}.b", 16) for index in (1, 2, 3)] + [tensor("g", 24, 16), tensor("g.b", 24)]
    return converted(model_of(nodes, stored, shape=("batch", 16, 8, 8), rank=2), {"x": numbers(40, 16, 8, 8)})


def stored_in(model: onnx.ModelProto) -> dict[str, Array]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: item for item in model.graph.node for name in item.output}


def test_the_file_has_the_one_spelling_that_all_runtimes_read_alike(residual: Converted) -> None:
    stored = stored_in(residual.file)
    steps = [item for item in residual.file.graph.node if item.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert steps
    for item in steps:
        zero = stored[item.input[2]]
        assert not zero.any()
        value = item.input[0].removesuffix("/codes")
        if value in residual.placement.groups:
            group = residual.placement.groups[value]
            assert zero.dtype == (np.int8 if group in residual.placement.signed else np.uint8)
            assert stored[item.input[1]] == np.float32(residual.limits[group] / 127)
        else:
            assert zero.dtype == np.int8
            assert stored[item.input[1]].shape == zero.shape == (len(stored[item.input[0]]),)
    assert residual.placement.signed == {"x", "e"}
    assert {numpy_helper.to_array(item).dtype for item in residual.file.graph.initializer} == {
        np.dtype(kind) for kind in ("float32", "int8", "uint8")
    }


def test_biases_stay_float_and_are_those_of_the_network(residual: Converted) -> None:
    stored, before = stored_in(residual.file), stored_in(residual.model)
    biases = [item.input[2] for item in residual.file.graph.node if item.op_type in ("Conv", "Gemm")]
    assert len(biases) == 4
    assert all(np.array_equal(stored[name], before[name]) for name in biases)


@pytest.mark.parametrize(
    ("operator", "shape", "weight", "attributes", "axis"),
    [
        ("Conv", ("batch", 16, 4, 4), (24, 16, 1, 1), {}, 0),
        ("Conv", ("batch", 16, 9), (24, 16, 3), {}, 0),
        ("Gemm", ("batch", 16), (24, 16), {"transB": 1}, 0),
        ("Gemm", ("batch", 16), (16, 24), {}, 1),
        ("MatMul", ("batch", 16), (16, 24), {}, 1),
        ("MatMul", ("batch", 3, 16), (16, 24), {}, 1),
    ],
)
def test_weights_have_a_scale_for_each_output_channel(
    operator: str, shape: tuple[Any, ...], weight: tuple[int, ...], attributes: dict[str, Any], axis: int
) -> None:
    """Channels differ a thousandfold, so that a scale on the wrong axis leaves nothing of the small ones."""
    spread = np.logspace(-3, 0, 24).reshape([24 if place == axis else 1 for place in range(len(weight))])
    stored = numpy_helper.from_array((numbers(*weight) * spread).astype(np.float32), "w")
    model = model_of([node(operator, ["x", "w"], "y", "layer", **attributes)], [stored], shape=shape, rank=len(shape))
    made = converted(model, {"x": numbers(8, *shape[1:], seed=1)})
    (steps,) = (item for item in made.file.graph.node if item.op_type == "DequantizeLinear" and item.input[0].startswith("w"))
    assert helper.get_node_attr_value(steps, "axis") == axis
    assert stored_in(made.file)[steps.input[1]].shape == (24,)
    mine, reference = made.outputs("off"), open_unoptimised(model, Path("m"))(made.feed)["y"]
    channels = 1 if operator != "MatMul" else mine.ndim - 1
    for channel in range(24):
        assert normalised_error(mine.take(channel, channels), reference.take(channel, channels)) < 0.05


def test_weights_of_signed_inputs_have_63_codes_and_sums_of_two_products_fit_16_bits(residual: Converted) -> None:
    codes = codes_of_layers(Graph(residual.model), residual.placement, residual.limits)
    most = {name: int(np.abs(weight.codes).max()) for name, weight in codes.items()}
    assert most == {"conv_a": CODES_OF_SIGNED, "conv_c": CODES, "conv_e": CODES, "gemm": CODES}
    assert 2 * 255 * CODES_OF_SIGNED < 2**15 > 2 * CODES * CODES
    assert not 2 * 255 * CODES < 2**15  # what full codes would do where a CPU moves signed values to 0..255


def test_the_largest_value_of_a_group_has_the_code_127(residual: Converted) -> None:
    shown = onnx.ModelProto()
    shown.CopyFrom(residual.file)
    shown.graph.output.append(onnx.ValueInfoProto(name="b/codes"))
    session = ort.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    (codes,) = session.run(["b/codes"], dict(residual.feed))
    assert np.asarray(codes).max() in (126, 127)  # b is computed from rounded values here


def fused(content: bytes, path: Path) -> Counter[str]:
    """The operators of a file as ONNX Runtime optimises it."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Counter(item.op_type for item in onnx.load(path).graph.node)


def test_onnx_runtime_fuses_every_layer_and_residual_addition_whose_result_is_rounded(
    residual: Converted, tmp_path: Path
) -> None:
    kinds = fused(residual.file.SerializeToString(), tmp_path / "optimised.onnx")
    assert kinds["QLinearConv"] == len(residual.placement.layers) - 1 == 3
    assert kinds["QLinearAdd"] == 1
    assert kinds["Gemm"] == 1  # the logits: a Gemm with a float bias is fused only where its result is rounded
    assert not {"Conv", "Add", "FusedConv", "Relu"} & set(kinds)


def test_a_hidden_gemm_is_fused(tmp_path: Path) -> None:
    nodes = [node("Gemm", ["x", "w", "b"], "a", "in"), node("Relu", ["a"], "r"), node("Gemm", ["r", "w", "b"], "y", "out")]
    model = model_of(nodes, [tensor("w", 16, 16), tensor("b", 16)], shape=("batch", 16), rank=2)
    made = converted(model, {"x": numbers(32, 16)})
    assert fused(made.file.SerializeToString(), tmp_path / "optimised.onnx")["QGemm"] == 1


def test_scales_of_values_are_scalars(residual: Converted) -> None:
    """A tensor of one number would be a scale for each of one channel: ONNX Runtime fuses no addition of such."""
    stored = stored_in(residual.file)
    groups = set(residual.placement.groups.values())
    assert {stored[f"{group}/{part}"].shape for group in groups for part in ("scale", "zero")} == {()}


def test_a_matmul_is_fused(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], "a", "first"), node("Relu", ["a"], "b"), node("MatMul", ["b", "v"], "y", "second")]
    made = converted(
        model_of(nodes, [tensor("w", 16, 32), tensor("v", 32, 16)], shape=("batch", 16), rank=2), {"x": numbers(32, 16)}
    )
    kinds = fused(made.file.SerializeToString(), tmp_path / "optimised.onnx")
    assert kinds["MatMulIntegerToFloat"] + kinds["QLinearMatMul"] == 2
    assert "MatMul" not in kinds


def test_optimisations_change_little(residual: Converted) -> None:
    off, on = residual.outputs("off"), residual.outputs("all")
    assert normalised_error(on, off) < 3 * STEP
    reference = open_unoptimised(residual.model, Path("m"))(residual.feed)["y"]
    assert abs(bounded_snr_db(off, reference) - bounded_snr_db(on, reference)) < 0.5
    assert bounded_snr_db(off, reference) > 25


def openvino_outputs(made: Converted) -> Array:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(made.file.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (output,) = compiled(dict(made.feed)).values()
    return np.asarray(output)


def test_openvino_agrees_with_the_file_as_it_is_written(residual: Converted) -> None:
    assert normalised_error(openvino_outputs(residual), residual.outputs("off")) < 3 * STEP


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("between", ["", "Mul", "Split", "MaxPool"])
def test_openvino_agrees_where_signed_values_are_joined(rank: int, between: str) -> None:
    """Before a convolution OpenVINO loses the zero point of a Concat of signed values; such a convolution stays in float."""
    ones, sizes = [1] * (rank - 2), [8] * (rank - 2)
    behind = {
        "Mul": node("Mul", ["d", "k"], "m"),
        "Split": helper.make_node("Split", ["d"], ["m", "n"], "split", axis=1),
        "MaxPool": node("MaxPool", ["d"], "m", kernel_shape=ones),
    }.get(between)
    channels = 16 if between == "Split" else 32
    nodes = [
        node("Conv", ["x", "w1"], "a", "one"), node("Conv", ["x", "w2"], "b", "two"), node("Concat", ["a", "b"], "d", axis=1),
        *([behind] if behind else []), node("Conv", ["m" if behind else "d", "w3"], "y", "three"),
    ]  # fmt: skip
    stored = [tensor("w1", 16, 16, *ones), tensor("w2", 16, 16, *ones), tensor("w3", 24, channels, *ones)]
    model = model_of(nodes, [*stored, tensor("k", 1, 32, *ones, low=-1, high=1)], shape=("batch", 16, *sizes), rank=rank)
    made = converted(model, {"x": numbers(8, 16, *sizes)})
    assert normalised_error(openvino_outputs(made), made.outputs("off")) < 3 * STEP


def shipped(name: str) -> Converted:
    """A shipped network on its own golden pictures."""
    bundle = open_bundle(Path(__file__).parents[2] / "exported" / name)
    model = onnx.load_from_string(bundle.onnx_bytes())
    return converted(model, {"input": bundle.golden().inputs["input"][:68]})


def test_on_a_shipped_network_optimisations_change_less_than_three_steps_and_half_a_decibel() -> None:
    densenet = shipped("densenet")
    reference = open_unoptimised(densenet.model, Path("m"))(densenet.feed)["output"]
    off, on = (open_unoptimised(densenet.file, Path("m"), level=level)(densenet.feed)["output"] for level in ("off", "all"))
    assert normalised_error(on, off) < 3 * STEP
    assert abs(bounded_snr_db(off, reference) - bounded_snr_db(on, reference)) < 0.5
    assert bounded_snr_db(off, reference) > 20


def full_range(made: Converted) -> onnx.ModelProto:
    """The same file with absmax/255 for uint8 and weights of 127 codes: ONNX Runtime's usual spelling."""
    file = onnx.ModelProto()
    file.CopyFrom(made.file)
    unsigned = {f"{group}/scale" for group in made.placement.groups.values() if group not in made.placement.signed}
    for item in file.graph.initializer:
        if item.name in unsigned:
            item.CopyFrom(numpy_helper.from_array(np.asarray(numpy_helper.to_array(item) * np.float32(127 / 255)), item.name))
    return file


RUN_OPTIMISED = """
import sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
np.save(sys.argv[3], session.run(None, {"input": np.load(sys.argv[2])})[0])
"""


def optimised_without_vnni(file: onnx.ModelProto, feed: Feed, folder: Path) -> Array:
    """The optimised file's outputs on a CPU that saturates: on this one, told to be one where it is none."""
    onnx.save(file, folder / "model.onnx")
    np.save(folder / "feed.npy", feed["input"])
    arguments = ["-c", RUN_OPTIMISED, *(str(folder / name) for name in ("model.onnx", "feed.npy", "outputs.npy"))]
    if vnni_absence() is None:
        assert lesser_cpu.run_on_lesser(arguments) == 0
    else:
        subprocess.run([sys.executable, *arguments], check=True)
    return np.asarray(np.load(folder / "outputs.npy"))


@pytest.mark.skipif(vnni_absence() is None and lesser_cpu.absence() is not None, reason="this CPU has VNNI, and can't be masked")
def test_only_a_full_range_file_loses_three_decibels_without_vnni(tmp_path: Path) -> None:
    """The partner of the test above; of the shipped networks, LeNet's sums are the ones that overflow."""
    lenet = shipped("lenet")
    reference = open_unoptimised(lenet.model, Path("m"))(lenet.feed)["output"]
    lost = []
    for file in (lenet.file, full_range(lenet)):
        off = open_unoptimised(file, Path("m"))(lenet.feed)["output"]
        on = optimised_without_vnni(file, lenet.feed, tmp_path)
        lost.append(bounded_snr_db(off, reference) - bounded_snr_db(on, reference))
    assert abs(lost[0]) < 0.5
    assert lost[1] > 3


@pytest.mark.parametrize("fault", ["scale", "type", "axis"])
def test_a_wrong_file_is_worse_by_far(residual: Converted, fault: str) -> None:
    """The partner of the tests that compare: a scale that is four times too small, codes of another type, channels mixed up."""
    file = onnx.ModelProto()
    file.CopyFrom(residual.file)
    for item in file.graph.initializer:
        array = numpy_helper.to_array(item)
        if fault == "scale" and item.name == "b/scale":
            item.CopyFrom(numpy_helper.from_array(np.asarray(array / np.float32(4)), item.name))
        elif fault == "axis" and item.name == "w2/codes":
            item.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array.swapaxes(0, 1)), item.name))
        elif fault == "type" and item.name == "x/zero":
            item.CopyFrom(numpy_helper.from_array(array.astype(np.uint8), item.name))
    mine = open_unoptimised(file, Path("m"))(residual.feed)["y"]
    reference = open_unoptimised(residual.model, Path("m"))(residual.feed)["y"]
    assert bounded_snr_db(mine, reference) < bounded_snr_db(residual.outputs("off"), reference) - 6


def vanishing(guarded: bool) -> tuple[onnx.ModelProto, Array, Array]:
    """A file with a channel whose weights vanish beside its bias, its outputs, and those of the network."""
    weight = numbers(16, 16, 1, 1)
    weight[3] *= 1e-9
    bias = numbers(16, seed=2)
    bias[3] = 50
    stored = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "w.b"), tensor("v", 16, 16, 1, 1)]
    nodes = [node("Conv", ["x", "w", "w.b"], "a", "conv"), node("Relu", ["a"], "b"), node("Conv", ["b", "v"], "y", "last")]
    model = model_of(nodes, stored, shape=("batch", 16, 4, 4))
    made = converted(model, {"x": numbers(32, 16, 4, 4, seed=3)})
    file = made.file
    if not guarded:
        for item in file.graph.initializer:
            if item.name == "w/scales":
                scales = numpy_helper.to_array(item).copy()
                scales[3] = np.abs(weight[3]).max() / CODES_OF_SIGNED
                item.CopyFrom(numpy_helper.from_array(scales, item.name))
    outputs = open_unoptimised(file, Path("m"), level="all")(made.feed)["y"]
    return file, outputs, open_unoptimised(model, Path("m"))(made.feed)["y"]


def test_a_channel_whose_weights_vanish_keeps_its_bias_in_onnx_runtime() -> None:
    _, outputs, reference = vanishing(guarded=True)
    assert normalised_error(outputs, reference) < 3 * STEP
    _, outputs, reference = vanishing(guarded=False)
    assert normalised_error(outputs, reference) > 10 * STEP  # ONNX Runtime's int32 cannot hold the bias in such steps


@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-44])
def test_a_channel_of_nothing_gives_codes_of_zero(size: float) -> None:
    weight = np.full((2, 16), size, np.float32)
    codes = weight_codes(weight, 0, NO_LEAST)
    assert not codes.codes.any()
    assert codes.scales.tolist() == [1, 1]


def test_the_same_network_gives_the_same_bytes(residual: Converted) -> None:
    again = quantised_model(residual.model, residual.placement, residual.limits, {})
    contents = {file.SerializeToString(deterministic=True) for file in (residual.file, again)}
    assert len(contents) == 1


def test_the_network_itself_is_not_touched(residual: Converted) -> None:
    assert not {item.op_type for item in residual.model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}


def test_names_that_the_network_has_already_are_not_taken() -> None:
    nodes = [
        node("Conv", ["x", "w"], "x/codes", "conv"),
        node("Relu", ["x/codes"], "x/scale"),
        node("Conv", ["x/scale", "w"], "y", "c"),
    ]
    made = converted(model_of(nodes, [tensor("w", 16, 16, 1, 1)], shape=("batch", 16, 4, 4)), {"x": numbers(32, 16, 4, 4)})
    assert made.outputs("off").shape == (32, 16, 4, 4)


def test_another_bias_replaces_the_networks() -> None:
    model = model_of([node("Conv", ["x", "w"], "y", "conv")], [tensor("w", 16, 16, 1, 1)], shape=("batch", 16, 4, 4))
    placement = placed(Graph(model), {})
    plain, moved = (quantised_model(model, placement, {"x": 4.0}, biases) for biases in ({}, {"conv": np.full(16, 2.0)}))
    onnx.checker.check_model(moved, full_check=True)
    feed = {"x": numbers(2, 16, 4, 4)}
    apart = open_unoptimised(moved, Path("m"))(feed)["y"] - open_unoptimised(plain, Path("m"))(feed)["y"]
    assert np.allclose(apart, 2, atol=1e-5)


ROUNDING = helper.make_model(
    helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        "rounding",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("zero", TensorProto.INT8, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    ),
    opset_imports=[helper.make_opsetid("", 13)],
    ir_version=8,
)
ROUND = open_unoptimised(ROUNDING, Path("rounding.onnx"))


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e6), st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
def test_values_within_the_limit_are_off_by_half_a_step_at_most(limit: float, shares: list[float]) -> None:
    scale = np.asarray(limit / CODES, np.float32)
    values = np.asarray(shares, np.float32) * np.float32(limit)
    rounded = ROUND({"x": values, "scale": scale, "zero": np.zeros((), np.int8)})["y"]
    assert np.abs(rounded.astype(np.float64) - values).max() <= 0.5 * scale * (1 + 1e-4)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_weights_are_off_by_half_a_step_of_their_channel_at_most(axis: int, size: float, seed: int) -> None:
    weight = (np.random.default_rng(seed).standard_normal((5, 7)) * size).astype(np.float32)
    codes = weight_codes(weight, axis, NO_LEAST)
    scales = codes.scales.reshape((-1, 1) if axis == 0 else (1, -1)).astype(np.float64)
    assert (np.abs(codes.values - weight) <= 0.5 * scales * (1 + 1e-4)).all()
    assert (np.abs(codes.codes).max(axis=1 - axis) == CODES).all()
