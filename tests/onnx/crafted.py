"""Hand-made ONNX files with norms, and their export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgekit.bundle.folder import open_bundle
from edgekit.commands.export import export as export_bundle
from edgekit.commands.verify import verify
from edgekit.fold import fold
from edgekit.graphs.trace import output_specs
from edgekit.graphs.write import export_onnx
from edgekit.onnx.read import batch_norms
from edgekit.reports.export import ExportReport
from edgekit.sources import ExportOptions
from tests.fold.checks import spec
from tests.networks import randomise_norms


def unfolded(path: Path, *layers: nn.Module) -> Path:
    """Write an ONNX file of ``layers`` without folding."""
    inputs = spec(4, 8, 8)
    graph, report = fold(randomise_norms(nn.Sequential(*layers)), inputs, fold_bn=False)
    path.write_bytes(export_onnx(graph, report, inputs, output_specs(graph, inputs)))
    return path


def network(path: Path) -> Path:
    return unfolded(
        path,
        nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, groups=2),
        nn.BatchNorm2d(6), nn.Tanh(), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(384, 5), nn.BatchNorm1d(5),
    )  # fmt: skip


def tensor(name: str, *shape: int, low: float = -0.5, high: float = 0.5, dtype: str = "float32") -> onnx.TensorProto:
    rng = np.random.default_rng(sum(name.encode()))
    return numpy_helper.from_array(rng.uniform(low, high, shape).astype(dtype), name)


def statistics(name: str, channels: int, dtype: str = "float32") -> list[onnx.TensorProto]:
    parts = {"s": (0.5, 1.5), "b": (-1, 1), "m": (-1, 1), "v": (0.3, 2)}
    return [tensor(f"{name}.{part}", channels, low=low, high=high, dtype=dtype) for part, (low, high) in parts.items()]


def norm(source: str, output: str, name: str = "bn", extra: Sequence[str] = (), **attributes: Any) -> onnx.NodeProto:
    inputs = [source, *(f"{name}.{part}" for part in "sbmv")]
    return helper.make_node("BatchNormalization", inputs, [output, *extra], name, **attributes)


def conv(source: str = "x", output: str = "c", weight: str = "w", name: str = "conv", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [output], name, **attributes)


def node(kind: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], name or kind.lower(), **attributes)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    stored: Sequence[onnx.TensorProto],
    *,
    shape: Sequence[int | str | None] = ("batch", 4, 8, 8),
    rank: int = 4,
    opset: int = 17,
    ir: int = 8,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model with the input x and the output y."""
    x = helper.make_tensor_value_info("x", kind, list(shape))
    y = helper.make_tensor_value_info("y", kind, [shape[0], *([None] * (rank - 1))])
    graph = helper.make_graph(list(nodes), "graph", [x], [y], list(stored))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def plain(**form: Any) -> onnx.ModelProto:
    """A model of a convolution and its normalisation."""
    return model_of([conv(), norm("c", "y")], [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)], **form)


def export(tmp_path: Path, model: onnx.ModelProto | bytes, **options: Any) -> ExportReport:
    """Export a model through a file; the bundle must verify, and hold the norms that the report says."""
    path = tmp_path / "net.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    report = export_bundle(str(path), tmp_path / "bundle", ExportOptions(**options))
    bundle = open_bundle(tmp_path / "bundle")
    assert batch_norms(onnx.load(bundle.onnx_of())) == len(report.fold.kept)
    assert verify(tmp_path / "bundle", ("ort-cpu",)).passed
    assert report.exported_error <= bundle.variant().allowance.tolerance.atol + bundle.variant().allowance.tolerance.rtol
    if report.original_error is not None and report.fold.folded:
        assert report.fold.error_float64 is not None
        assert report.fold.error_float64 <= 1e-13
    return report


def codes(report: ExportReport) -> dict[str, str]:
    return {norm.norm: norm.obstacles[0].code for norm in report.fold.kept}


def folds(report: ExportReport) -> dict[str, tuple[str, ...]]:
    return {fold.norm: fold.into for fold in report.fold.folded}
