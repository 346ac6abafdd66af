"""What an ONNX file's metadata say of the pixels it wants: as the preprocessing, and held against ``--mean`` and ``--std``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from edgekit.decoding import CHANNELS, Color
from edgekit.errors import UsageError
from edgekit.preprocess import Preprocess
from edgekit.tensors import TensorSpec

_RANGES = {  # Windows ML's words for pixels: mean and std in units of 0..1
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (0.5, 0.5),
    "NominalRange_0_255": (0.0, 1 / 255),
    "NominalRange_16_235": (-16 / 219, 1 / 219),  # 219 * p + 16
}
_ALIKE = 1e-3
"""Relative difference up to which numbers that people type are those of a file."""
_UNUSED = "its image metadata are not used"


class Stated(NamedTuple):
    """What metadata say of one picture input: its preprocessing with a note, or ``other``: pixels that edgekit does not make.

    ``mean`` and ``std`` are those of the range where it is known, even if the order of colours is not.
    """

    preprocess: Preprocess | None = None
    note: str = ""
    other: str = ""
    range: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def stated(metadata: Mapping[str, str], spec: TensorSpec) -> Stated:
    """What a file's metadata say of its picture input ``spec``, N x C x H x W with one or three channels."""
    own = metadata.get("edgekit.preprocess")
    return _of_edgekit(own, spec) if own else _of_windows_ml(metadata, spec)


def image_metadata(preprocess: Preprocess) -> dict[str, str]:
    """ONNX's metadata of an image input, which Windows ML reads too; the range only where one of its words says it."""
    document = {"Image.BitmapPixelFormat": _format(preprocess.color), "Image.ColorSpaceGamma": "SRGB"}
    for word, (mean, std) in _RANGES.items():
        channels = len(preprocess.mean)
        if _alike(preprocess.mean, (mean,) * channels) and _alike(preprocess.std, (std,) * channels):
            document["Image.NominalPixelRange"] = word
    return document


def check_agrees(given: Preprocess, metadata: Mapping[str, str], spec: TensorSpec) -> None:
    """Raise UsageError where the file wants other pixels than ``--mean`` and ``--std`` describe."""
    own = stated(metadata, spec)
    if own.other:
        raise UsageError(
            f"the file wants {own.other}, and --mean and --std describe pixels as {_format(given.color)}",
            "export a network that takes those, or correct the file's metadata",
        )
    if own.mean and not (_alike(own.mean, given.mean) and _alike(own.std, given.std)):
        words = f"--mean {_numbers(own.mean)} --std {_numbers(own.std)}"
        raise UsageError(
            f"--mean and --std are not what the file says: {own.range} is {words}",
            "leave them out, or correct the file's metadata",
        )


def _alike(own: Sequence[float], given: Sequence[float]) -> bool:
    return all(math.isclose(left, right, rel_tol=_ALIKE, abs_tol=_ALIKE / 255) for left, right in zip(own, given, strict=True))


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def _format(color: Color) -> str:
    return {"grey": "Gray8", "rgb": "Rgb8"}[color]


def _of_edgekit(text: str, spec: TensorSpec) -> Stated:
    try:
        preprocess = msgspec.json.decode(text, type=Preprocess)
    except (msgspec.DecodeError, ValueError):
        return Stated(note="the file's own preprocessing cannot be read: not used")
    if (CHANNELS[preprocess.color], preprocess.height, preprocess.width) != spec.shape[1:]:
        return Stated(note="the file's own preprocessing does not fit its input: not used")
    note, place = "the preprocessing is the file's own", "its edgekit.preprocess"
    return Stated(preprocess, note, range=place, mean=preprocess.mean, std=preprocess.std)


def _of_windows_ml(metadata: Mapping[str, str], spec: TensorSpec) -> Stated:
    """The preprocessing by ONNX's metadata of images, which Windows ML reads; their keys and values ignore case.

    https://onnx.ai/onnx/repo-docs/MetadataProps.html
    """
    entries = {key.casefold(): value.strip() for key, value in metadata.items()}
    pixels, order = entries.get("image.nominalpixelrange", ""), entries.get("image.bitmappixelformat", "")
    _, channels, height, width = map(int, (0, *spec.shape[1:]))
    color: Color = "grey" if channels == 1 else "rgb"
    if order and order.casefold() != _format(color).casefold():
        return _other(f"pixels as {order} (Image.BitmapPixelFormat)")
    if entries.get("image.colorspacegamma", "").casefold() == "linear":
        return _other("linear light (Image.ColorSpaceGamma)")
    if not pixels:
        return Stated()
    numbers = {name.casefold(): numbers for name, numbers in _RANGES.items()}.get(pixels.casefold())
    if numbers is None:
        return _other(f"pixels of {pixels} (Image.NominalPixelRange)")
    mean, std = ((number,) * channels for number in numbers)
    known = Stated(range=f"its Image.NominalPixelRange, {pixels},", mean=mean, std=std)
    if not order and color == "rgb":
        return known._replace(note=f"the file does not say whether it wants pixels as RGB or BGR: {_UNUSED}")
    note = f"the preprocessing is the file's own: Image.NominalPixelRange is {pixels}"
    return known._replace(preprocess=Preprocess(color, height, width, mean, std), note=note)


def _other(pixels: str) -> Stated:
    return Stated(note=f"the file wants {pixels}, which edgekit does not make: {_UNUSED}", other=pixels)
