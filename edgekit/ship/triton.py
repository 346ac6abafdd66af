"""A model repository for NVIDIA's Triton Inference Server: a folder for each variant, run by its ONNX Runtime backend.

    NAME-VARIANT/config.pbtxt       tensors, batching and warm-up, as Triton's model_config.proto has them
    NAME-VARIANT/1/model.onnx       the variant's file, unchanged
    NAME-VARIANT/labels.txt         the labels of the first output, where the bundle has some
    NAME-VARIANT/warmup/...         golden inputs, raw: Triton runs them before it serves

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import Manifest
from edgekit.errors import BundleError
from edgekit.preprocess import Preprocess
from edgekit.reports.ship import Shipped
from edgekit.ship.places import check_ours, folder_name, raw_bytes, tensor_file, write_ours
from edgekit.tensors import Feed, TensorSpec, batches_of, fixed_batch

CONFIG, LABELS = "config.pbtxt", "labels.txt"
MARK = "# Written by edgekit export --triton"
MOST_BATCH = 32
"""The largest batch that a server may make of requests: the largest that ``edgekit bench`` times unless it is told otherwise."""
TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
}


class Model(NamedTuple):
    """A folder of a model repository: its ``name``, and the bytes of its files by their paths in it."""

    name: str
    files: dict[str, bytes]


def write_triton(bundle: Bundle, repository: Path) -> Shipped:
    """Write a folder for each variant into the model repository, each whole or not at all; other models there stay.

    Raises OutputError for a folder of such a name that edgekit did not write, and BundleError for a dtype that Triton lacks.
    """
    models = [model_of(bundle, variant.name) for variant in bundle.manifest.variants]
    for model in models:
        check_ours(repository / model.name, model.files, CONFIG, MARK.encode())
    for model in models:
        write_ours(repository / model.name, model.files, CONFIG, MARK.encode())
    files = tuple(f"{model.name}/{name}" for model in models for name in sorted(model.files))
    return Shipped("Triton", str(repository), files, f"tritonserver --model-repository={repository}")


def model_of(bundle: Bundle, variant: str) -> Model:
    """The folder of one variant."""
    opened = bundle.files(variant)
    for spec in (*opened.inputs, *opened.outputs):
        _type(spec)  # raises before anything is read
    batch = fixed_batch(opened.inputs)
    name = f"{folder_name(bundle.manifest.name)}-{variant}"
    feed, _ = next(batches_of(bundle.golden(variant).inputs, batch or 1))
    warm_up = {f"warmup/{tensor_file(*named)}": raw_bytes(feed[named[1]]) for named in enumerate(_names(opened.inputs))}
    labels = _labels(bundle.manifest, opened.outputs)
    config = "\n".join(_config(bundle, variant, name, feed, labelled=bool(labels)))
    files = {CONFIG: f"{config}\n".encode(), "1/model.onnx": bundle.onnx_bytes(variant), **warm_up}
    return Model(name, files | ({LABELS: labels} if labels else {}))


def _config(bundle: Bundle, variant: str, name: str, feed: Feed, *, labelled: bool) -> Iterator[str]:
    opened = bundle.files(variant)
    batch = fixed_batch(opened.inputs)
    yield f"{MARK}, from the bundle {folder_name(bundle.manifest.name)} with a manifest.json of sha256 {bundle.sha256}"
    for runtime, release in opened.floor.items():
        yield f"# needs {folder_name(runtime)} {folder_name(release)} or newer"
    yield f"name: {_quoted(name)}"
    yield 'backend: "onnxruntime"'
    yield f"max_batch_size: {MOST_BATCH if batch is None else 0}"
    for spec in opened.inputs:
        yield from _tensor("input", spec, batch, _picture_format(bundle, variant, spec, batch))
    for index, spec in enumerate(opened.outputs):
        yield from _tensor("output", spec, batch, [f"label_filename: {_quoted(LABELS)}"] if labelled and not index else [])
    if batch is None:
        yield "dynamic_batching { }"
    for size in (1, MOST_BATCH) if batch is None else (1,):
        yield from _warm_up(opened.inputs, feed, batch, size)


def _tensor(kind: str, spec: TensorSpec, batch: int | None, more: Sequence[str]) -> Iterator[str]:
    """One input or output. Where the server makes batches, ``dims`` are those of one sample, and no dims are written as one."""
    dims = _dims(spec, batch)
    yield f"{kind} {{"
    yield f"  name: {_quoted(spec.name)}"
    yield f"  data_type: {_type(spec)}"
    yield f"  dims: {list(dims or (1,))}"
    if not dims:
        yield "  reshape { shape: [ ] }"
    yield from (f"  {line}" for line in more)
    yield "}"


def _warm_up(inputs: Sequence[TensorSpec], feed: Feed, batch: int | None, size: int) -> Iterator[str]:
    """Golden inputs before the first request; Triton repeats them to a batch of ``size``."""
    yield "model_warmup {"
    yield f"  name: {_quoted(f'golden inputs, batch {batch or size}')}"
    yield f"  batch_size: {size}"
    for index, spec in enumerate(inputs):
        shape = feed[spec.name].shape
        dims = list((shape if batch else shape[1:]) or (1,))
        value = f"data_type: {_type(spec)} dims: {dims} input_data_file: {_quoted(tensor_file(index, spec.name))}"
        yield f"  inputs {{ key: {_quoted(spec.name)} value {{ {value} }} }}"
    yield "}"


def _dims(spec: TensorSpec, batch: int | None) -> tuple[int, ...]:
    """The dims as Triton counts them: without the batch that the server makes; -1 is a free axis."""
    axes = spec.shape[1:] if batch is None else spec.shape
    return tuple(-1 if isinstance(axis, str) else axis for axis in axes)


def _picture_format(bundle: Bundle, variant: str, spec: TensorSpec, batch: int | None) -> list[str]:
    """The layout of a picture: Triton takes one with tensors of three dims only."""
    intake = bundle.variant(variant).intake(bundle.manifest.preprocess)
    if intake is None or len(_dims(spec, batch)) != 3:
        return []
    return [f"format: FORMAT_{intake.layout if isinstance(intake, Preprocess) else 'NHWC'}"]


def _type(spec: TensorSpec) -> str:
    if spec.dtype not in TYPES:
        raise BundleError(f"tensor {spec.name!r} is {spec.dtype}, which Triton does not have", "serve it with another program")
    return TYPES[spec.dtype]


def _labels(manifest: Manifest, outputs: Sequence[TensorSpec]) -> bytes:
    """A label a line, for the classification extension; nothing where the first output is no vector of classes."""
    if not manifest.labels or len(outputs[0].shape) != 2:
        return b""
    return "".join(f"{' '.join(label.split())}\n" for label in manifest.labels).encode()


def _names(specs: Sequence[TensorSpec]) -> list[str]:
    return [spec.name for spec in specs]


def _quoted(text: str) -> str:
    """A string of protobuf's text format; what is not printable ASCII is written as octal escapes of its UTF-8."""
    plain = "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{plain}"'
