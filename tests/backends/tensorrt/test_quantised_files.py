"""Q/DQ files in every spelling: what each flavour is given, how its network is read, and what a user is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.backends.tensorrt.builder import Built, build_plan
from edgekit.backends.tensorrt.flavour import TensorRT, find
from edgekit.backends.tensorrt.network import OnnxFile
from edgekit.bundle.manifest import Conversion
from edgekit.errors import EngineError
from tests.backends.tensorrt.builds import RANGE
from tests.fake_trt import FakeTensorRT
from tests.onnx_files import crafted, quantised, reference_outputs
from tests.trt_listing import EIGHT, LISTINGS

OURS = Conversion("int8.npz", converted=1)
STORED: dict[str, Any] = {
    "scale": np.float32(0.1),
    "u": np.uint8(0),
    "z": np.int8(0),
    "first": np.random.default_rng(0).integers(-60, 60, (8, 1, 3, 3)).astype(np.int8),
    "weights": np.random.default_rng(1).integers(-60, 60, (8, 8, 3, 3)).astype(np.int8),
    "matrix": np.random.default_rng(2).integers(-60, 60, (10, 8)).astype(np.int8),
    "scales": np.full(8, 0.01, np.float32),
    "zeros": np.zeros(8, np.int8),
    "more_scales": np.full(10, 0.01, np.float32),
    "more_zeros": np.zeros(10, np.int8),
    "bias": np.ones(8, np.float32),
    "more_bias": np.ones(10, np.float32),
}


def steps(name: str, value: str, zero: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [value, "scale", zero], [f"{name}.codes"], f"{name}.quantise"),
        helper.make_node("DequantizeLinear", [f"{name}.codes", "scale", zero], [name], f"{name}.dequantise"),
    ]


def conv(name: str, data: str, weights: str) -> list[onnx.NodeProto]:
    """A convolution of 8 filters whose weights are stored in 8 bits, by output channel, and its bias in float."""
    return [
        helper.make_node("DequantizeLinear", [weights, "scales", "zeros"], [f"{name}.w"], f"{name}.weights", axis=0),
        helper.make_node("Conv", [data, f"{name}.w", "bias"], [name], name, pads=[1] * 4),
    ]


def used(nodes: list[onnx.NodeProto], shape: tuple[int, ...], **more: Any) -> OnnxFile:
    read = {name for node in nodes for name in node.input}
    stored = {name: array for name, array in (STORED | more).items() if name in read}
    return crafted(nodes, stored, shape, precision="int8")


def residual(scale: float = 0.1, *, skip_alone: bool = False, turned: bool = False) -> OnnxFile:
    """The portable file of a residual block and a classifier; with ``skip_alone`` one summand is in float,
    the first, or ``turned`` the second."""
    summands = ["conv2" if skip_alone else "summand", "skip"]
    nodes = [
        *steps("x", "input", "z"),
        *conv("conv1", "x", "first"),
        helper.make_node("Relu", ["conv1"], ["relu1"], "relu1"),
        *steps("skip", "relu1", "u"),
        *conv("conv2", "skip", "weights"),
        *steps("summand", "conv2", "z"),
        helper.make_node("Add", summands[::-1] if turned else summands, ["sum"], "add"),
        helper.make_node("Relu", ["sum"], ["relu2"], "relu2"),
        *steps("pooling", "relu2", "u"),
        helper.make_node("GlobalAveragePool", ["pooling"], ["pooled"], "pool"),
        *steps("flattening", "pooled", "u"),
        helper.make_node("Flatten", ["flattening"], ["flat"], "flatten"),
        helper.make_node("DequantizeLinear", ["matrix", "more_scales", "more_zeros"], ["m"], "matrix.dequantise", axis=0),
        helper.make_node("Gemm", ["flat", "m", "more_bias"], ["output"], "gemm", transB=1),
    ]
    return used(nodes, (10,), scale=np.float32(scale))


def mixed() -> OnnxFile:
    """An int8 convolution before one in float16."""
    nodes = [
        *steps("x", "input", "z"),
        *conv("conv1", "x", "first"),
        helper.make_node("Cast", ["conv1"], ["half"], "narrow", to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["half", "halves"], ["conv2"], "conv2", pads=[1] * 4),
        helper.make_node("Cast", ["conv2"], ["output"], "widen", to=TensorProto.FLOAT),
    ]
    return used(nodes, (8, 28, 28), halves=np.ones((8, 8, 3, 3), np.float16))


def count(built: Built, kind: str) -> dict[str, int]:
    return {layers.precision: layers.count for layers in built.network.counts if layers.kind == kind}


def built_by(listing: Any, monkeypatch: pytest.MonkeyPatch, model: OnnxFile) -> tuple[Built, onnx.ModelProto]:
    """What a flavour builds, and the file that its parser was given."""
    fake = FakeTensorRT(listing).install(monkeypatch)
    built = build_plan(find(listing.flavour.name), model, RANGE)
    return built, onnx.load_model_from_string(fake.builds[0][0]._content)


every_flavour = pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.version)


@every_flavour
def test_a_portable_file_builds_on_every_flavour_and_its_layers_are_int8(monkeypatch: pytest.MonkeyPatch, listing: Any) -> None:
    model = residual()
    built, given = built_by(listing, monkeypatch, model._replace(conversion=OURS))
    assert built.network.nodes == dict.fromkeys(("conv1", "conv2", "gemm"), "int8")
    # a sum of two dequantised values is an int8 layer; that of the product and the float bias is not
    assert count(built, "ELEMENTWISE") == {"int8": 1, "float32": 1}
    assert built.notes == ()
    types = {tensor.data_type for tensor in given.graph.initializer}
    assert (given == onnx.load_model_from_string(model.content)) is listing.flavour.uint8_zero_points
    assert (TensorProto.UINT8 in types) is listing.flavour.uint8_zero_points
    stored = {
        tensor.name for tensor in given.graph.initializer if np.prod(tensor.dims) > 10 and tensor.data_type == TensorProto.INT8
    }
    assert stored == ({"first", "weights", "matrix"} if listing.flavour.int8_constants else set())


@every_flavour
def test_one_float_summand_makes_a_float_sum(monkeypatch: pytest.MonkeyPatch, listing: Any) -> None:
    built, _ = built_by(listing, monkeypatch, residual(skip_alone=True))
    assert count(built, "ELEMENTWISE") == {"float32": 2}
    turned, _ = built_by(listing, monkeypatch, residual(skip_alone=True, turned=True))
    assert count(turned, "ELEMENTWISE") == {"float32": 2}


@pytest.mark.parametrize(("scale", "same"), [(1.0, True), (0.1, False)])
def test_eight_six_computes_what_the_file_does_unless_codes_exceed_127(
    monkeypatch: pytest.MonkeyPatch, scale: float, same: bool
) -> None:
    """Values reach 60: in steps of 1 the file in int8 has the same outputs to the bit, in steps of 0.1 it is clipped."""
    model = residual(scale)
    _, given = built_by(EIGHT, monkeypatch, model)
    feed = {"input": np.random.default_rng(0).uniform(-10, 10, (2, 1, 28, 28)).astype(np.float32)}
    expected, output = (reference_outputs(proto, feed)[0] for proto in (onnx.load_from_string(model.content), given))
    assert np.ptp(expected) > 0
    assert np.array_equal(output, expected) is same


def test_eight_six_refuses_uint8_zero_points_that_have_no_equal_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTensorRT(EIGHT).install(monkeypatch)
    expected = (
        "^tensorrt 8.6.0 has no uint8, and in model.onnx quantise has the uint8 zero point 7; quantise with edgekit quantize$"
    )
    with pytest.raises(EngineError, match=expected):
        build_plan(find("tensorrt"), quantised(zero_point=7, uint8=True), RANGE)


@every_flavour
def test_uint8_that_edgekit_did_not_write_is_told_of_wherever_it_is_read_as_int8(
    monkeypatch: pytest.MonkeyPatch, listing: Any
) -> None:
    """A file by NNCF looks the same, and means 255 by its scale."""
    foreign, _ = built_by(listing, monkeypatch, quantised(uint8=True))
    (note,) = foreign.notes
    assert note.startswith("TensorRT reads uint8 as int8: values above 127 steps are clipped")
    assert "meant for 255" in note
    assert "(1 uint8 QuantizeLinear: quantise)" in note
    ours, _ = built_by(listing, monkeypatch, quantised(uint8=True)._replace(conversion=OURS))
    assert ours.notes == ()
    signed, _ = built_by(listing, monkeypatch, quantised())
    assert signed.notes == ()


def test_nvidias_parser_reads_a_residual_block_and_its_warnings_of_uint8_are_no_fault(rtx: TensorRT) -> None:
    built = build_plan(rtx, residual()._replace(conversion=OURS), RANGE)
    assert built.plan
    assert built.network.nodes == dict.fromkeys(("conv1", "conv2", "gemm"), "int8")
    assert built.network.totals == {"int8": 3}
    assert count(built, "ELEMENTWISE") == {"int8": 1, "float32": 1}
    assert count(build_plan(rtx, residual(skip_alone=True), RANGE), "ELEMENTWISE") == {"float32": 2}


def test_nvidias_parser_reads_uint8_as_int8(rtx: TensorRT) -> None:
    """Why a file that is not ours gets a note: nothing uint8 is left of it."""
    built = build_plan(rtx, residual(), RANGE)
    assert count(built, "QUANTIZE") == {"int8": 5}
    (note,) = built.notes
    assert "3 uint8 QuantizeLinear" in note


@every_flavour
def test_a_file_of_int8_and_float16_is_counted_as_both(monkeypatch: pytest.MonkeyPatch, listing: Any) -> None:
    built, _ = built_by(listing, monkeypatch, mixed())
    assert built.network.totals == {"int8": 1, "float16": 1}


def test_nvidias_parser_reads_a_file_of_int8_and_float16(rtx: TensorRT) -> None:
    built = build_plan(rtx, mixed(), RANGE)
    assert built.plan
    assert built.network.nodes == {"conv1": "int8", "conv2": "float16"}


def test_int8_data_and_float_weights_make_a_float_layer(rtx: TensorRT) -> None:
    nodes = [*steps("x", "input", "z"), helper.make_node("Conv", ["x", "floats"], ["output"], "conv", pads=[1] * 4)]
    built = build_plan(rtx, used(nodes, (8, 28, 28), floats=np.ones((8, 1, 3, 3), np.float32)), RANGE)
    assert built.network.nodes == {"conv": "float32"}


@pytest.mark.parametrize("quantised_too", [True, False])
def test_a_concatenation_is_int8_only_if_all_its_parts_are(rtx: TensorRT, quantised_too: bool) -> None:
    nodes = [
        *steps("x", "input", "z"),
        helper.make_node("Relu", ["input"], ["relu"], "relu"),
        *steps("y", "relu", "z"),
        helper.make_node("Concat", ["x", "y" if quantised_too else "relu"], ["both"], "concat", axis=1),
        *conv("output", "both", "pairs"),
    ]
    built = build_plan(rtx, used(nodes, (8, 28, 28), pairs=np.ones((8, 2, 3, 3), np.int8)), RANGE)
    assert built.network.nodes == {"output": "int8" if quantised_too else "float32"}
