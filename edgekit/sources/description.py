"""Labels and preprocessing of a bundle: from the command line, or from an ONNX file's own metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from edgekit.bundle.provenance import Provenance
from edgekit.errors import UsageError
from edgekit.preprocess import Preprocess, in_units, no_picture, of_bytes
from edgekit.sources import ExportOptions
from edgekit.sources.image_metadata import image_metadata, stated
from edgekit.sources.labels import label_list, read_labels
from edgekit.tensors import TensorSpec, shape_text
from edgekit.version import __version__

LABELS = ("edgekit.labels", "names", "labels", "classes", "class_names", "id2label")
"""Keys under which exporters keep the names of the classes: Ultralytics', transformers', and what people write by hand."""


class Description(NamedTuple):
    """What a bundle says of its pictures and classes, and notes on where that comes from."""

    preprocess: Preprocess | None
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()


def by_options(options: ExportOptions, inputs: Sequence[TensorSpec]) -> Description:
    """The labels and the preprocessing of ``--labels``, ``--mean`` and ``--std``; raises UsageError where they do not fit."""
    if (options.mean is None) != (options.std is None):
        raise UsageError("--mean and --std go together", "give both or neither")
    labels: tuple[str, ...] = ()
    if options.labels is not None:
        labels = read_labels(options.labels)
    if options.mean is None or options.std is None:
        return Description(None, labels)
    shape = inputs[0].shape
    unlike = no_picture([(spec.dtype, spec.shape) for spec in inputs])
    if unlike is not None:
        raise UsageError(
            f"--mean and --std are for a model of float32 pictures, N x 1 or 3 x H x W, and this is none: {unlike.reason}",
            f"leave them out, or {unlike.remedy}",
        )
    try:
        preprocess = Preprocess("grey" if shape[1] == 1 else "rgb", int(shape[2]), int(shape[3]), options.mean, options.std)
    except ValueError as problem:
        raise UsageError(f"--mean and --std do not fit the input: {problem}") from None
    _check_units(options.mean, options.std)
    return Description(preprocess, labels)


def metadata(
    source: str, weights: str, preprocess: Preprocess | None, labels: Sequence[str], provenance: Provenance
) -> dict[str, str]:
    """What edgekit writes into an ONNX file's metadata: what the manifest says, so that one can be held against the other.

    Keys without ``edgekit.`` are ONNX's own: https://onnx.ai/onnx/repo-docs/MetadataProps.html
    """
    document = {
        **(image_metadata(preprocess) if preprocess else {}),
        "model_author": provenance.author,
        "model_license": provenance.license,
        "edgekit.version": __version__,
        "edgekit.source": source,
        "edgekit.weights_sha256": weights,
        "edgekit.labels": msgspec.json.encode(labels).decode() if labels else "",
        "edgekit.preprocess": msgspec.json.encode(preprocess).decode() if preprocess else "",
    }
    return {key: value for key, value in document.items() if value}


def _check_units(mean: Sequence[float], std: Sequence[float]) -> None:
    of_255 = of_bytes(mean, std)
    if of_255:
        given = {"mean": mean, "std": std}
        words = " ".join(f"--{name} {','.join(f'{value:g}' for value in given[name])}" for name in of_255)
        divided = " ".join(f"--{name} {in_units(values, name in of_255)}" for name, values in given.items())
        raise UsageError(
            f"{words} {'are' if len(of_255) > 1 else 'is'} for pixels in 0..255, and pixels are in 0..1 here",
            f"divide by 255: {divided}",
        )


def takes_pictures(inputs: Sequence[TensorSpec]) -> bool:
    """Whether the model takes one float32 picture of one or three channels, N x C x H x W."""
    return no_picture([(spec.dtype, spec.shape) for spec in inputs]) is None


def check_labels(labels: Sequence[str], outputs: Sequence[TensorSpec]) -> None:
    """Raise UsageError unless the first output has one number for each label."""
    shape = outputs[0].shape
    if labels and (len(shape) != 2 or shape[1] != len(labels)):
        raise UsageError(f"--labels has {len(labels)} label(s) for an output of {shape_text(shape)}", "give one line per class")


def by_metadata(metadata: Mapping[str, str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Description:
    """The labels and the preprocessing that a file names itself, as far as they fit its tensors."""
    labels, of_labels = _labels(metadata, outputs)
    preprocess, of_pixels = _preprocess(metadata, inputs)
    return Description(preprocess, labels, of_labels + of_pixels)


def _labels(metadata: Mapping[str, str], outputs: Sequence[TensorSpec]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    key = next((key for key in LABELS if metadata.get(key)), None)
    if key is None:
        return (), ()
    labels, shape = label_list(metadata[key]), outputs[0].shape
    if len(shape) != 2 or shape[1] != len(labels):
        return (), (f"the file names {len(labels)} classes under {key!r}, and its first output is {shape_text(shape)}: not used",)
    return labels, (f"the labels are the file's own, under {key!r}",)


def _preprocess(metadata: Mapping[str, str], inputs: Sequence[TensorSpec]) -> tuple[Preprocess | None, tuple[str, ...]]:
    if not takes_pictures(inputs):
        return None, ()
    own = stated(metadata, inputs[0])
    return own.preprocess, (own.note,) if own.note else ()
