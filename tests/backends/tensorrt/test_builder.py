"""The builders of every flavour, through a fake that knows only what their listings name."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekit.backends.tensorrt.builder import build_plan, check_options
from edgekit.backends.tensorrt.flavour import find
from edgekit.errors import EngineError, UsageError
from edgekit.tensors import TensorSpec
from tests.backends.tensorrt.builds import RANGE
from tests.fake_trt import FakeTensorRT
from tests.networks import lenet
from tests.onnx_files import crafted, half, quantised
from tests.trt_listing import EIGHT, LISTINGS, TEN


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.version)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_flavour_is_asked_in_its_own_way(monkeypatch: pytest.MonkeyPatch, listing: Any, precision: str) -> None:
    fake = FakeTensorRT(listing).install(monkeypatch)
    flavour = listing.flavour
    model = lenet()
    built = build_plan(find(flavour.name), half(model) if precision == "float16" else model, RANGE)
    ((definition, config),) = fake.builds
    flags = fake.api.NetworkDefinitionCreationFlag
    wanted = (1 << flags.EXPLICIT_BATCH if flavour.explicit_batch else 0) | (
        1 << flags.STRONGLY_TYPED if flavour.strong_typing_flag else 0
    )
    assert definition._flags == wanted
    assert "TF32" not in config._flags
    assert config.profiling_verbosity == fake.api.ProfilingVerbosity.DETAILED
    assert config._profiles == [{"input": [(1, 1, 28, 28), (2, 1, 28, 28), (4, 1, 28, 28)]}]
    if flavour.precision_flags:
        half_asked = precision == "float16"
        assert config._flags == ({"OBEY_PRECISION_CONSTRAINTS", "FP16"} if half_asked else set())
        assert set(fake.layer_types.values()) == ({"HALF"} if half_asked else set())  # float32 alone leaves nothing to choose
        assert not half_asked or len(fake.layer_types) == definition.num_layers
    assert config.__dict__.get("_capabilities") is None  # RTX knows no such GPU: the engine is for those that it knows
    assert {layer.precision for layer in built.network.counts if layer.kind in ("CONVOLUTION", "MATRIX_MULTIPLY")} == {precision}


def test_eight_six_allows_int8_where_the_file_quantises(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(EIGHT).install(monkeypatch)
    built = build_plan(find("tensorrt"), quantised(), RANGE)
    # nothing is asked of a layer between Q and DQ, or TensorRT would not make an int8 layer of it
    assert fake.builds[0][1]._flags == {"INT8"}
    assert fake.layer_types == {}
    assert {layer.precision for layer in built.network.counts if layer.kind == "CONVOLUTION"} == {"int8"}


def test_eight_six_holds_what_is_not_quantised_to_the_files_type_and_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of three precisions: what quantisers feed is free, float16 and float32 are asked for."""
    fake = FakeTensorRT(EIGHT).install(monkeypatch)
    weights = np.ones((4, 1, 3, 3), np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], name="dequantise"),
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["w"], name="dequantise_weights"),
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Cast", ["a"], ["b"], name="narrow", to=TensorProto.FLOAT16),
        helper.make_node("Relu", ["b"], ["c"], name="half"),
        helper.make_node("Cast", ["c"], ["d"], name="widen", to=TensorProto.FLOAT),
        helper.make_node("Relu", ["d"], ["output"], name="single"),
    ]
    stored = {"scale": np.float32(0.1), "zero": np.int8(0), "weights": weights}
    build_plan(find("tensorrt"), crafted(nodes, stored, (4, 26, 26)), RANGE)
    assert fake.builds[0][1]._flags == {"INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert fake.layer_types == {"half": "HALF", "single": "FLOAT"}


def test_eight_six_says_that_it_has_no_int64_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTensorRT(EIGHT).install(monkeypatch)
    model = lenet()
    wide = model._replace(inputs=(*model.inputs, TensorSpec("index", "int64", ("batch",))))
    with pytest.raises(EngineError, match=r"tensorrt 8.6.0 has no int64 inputs .* index of model.onnx .*int32 .*ort-cpu"):
        build_plan(find("tensorrt"), wide, RANGE)


def test_a_timing_cache_that_was_refused_is_not_why_a_build_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    fake.cache_error = "Error Code 1: Serialization (the timing cache is of another device.)"
    fake.build_error = " "
    with pytest.raises(EngineError, match=r"cannot build model.onnx: it does not say why"):
        build_plan(find("tensorrt"), lenet(), RANGE, timing_cache=b"foreign")


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.version)
def test_bindings_that_raise_are_one_sentence(monkeypatch: pytest.MonkeyPatch, listing: Any) -> None:
    fake = FakeTensorRT(listing).install(monkeypatch)
    for step, told in (
        ("set_shape", "build for the batch sizes 1:2:4: Shape provided for min is inconsistent with other shapes"),
        ("build", "build model.onnx: std::bad_alloc"),
        ("plugins", "register its plugins: it does not say why"),
    ):
        fake.fails = step
        with pytest.raises(EngineError, match=f"^{listing.flavour.name} {listing.version} cannot {told}; "):
            build_plan(find(listing.flavour.name), lenet(), RANGE)


def test_options_reach_the_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    options = msgspec.structs.replace(
        RANGE, workspace_mib=64, level=1, hardware_compatible=True, version_compatible=True, tf32=True
    )
    build_plan(find("tensorrt"), lenet(), options)
    config = fake.builds[0][1]
    assert config._flags == {"TF32", "VERSION_COMPATIBLE"}
    assert config._memory == {"WORKSPACE": 64 << 20}
    assert config.builder_optimization_level == 1
    assert config.hardware_compatibility_level == fake.api.HardwareCompatibilityLevel.AMPERE_PLUS


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.version)
def test_every_flavour_names_all_the_nodes_it_refuses(monkeypatch: pytest.MonkeyPatch, listing: Any) -> None:
    FakeTensorRT(listing).install(monkeypatch)
    nodes = [
        helper.make_node("Frobnicate", ["input"], ["a"], name="first", domain="my"),
        helper.make_node("Relu", ["a"], ["b"], name="fine"),
        helper.make_node("Wobble", ["b"], ["output"], name="third", domain="my"),
    ]
    with pytest.raises(
        EngineError,
        match=r"refuses model.onnx: (it reads ONNX up to opset 17, .* opset 20: )?"
        r"Frobnicate \(first\): no such operator, Wobble \(third\): no such",
    ):
        build_plan(find(listing.flavour.name), crafted(nodes, {}, (1, 28, 28)), RANGE)


def test_a_build_that_gives_nothing_is_an_error_with_its_first_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    fake.build_error = "IBuilder::buildSerializedNetwork: Error Code 2: OutOfMemory (Requested size was 9 bytes, out of memory.)"
    with pytest.raises(EngineError, match=r"cannot build model.onnx: Requested size was 9 bytes, out of memory; free some of"):
        build_plan(find("tensorrt"), lenet(), RANGE)


@pytest.mark.parametrize(("level", "accepted"), [(-1, False), (0, True), (5, True), (6, False)])
def test_the_levels_of_optimisation_are_0_to_5(monkeypatch: pytest.MonkeyPatch, level: int, accepted: bool) -> None:
    FakeTensorRT(TEN).install(monkeypatch)
    options = msgspec.structs.replace(RANGE, level=level)
    if accepted:
        check_options(find(TEN.flavour.name), options)
    else:
        with pytest.raises(UsageError, match=f"there is no optimisation level {level}; use 0 to 5"):
            check_options(find(TEN.flavour.name), options)
