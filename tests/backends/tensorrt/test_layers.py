"""Times by layer on TensorRT, told in ONNX nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit.latency.peak
from edgekit.backends import open_session
from edgekit.backends.contract import ByLayer
from edgekit.backends.tensorrt.flavour import find
from edgekit.backends.tensorrt.session import TensorRTSession, _layer_times
from edgekit.bundle.folder import open_bundle
from edgekit.commands.bench import bench
from edgekit.commands.further import Further
from edgekit.errors import EngineError, UsageError
from edgekit.latency.layers import layers_report, nodes_of
from edgekit.latency.loop import Timing
from edgekit.onnx.read import Node, read_nodes
from edgekit.reports.build import EngineLayer
from edgekit.setups import Setup
from edgekit.tensors import BatchRange
from tests.backends.tensorrt.opened import SECONDS, engine_of, feed_of, truth
from tests.fake_trt import FakeTensorRT
from tests.trt_listing import LISTINGS
from tests.ways import way, ways

pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.version)
@pytest.mark.parametrize("graph", [False, True])
def test_layers_are_told_in_the_names_of_onnx_nodes_on_every_flavour(
    listing: Any, graph: bool, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    fake = FakeTensorRT(listing).install_with_cuda(monkeypatch)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.NAMES", (listing.flavour.name,))
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": "8.6"})
    fake.information = json.dumps(
        {
            "Layers": [
                {"Name": "Reformatting CopyNode for Input Tensor 0 to node_conv2d", "LayerType": "Reformat"},
                {
                    "Name": "__myl_Conv0",
                    "LayerType": "kgen",
                    "Metadata": "[ONNX Layer: node_conv2d]\x1f[ONNX Layer: node_sigmoid]",
                },
                {"Name": "node_conv2d_1 + PWN(node_sigmoid_1)", "LayerType": "CaskConvolution"},
                {"Name": "(Unnamed Layer* 12) [Shuffle]", "LayerType": "NoOp"},
                {"Name": "__mye_reorder", "LayerType": "Reformat", "Metadata": "[ONNX Layer: node_conv2d_1]"},
            ]
        }
    )
    with open_session(way("tensorrt", cuda_graph=graph), open_bundle(bundle).files()) as opened:
        feed = feed_of(opened, 2)
        bound = opened.bind(feed)
        bound()
        assert isinstance(opened, ByLayer)
        layers = opened.layer_times(feed, 3)
        contexts = fake.contexts
        # the profiler is gone, and earlier calls find a context again
        bound()
        np.testing.assert_allclose(opened.run(feed)["output"], truth(bundle, feed), rtol=1e-5, atol=1e-6)
        assert fake.contexts == contexts + 1
    assert fake.cuda.left == {}
    assert [layer.ms for layer in layers] == [(0.5 * place,) * 3 for place in (1, 2, 3, 4, 5)]
    nodes = read_nodes(open_bundle(bundle).onnx_of())
    rows = layers_report("tensorrt", Setup("tensorrt"), 2, layers, nodes).layers
    assert [(layer.operator, layer.nodes) for layer in rows] == [
        ("Reformat", ()),
        ("kgen", ("node_conv2d", "node_sigmoid")),
        ("CaskConvolution", ("node_conv2d_1", "node_sigmoid_1")),
        ("NoOp", ()),
        ("Reformat", ()),
    ]


def test_a_nameless_node_is_found_by_its_output_and_one_that_is_really_called_so_by_its_name() -> None:
    """TensorRT's parser calls a node without a name after its output, and edgekit reads such a node as named like its output."""
    nodes = [
        Node("t0", "Conv", ("x",), ("t0",)),
        Node("node_of_mine", "Softmax", ("t0",), ("t1",)),
        Node("t2", "Gemm", ("t1",), ("t2",)),
    ]
    described = {
        "__myl_Conv": EngineLayer("__myl_Conv", kind="kgen", onnx_nodes=("node_of_t0",)),
        "__myl_Soft": EngineLayer("__myl_Soft", kind="kgen", onnx_nodes=("node_of_mine",)),
    }
    # the last one is described by its name alone, as by TensorRT 8.6
    times = _layer_times([{"__myl_Conv": 1.0, "__myl_Soft": 2.0, "node_of_t2 + bias": 3.0}], described)
    assert nodes_of(times, nodes) == [("t0",), ("node_of_mine",), ("t2",)]
    assert [layer.ms for layer in times] == [(1.0,), (2.0,), (3.0,)]


def test_layers_that_tensorrt_does_not_tell_are_one_sentence_and_nothing_is_left(ten: FakeTensorRT, bundle: Path) -> None:
    with open_session(way("tensorrt"), open_bundle(bundle).files()) as opened:
        assert isinstance(opened, ByLayer)
        ten.fails = "report"
        with pytest.raises(EngineError, match=r"cannot tell what its layers take: there is nothing to report; ") as caught:
            opened.layer_times(feed_of(opened, 1), 2)
        assert "\n" not in str(caught.value)
        del caught  # its traceback holds the context
        ten.fails = ""
        feed = feed_of(opened, 1)
        np.testing.assert_allclose(opened.run(feed)["output"], truth(bundle, feed), rtol=1e-5, atol=1e-6)
    assert ten.cuda.left == {}
    with pytest.raises(UsageError, match="closed"):
        opened.layer_times(feed, 1)


def test_layers_are_told_on_any_profile(ten: FakeTensorRT, bundle: Path) -> None:
    built = engine_of(bundle, BatchRange(1, 1, 1), BatchRange(8, 8, 8))
    with TensorRTSession.open(open_bundle(bundle).files(), find(), built) as backend:
        one, eight = backend.bind(feed_of(backend, 1)), backend.bind(feed_of(backend, 8))
        contexts = ten.contexts
        assert {layer.ms for layer in backend.layer_times(feed_of(backend, 8), 2)} >= {(4.0, 4.0)}
        one()
        assert ten.contexts == contexts + 1  # the other profile kept its own
        eight()
    assert ten.cuda.left == {}


def test_bench_tells_the_layers_of_an_engine(ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgekit.latency.peak, "SIZES_ON_GPU", (128,))  # the stand-in multiplies on a CPU
    report = bench(bundle, ways("ort-cpu", "tensorrt"), Timing(batches=(1, 8), seconds=SECONDS), further=Further(layers=True))
    assert [(layer.backend, layer.batch) for layer in report.layers] == [
        (kind, batch) for kind in ("ort-cpu", "tensorrt") for batch in (1, 8)
    ]
