"""The ONNX nodes that the metadata of TensorRT's layers name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.backends.tensorrt.inspector import engine_layers
from edgekit.backends.tensorrt.runtime import layer_profiler
from edgekit.onnx.read import read_nodes


@pytest.mark.parametrize(
    ("metadata", "nodes"),
    [
        ("[ONNX Layer: conv]", ("conv",)),
        ("[ONNX Layer: conv]\x1f[ONNX Layer: relu]", ("conv", "relu")),
        ("[ONNX Layer: conv]\x1e[ONNX Layer: relu]", ("conv", "relu")),
        ("[ONNX Layer: conv][ONNX Layer: conv]", ("conv",)),
        ("[ONNX Layer: conv | outer (pkg.Block)]\x1f[ONNX Layer: /a/b.0/relu[1]]", ("conv", "/a/b.0/relu[1]")),
        ("", ()),
        ("anything else", ()),
    ],
)
def test_metadata_names_onnx_nodes(metadata: str, nodes: tuple[str, ...]) -> None:
    (found,) = engine_layers(json.dumps({"Layers": [{"Name": "k", "LayerType": "CaskConvolution", "Metadata": metadata}]}))
    assert (found.onnx_nodes, found.kind) == (nodes, "CaskConvolution")


def test_what_tensorrts_own_parser_keeps_names_every_node(bundle: Path) -> None:
    """The metadata of a network's layers is what an engine's layers are described with; it takes no GPU to read."""
    api = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    logger = api.Logger(api.Logger.ERROR)
    builder = api.Builder(logger)
    network = builder.create_network(0)
    parser = api.OnnxParser(network, logger)
    assert parser.parse((bundle / "model.onnx").read_bytes())
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    document = {"Layers": [{"Name": layer.name, "Metadata": layer.metadata} for layer in layers]}
    named = {name for layer in engine_layers(json.dumps(document)) for name in layer.onnx_nodes}
    assert named == {node.name for node in read_nodes(bundle / "model.onnx")}


def test_tensorrts_own_profiler_can_be_ours() -> None:
    profiler = layer_profiler(pytest.importorskip("tensorrt_rtx", exc_type=ImportError))
    profiler.report_layer_time("before any call", 9.0)
    profiler.calls.append({})
    profiler.report_layer_time("conv", 0.5)
    profiler.report_layer_time("conv", 0.25)
    assert profiler.calls == [{"conv": 0.75}]
