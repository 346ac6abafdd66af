"""The file decides in which precision the network computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekit.backends.tensorrt.builder import build_plan
from edgekit.backends.tensorrt.flavour import TensorRT
from edgekit.backends.tensorrt.judgement import Inspected, judge
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.backends.tensorrt.precision import NetworkLayers, network_layers
from edgekit.commands.build import build
from edgekit.reports.build import BuildReport, LayerCount
from tests.backends.tensorrt.builds import RANGE, precision_of
from tests.networks import lenet
from tests.onnx_files import crafted, half, quantised
from tests.ways import building


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_network_computes_in_the_precision_of_the_file(rtx: TensorRT, precision: str) -> None:
    model = quantised() if precision == "int8" else lenet()
    model = half(model) if precision == "float16" else model
    network = build_plan(rtx, model, RANGE).network
    layers = network.counts
    computing = {layer.precision for layer in layers if layer.kind in ("CONVOLUTION", "MATRIX_MULTIPLY")}
    assert computing == {precision}
    assert judge(precision, rtx.flavour, network, Inspected(None, "no GPU"), False).problems == ()
    # NVIDIA's own parser says which node each of its layers is
    computing = {node.name for node in onnx.load_model_from_string(model.content).graph.node if node.op_type in ("Conv", "Gemm")}
    assert network.nodes == dict.fromkeys(computing, precision)
    for other in {"float32", "float16"} - {precision} if precision != "int8" else ():
        report = judge(other, rtx.flavour, network, Inspected(None, "no GPU"), False)
        assert f"{other} was asked for, and the network computes in {precision}" in report.problems


def test_a_quantised_file_goes_the_whole_way_to_an_engine(tmp_path: Path, rtx: TensorRT) -> None:
    """Its numbers are stored in floats for the most part, and that is what its bundle says; its layers are int8."""
    from edgekit.commands.export import export as export_bundle

    (tmp_path / "model.onnx").write_bytes(quantised().content)
    export_bundle(str(tmp_path / "model.onnx"), tmp_path / "bundle")
    report = build(tmp_path / "bundle", building(flavour="tensorrt-rtx"))
    assert report.passed
    assert (precision_of(report).asked, precision_of(report).found) == ("int8, quantised", ("int8",))


@pytest.mark.parametrize("between", ["MaxPool", "Flatten"])
def test_what_leaves_the_numbers_as_they_are_may_stand_behind_a_quantiser(rtx: TensorRT, between: str) -> None:
    weights = np.ones((4, 1, 3, 3) if between == "MaxPool" else (784, 4), np.int8)
    more: dict[str, Any] = {"kernel_shape": [1, 1]} if between == "MaxPool" else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], name="dequantise"),
        helper.make_node(between, ["x"], ["between"], name="between", **more),
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["w"], name="dequantise_weights"),
        helper.make_node("Conv" if between == "MaxPool" else "MatMul", ["between", "w"], ["output"], name="multiply"),
    ]
    stored = {"scale": np.float32(0.1), "zero": np.int8(0), "weights": weights}
    built = build_plan(rtx, crafted(nodes, stored, (4, 26, 26) if between == "MaxPool" else (4,)), RANGE)
    assert built.network.nodes == {"multiply": "int8"}


def test_a_report_without_a_gpu_says_that_it_read_the_network_and_not_the_engine(bundle: Path, rtx: TensorRT) -> None:
    report = build(bundle, building(flavour="tensorrt-rtx"))
    assert precision_of(report).read_from == "network"
    assert precision_of(report).note.startswith("read off the network, not off the engine: ")
    assert precision_of(report).typing.startswith("strongly typed")
    assert report.facts["TF32"] == "off"
    assert BuildReport.from_json(report.to_json()) == report
    assert build(bundle, building(flavour="tensorrt-rtx", options=BuildOptions(tf32=True))).facts["TF32"] == "on"


def test_layers_without_outputs_are_counted_all_the_same() -> None:
    class Layer:
        type, num_outputs, name = type("T", (), {"name": "ASSERTION"}), 0, "check"

    class Network:
        num_layers = 1

        def get_layer(self, index: int) -> Layer:
            return Layer()

    assert network_layers(Network(), {}) == NetworkLayers((LayerCount("ASSERTION", "", 1),), {})
