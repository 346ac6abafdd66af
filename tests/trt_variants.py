"""Variants of a bundle written by hand; needs neither PyTorch nor ONNX Runtime, so a board can run what uses them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.manifest import Allowance, Calibration, Conversion, Variant
from edgekit.bundle.variants import VariantDraft, outputs_to_npz, with_variant
from edgekit.onnx.rewire import with_outputs
from edgekit.reports.quantize import KeptNode
from edgekit.tensors import Array
from edgekit.tolerance import Tolerance
from tests.onnx_files import reference_outputs

LAYERS = ("Conv", "Gemm")
SAMPLES = 4
"""Golden inputs by which ranges are taken."""


def int8_model(bundle: Bundle, kept: Sequence[str] = (), largest: int = 127) -> onnx.ModelProto:
    """The first file with Q/DQ on what its layers read but those of ``kept``: the portable spelling.

    ``largest`` is the code of the largest value: 255 is for runtimes that read uint8 as uint8 alone.
    """
    model = onnx.load_from_string(bundle.onnx_bytes())
    values, stored = _values(bundle, model), {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, rounded = list[onnx.NodeProto](), set[str]()
    for node in model.graph.node:
        if node.op_type in LAYERS and node.name not in kept:
            data, weight = node.input[0], numpy_helper.to_array(stored[node.input[1]])
            if data not in rounded:
                rounded.add(data)
                nodes += _steps(model, data, values[data], largest)
            nodes.append(_weight(model, node.input[1], weight))
            node.input[0], node.input[1] = f"{data}.read", f"{node.input[1]}.read"
        nodes.append(node)
    return _with_nodes(model, nodes)


def _values(bundle: Bundle, model: onnx.ModelProto) -> dict[str, Array]:
    feed = {name: array[:SAMPLES] for name, array in bundle.golden().inputs.items()}
    names = [node.input[0] for node in model.graph.node if node.op_type in LAYERS and node.input[0] not in feed]
    shown = onnx.load_from_string(with_outputs(bundle.onnx_bytes(), names))
    values = reference_outputs(shown, feed)[-len(names) :] if names else []
    return {**feed, **dict(zip(names, values, strict=True))}


def _steps(model: onnx.ModelProto, data: str, values: Array, largest: int) -> list[onnx.NodeProto]:
    signed = bool(values.min() < 0)
    scale = np.float32(np.abs(values).max() / (127 if signed else largest))
    _store(model, {f"{data}.scale": scale, f"{data}.zero": np.int8(0) if signed else np.uint8(0)})
    parts = [f"{data}.scale", f"{data}.zero"]
    return [
        helper.make_node("QuantizeLinear", [data, *parts], [f"{data}.codes"], f"{data}.quantise"),
        helper.make_node("DequantizeLinear", [f"{data}.codes", *parts], [f"{data}.read"], f"{data}.dequantise"),
    ]


def _weight(model: onnx.ModelProto, name: str, weight: Array) -> onnx.NodeProto:
    scales = (np.abs(weight).reshape(len(weight), -1).max(1) / 127).astype(np.float32)
    codes = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
    _store(model, {f"{name}.codes": codes, f"{name}.scale": scales, f"{name}.zero": np.zeros(len(scales), np.int8)})
    parts = [f"{name}.codes", f"{name}.scale", f"{name}.zero"]
    return helper.make_node("DequantizeLinear", parts, [f"{name}.read"], f"{name}.dequantise", axis=0)


def half_model(bundle: Bundle, wide: Sequence[str] = ()) -> onnx.ModelProto:
    """The first file with layers in float16 but those of ``wide``, with a Cast before and behind each."""
    model = onnx.load_from_string(bundle.onnx_bytes())
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = list[onnx.NodeProto]()
    for node in model.graph.node:
        if node.op_type in LAYERS and node.name not in wide:
            for name in node.input[1:]:
                narrow = numpy_helper.to_array(stored[name]).astype(np.float16)
                stored[name].CopyFrom(numpy_helper.from_array(narrow, name))
            data, output = f"{node.input[0]}.{node.name}.half", f"{node.output[0]}.half"
            nodes.append(helper.make_node("Cast", [node.input[0]], [data], f"{data}.cast", to=TensorProto.FLOAT16))
            behind = helper.make_node("Cast", [output], [node.output[0]], f"{output}.cast", to=TensorProto.FLOAT)
            node.input[0], node.output[0] = data, output
            nodes += [node, behind]
        else:
            nodes.append(node)
    return _with_nodes(model, nodes)


def _store(model: onnx.ModelProto, arrays: dict[str, Any]) -> None:
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items())


def _with_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """The model with other nodes, without the tensors and types of values that they do not read."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(copies)
    read = {name for node in copies for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return model


def layers_of(bundle: Bundle) -> list[str]:
    """The names of the layers of the first file."""
    return [node.name for node in onnx.load_from_string(bundle.onnx_bytes()).graph.node if node.op_type in LAYERS]


def with_file(
    root: Path,
    precision: str,
    model: onnx.ModelProto,
    converted: int,
    kept: Sequence[str] = (),
    allowance: Allowance | None = None,
) -> Bundle:
    """The bundle at ``root`` with ``model`` as one more variant, whose manifest says ``converted`` and ``kept``."""
    bundle = open_bundle(root)
    calibration = Calibration("golden inputs", SAMPLES, "0" * 64, "minmax") if precision == "int8" else None
    conversion = Conversion(
        f"{precision}.npz",
        converted,
        tuple(KeptNode(node, "Gemm", "", "named to be kept") for node in kept),
        calibration=calibration,
    )
    allowed = allowance or Allowance(Tolerance(atol=0.0, rtol=0.1, top1=0.0), snr_db=10.0)
    variant = Variant(precision, f"{precision}.onnx", precision, allowed, made_by={"command": "quantize"}, conversion=conversion)
    own = reference_outputs(model, bundle.golden().inputs)
    outputs = {spec.name: array for spec, array in zip(bundle.manifest.outputs, own, strict=True)}
    files = {f"{precision}.onnx": model.SerializeToString(), f"{precision}.npz": outputs_to_npz(outputs)}
    return with_variant(bundle, VariantDraft(variant, files), root)


def with_both(root: Path) -> Bundle:
    """The bundle at ``root`` with an int8 and a float16 variant, in each of which one layer was kept in float32."""
    bundle = open_bundle(root)
    *others, last = layers_of(bundle)
    with_file(root, "int8", int8_model(bundle, [last]), len(others), [last])
    return with_file(root, "float16", half_model(bundle, [last]), len(others), [last])
