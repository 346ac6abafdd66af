"""The tensors and operators that an ONNX file holds, and how far those of two files are apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from edgekit.onnx.read import DESCRIBED, read_onnx
from edgekit.reports.diff import TensorDiff
from edgekit.tensors import Array, shape_text


def compare_weights(variant: str, first: Path, second: Path) -> tuple[tuple[TensorDiff, ...], Mapping[str, tuple[int, int]]]:
    """The tensors in which two files of a variant differ, and operator -> its nodes in each, where these counts differ.

    Raises BundleError for a file that is no network.
    """
    models = read_onnx(first, DESCRIBED), read_onnx(second, DESCRIBED)
    tensors = tuple(dict(_tensors(model)) for model in models)
    operators = tuple(Counter(node.op_type for node in model.graph.node) for model in models)
    counts = {name: (operators[0][name], operators[1][name]) for name in sorted({*operators[0], *operators[1]})}
    names = dict.fromkeys((*tensors[0], *tensors[1]))
    rows = (_compare(variant, name, tensors[0].get(name), tensors[1].get(name)) for name in names)
    return tuple(filter(None, rows)), {name: both for name, both in counts.items() if both[0] != both[1]}


def _tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Name -> tensor: those that are stored, and those of Constant nodes by the names of their outputs."""
    yield from ((tensor.name, tensor) for tensor in model.graph.initializer)
    for node in model.graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")


def _compare(variant: str, name: str, first: onnx.TensorProto | None, second: onnx.TensorProto | None) -> TensorDiff | None:
    """How two tensors differ; None where they do not."""
    if first is None or second is None:
        here = first or second
        assert here is not None
        return TensorDiff(variant, name, "only in A" if second is None else "only in B", _shape(here))
    if first.data_type != second.data_type or tuple(first.dims) != tuple(second.dims):
        return TensorDiff(variant, name, "another type or shape", f"{_shape(first)} -> {_shape(second)}")
    a, b = numpy_helper.to_array(first), numpy_helper.to_array(second)
    if a.dtype == object:  # texts
        return None if a.tolist() == b.tolist() else TensorDiff(variant, name, "changed", _shape(first))
    if a.tobytes() == b.tobytes():
        return None
    return _distance(variant, name, _shape(first), (a, b))


def _distance(variant: str, name: str, shape: str, both: tuple[Array, Array]) -> TensorDiff:
    """max|a - b|, the same over max|a|, and the share of elements that differ; the first two None where they are no numbers."""
    differs = np.frombuffer(both[0].tobytes(), f"V{both[0].itemsize}") != np.frombuffer(both[1].tobytes(), f"V{both[0].itemsize}")
    share = float(differs.mean())
    a, b = (array.astype(np.float64) for array in both)
    with np.errstate(invalid="ignore", over="ignore"):
        largest, scale = float(np.abs(a - b).max()), float(np.abs(a).max())
    if not np.isfinite(largest) or not np.isfinite(scale):
        return TensorDiff(variant, name, "changed", shape, None, None, share)
    return TensorDiff(variant, name, "changed", shape, largest, largest / scale if scale else None, share)


def _shape(tensor: onnx.TensorProto) -> str:
    return f"{onnx.TensorProto.DataType.Name(tensor.data_type).lower()} {shape_text(tuple(tensor.dims)) or 'number'}"
