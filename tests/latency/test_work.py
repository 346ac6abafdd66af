"""The arithmetic of layers, and what the machine reaches beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit.latency.peak
from edgekit.backends.contract import DeviceTimes
from edgekit.backends.fake import FakeSession
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import open_bundle
from edgekit.errors import EngineError
from edgekit.latency.peak import peak_of
from edgekit.latency.work import Known, with_work
from edgekit.onnx.matmul import PRECISIONS, square_product
from edgekit.onnx.read import read_nodes
from edgekit.onnx.run import open_unoptimised
from edgekit.onnx.table import node_macs, onnx_table
from edgekit.reports.layers import LayerLatency, LayersReport, Peak
from edgekit.setups import Setup
from edgekit.tensors import sample_feed
from tests.latency.turned_clock import Clock

PEAK = Peak("float32", 100.0, 512)


def report(*layers: LayerLatency, batch: int = 2) -> LayersReport:
    return LayersReport("ort-cpu", batch, 5, 1.0, layers, Setup("ort-cpu"))


def layer(name: str, *nodes: str, ms: float = 1.0) -> LayerLatency:
    return LayerLatency(name, "Conv", nodes, ms, 0.5)


KNOWN = Known(
    {"conv": 1_000_000, "relu": 0, "gemm": 500_000, "free": None}, {"conv": "features.0", "relu": "features.1", "gemm": ""}
)


def test_a_layer_does_the_arithmetic_of_its_nodes_for_the_whole_batch() -> None:
    told = with_work(report(layer("a", "conv", "relu", ms=0.5), layer("b", "gemm")), KNOWN, [PEAK])
    assert [one.macs for one in told.layers] == [2_000_000, 1_000_000]
    assert [one.gflops for one in told.layers] == [8.0, 2.0]
    assert [one.modules for one in told.layers] == [("features.0", "features.1"), ()]
    assert told.peaks == (PEAK,)


def test_arithmetic_that_is_not_known_is_not_told() -> None:
    """A size that is free, a node that is done in two layers, and a layer that the runtime has added."""
    told = with_work(
        report(layer("a", "free"), layer("b", "conv"), layer("c", "conv", "relu"), layer("d"), layer("e", "relu")), KNOWN, []
    )
    assert [one.macs for one in told.layers] == [None, None, None, None, 0]
    assert [one.gflops for one in told.layers] == [None] * 5


def test_the_counts_are_those_of_inspect_and_of_every_node(bundle: Path) -> None:
    path = open_bundle(bundle).files().onnx
    counts = node_macs(path)
    assert list(counts) == [node.name for node in read_nodes(path)]
    assert sum(count or 0 for count in counts.values()) == onnx_table(path).macs > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_product_is_what_it_says(precision: str, tmp_path: Path) -> None:
    content, source, product = square_product(64, precision)
    feed = sample_feed([source], 1)
    weight = np.random.default_rng(0).standard_normal((64, 64)) / 8
    (output,) = open_unoptimised(content, tmp_path / "product.onnx")(feed).values()
    exact = feed["x"].astype(np.float64) @ weight
    error = np.abs(output - exact).max() / np.abs(exact).max()
    assert error < {"float32": 1e-5, "float16": 5e-3, "int8": 0.1}[precision]
    assert error > {"float32": 0, "float16": 1e-5, "int8": 5e-3}[precision]  # it is in that precision and no finer
    assert (str(output.dtype), output.shape) == (product.dtype, product.shape)


def test_the_peak_is_the_fastest_product_that_a_runtime_takes(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 ms for 256 (0.03 GFLOP), 2 ms for 512 (0.27): the middle one is the fastest; 1024 is refused."""
    asked: list[dict[str, Any]] = []

    def open_session(setup: Setup, files: ModelFiles) -> FakeSession:
        size = files.inputs[0].shape[0]
        asked.append(setup.options)
        assert (setup.variant, setup.threads, files.original) == ("", 3, False)
        if size == 1024 or setup.options:
            raise EngineError("no such engine", "build it")
        work = clock.work("product", lambda: {256: 1, 512: 2}[int(size)])

        def function(feed: Any) -> dict[str, np.ndarray]:
            work()
            return {}

        return FakeSession(function, files.inputs, files.outputs)

    monkeypatch.setattr(edgekit.latency.peak, "open_session", open_session)
    found = peak_of(Setup("A", variant="int8", threads=3, batches=(8,), options={"engine": "my.plan"}), "float32", on_gpu=False)
    assert found is not None
    assert (found.precision, found.size) == ("float32", 512)
    assert found.gflops == pytest.approx(2 * 512**3 / 2e6)
    assert asked[:2] == [{"engine": "my.plan"}, {}]
    assert peak_of(Setup("A", threads=3), "bfloat16", on_gpu=False) is None


@pytest.mark.parametrize(("launch_bound", "ms"), [(False, 0.5), (True, 4.0)])
def test_a_device_is_asked_for_its_own_time_unless_the_host_held_it_up(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, launch_bound: bool, ms: float
) -> None:
    class OnDevice(FakeSession):
        def device_times(self, feed: Any, count: int) -> DeviceTimes:
            return DeviceTimes((0.5, 0.6), launch_bound)

    def function(feed: Any) -> dict[str, np.ndarray]:
        clock.work("product", lambda: 4)()
        return {}

    monkeypatch.setattr(
        edgekit.latency.peak, "open_session", lambda setup, files: OnDevice(function, files.inputs, files.outputs)
    )
    monkeypatch.setattr(edgekit.latency.peak, "SIZES_ON_GPU", (128,))
    found = peak_of(Setup("A"), "float32", on_gpu=True)
    assert found is not None
    assert found.gflops == pytest.approx(2 * 128**3 / ms / 1e6)


@pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
def test_a_runtime_reaches_something_in_each_precision(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgekit.latency.peak, "SIZES", (64,))
    monkeypatch.setattr(edgekit.latency.peak, "SECONDS", 0.001)
    for precision in PRECISIONS:
        found = peak_of(Setup(backend, threads=1), precision, on_gpu=False)
        assert found is not None
        assert (found.precision, found.size) == (precision, 64)
        assert found.gflops > 0
