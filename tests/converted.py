"""Variants of a bundle in int8 and float16, written by hand as ``edgekit quantize`` would, and faults in such files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.manifest import Allowance, Calibration, Conversion, Variant
from edgekit.bundle.ranges import RangeTable, TensorRange
from edgekit.bundle.variants import VariantDraft, outputs_to_npz, with_variant
from edgekit.onnx.run import open_every_value, open_unoptimised
from edgekit.parity.compare import compare_output
from edgekit.parity.inputs import Recorded
from edgekit.tensors import Array
from edgekit.tolerance import Tolerance

LAYERS = ("Conv", "Gemm")
Change = Callable[[onnx.ModelProto], object]


def int8_model(bundle: Bundle) -> onnx.ModelProto:
    """The first file with Q/DQ around what its layers read: codes up to 127, zero points 0, weights by output channel."""
    model = onnx.load_from_string(bundle.onnx_bytes())
    first = bundle.manifest.golden.parts[0].samples
    feed = {name: array[:first] for name, array in bundle.golden().inputs.items()}
    values = {**feed, **open_every_value(model, Path("model.onnx"))(feed)}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, made = list[onnx.NodeProto](), set[str]()
    for node in model.graph.node:
        if node.op_type in LAYERS:
            data, weight = node.input[0], numpy_helper.to_array(stored[node.input[1]])
            kind = np.uint8 if values[data].min() >= 0 else np.int8
            scale = np.float32(np.abs(values[data]).max() / 127)
            if data not in made:
                nodes += _steps(model, data, data, np.asarray(scale), kind)
                made.add(data)
            scales = (np.abs(weight).reshape(len(weight), -1).max(1) / 127).astype(np.float32)
            codes = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
            name = node.input[1]
            _store(model, f"{name}.codes", codes)
            _store(model, f"{name}.scale", scales)
            _store(model, f"{name}.zero", np.zeros(len(scales), np.int8))
            parts = [f"{name}.codes", f"{name}.scale", f"{name}.zero"]
            nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}.read"], f"{name}.dequantize", axis=0))
            model.graph.initializer.remove(stored.pop(name))
            node.input[0], node.input[1] = f"{data}.read", f"{name}.read"
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _store(model: onnx.ModelProto, name: str, array: Array) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))


def _steps(model: onnx.ModelProto, name: str, data: str, scale: Array, kind: type[Any]) -> list[onnx.NodeProto]:
    _store(model, f"{name}.scale", scale)
    _store(model, f"{name}.zero", np.zeros((), kind))
    parts = [f"{name}.scale", f"{name}.zero"]
    return [
        helper.make_node("QuantizeLinear", [data, *parts], [f"{name}.codes"], f"{name}.quantize"),
        helper.make_node("DequantizeLinear", [f"{name}.codes", *parts], [f"{name}.read"], f"{name}.dequantize"),
    ]


def float16_model(bundle: Bundle) -> onnx.ModelProto:
    """The first file with weights in float16 and casts at its borders."""
    model = onnx.load_from_string(bundle.onnx_bytes())
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    del graph.value_info[:]
    inputs, outputs = [value.name for value in graph.input], [value.name for value in graph.output]
    for node in graph.node:
        node.input[:] = [f"{name}.half" if name in inputs else name for name in node.input]
        node.output[:] = [f"{name}.half" if name in outputs else name for name in node.output]
    nodes = [helper.make_node("Cast", [name], [f"{name}.half"], f"{name}.cast", to=TensorProto.FLOAT16) for name in inputs]
    nodes += list(graph.node)
    nodes += [helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.cast", to=TensorProto.FLOAT) for name in outputs]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return model


MODELS = {"int8": int8_model, "float16": float16_model}
SPARE_DB = 3.0


def convert(root: Path, precision: str, change: Change = id, **fields: Any) -> Bundle:
    """The bundle at ``root`` with one more variant of ``precision``, whose allowance is that of the unchanged file.

    ``change`` makes a fault in the file before its own outputs are recorded; ``fields`` replace those of its conversion.
    """
    bundle = open_bundle(root)
    sound, model = MODELS[precision](bundle), MODELS[precision](bundle)
    change(model)
    honest, own = (_run(each, bundle) for each in (sound, model))
    layers = sum(node.op_type in LAYERS for node in model.graph.node)
    calibration = Calibration("golden pictures", bundle.manifest.golden.parts[0].samples, "0" * 64, "minmax")
    conversion = Conversion(f"{precision}.npz", layers)
    files = {f"{precision}.onnx": model.SerializeToString(), f"{precision}.npz": outputs_to_npz(own)}
    if precision == "int8":
        conversion = msgspec.structs.replace(conversion, calibration=calibration, ranges="int8.json")
        files["int8.json"] = msgspec.json.encode(_table(model, calibration))
    variant = Variant(
        precision,
        f"{precision}.onnx",
        precision,
        _allowance(bundle, honest),
        Recorded(bundle.golden(), bundle.manifest.golden.parts).error(own),
        made_by={"command": "quantize"},
        conversion=msgspec.structs.replace(conversion, **fields),
    )
    return with_variant(bundle, VariantDraft(variant, files), root)


def _table(model: onnx.ModelProto, calibration: Calibration) -> RangeTable:
    """The ranges that the file's scales stand for."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    rows = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            limit, dtype = 127 * arrays[node.input[1]].item(), str(arrays[node.input[2]].dtype)
            rows.append(TensorRange(node.input[0], 0.0, limit, limit, dtype, node.input[0]))
    return RangeTable(calibration, bias_correction=False, tensors=tuple(rows))


def _run(model: onnx.ModelProto, bundle: Bundle) -> dict[str, Array]:
    return open_unoptimised(model, Path("model.onnx"))(bundle.golden().inputs)


def _allowance(bundle: Bundle, own: dict[str, Array]) -> Allowance:
    """Twice the error of the file on the first part, three decibels less than it has, and three steps."""
    first = bundle.manifest.golden.parts[0].samples
    diffs = [
        compare_output(name, own[name][:first], reference[:first], Tolerance(top1=0.0))
        for name, reference in bundle.golden().float64.items()
    ]
    top1 = min(diff.top1 for diff in diffs if diff.top1 is not None)
    rtol = max(diff.normalised for diff in diffs)
    snr = min(diff.snr_db for diff in diffs if diff.snr_db is not None)
    return Allowance(Tolerance(atol=0, rtol=2 * rtol, top1=top1), snr_db=snr - SPARE_DB, steps=3.0, rounding=0.5)


def changed(root: Path, file: str, change: Change) -> bytes:
    """The content of a bundle's ``file`` after a change."""
    model = onnx.load(root / file)
    change(model)
    content: bytes = model.SerializeToString()
    return content


def stored(model: onnx.ModelProto, name: str, change: Callable[[Array], Array]) -> None:
    """Replace a stored tensor."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), name))


def _doubled_scale(model: onnx.ModelProto) -> None:
    stored(model, "4.weight.scale", lambda scales: scales * np.float32(2))


def _swapped_zero(model: onnx.ModelProto) -> None:
    stored(model, "sigmoid_2.zero", lambda zero: np.full_like(zero, 128))
    for node in model.graph.node:
        if node.name == "sigmoid_2.dequantize":  # what one node adds, the other does not take away
            _store(model, "other.zero", np.zeros((), np.uint8))
            node.input[2] = "other.zero"


def _all_255_codes(model: onnx.ModelProto) -> None:
    """Codes of 255 steps in a signed type: all above a half saturate."""
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            stored(model, node.input[1], lambda scale: scale * np.float32(127 / 255))
            stored(model, node.input[2], lambda zero: zero.astype(np.int8))


def _other_axis(model: onnx.ModelProto) -> None:
    """The scales of output channels on the input channels, as far as there are as many of them."""
    stored(model, "4.weight.scale", lambda scales: np.resize(scales, 6))
    stored(model, "4.weight.zero", lambda zeros: zeros[:6])
    node = next(node for node in model.graph.node if node.name == "4.weight.dequantize")
    node.attribute[0].i = 1


def _changed_row(model: onnx.ModelProto) -> None:
    def change(codes: Array) -> Array:
        codes = codes.copy()
        codes[3] = codes[4]
        return codes

    stored(model, "15.weight.codes", change)


FAULTS: dict[str, Change] = {
    "a scale x2": _doubled_scale,
    "a zero point swapped": _swapped_zero,
    "absmax/255 where 127 was meant": _all_255_codes,
    "a scale on the wrong axis": _other_axis,
    "one weight row changed": _changed_row,
}


def copied(repository: Path, place: Path, name: str = "lenet") -> Path:
    """A copy of a committed bundle."""
    return Path(shutil.copytree(repository / "exported" / name, place / name))
