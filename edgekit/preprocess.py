"""From a picture to the network's input, described as data, so that training, the bundle and the board do the same.

With pixels p in 0..255 after decoding and resizing, the network's input is

    x[c] = (p[c] / 255 - mean[c]) / std[c]        float32, shape N x C x H x W

Decoding (``edgekit.decoding``) turns the picture upright (EXIF), flattens transparency onto black and converts to grey or RGB;
resizing is Pillow's antialiased filter of the given name straight to height x width, without cropping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.decoding import CHANNELS, Color, PictureSource, load_image, pixels_from, pixels_of

__all__ = [
    "MAX_SIDE", "AsDecoded", "Color", "Intake", "PictureSource", "Preprocess", "in_units", "load_image", "no_picture", "of_bytes",
    "pixels_of",
]  # fmt: skip

MAX_SIDE = 4096


class Preprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ``mean`` and one ``std`` per channel, in units of the 0..1 pixel range.

    ``white`` is the brightest value of grey pictures with more than 8 bits a pixel, where it is not what their type can hold.
    """

    color: Color
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear"] = "bilinear"
    layout: Literal["NCHW"] = "NCHW"
    white: float | msgspec.UnsetType = msgspec.UNSET  # left out of a manifest where it says nothing

    def __post_init__(self) -> None:
        channels = CHANNELS[self.color]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"mean and std need {channels} value(s) for {self.color} pictures")
        if not all(np.isfinite(self.mean)) or not all(np.isfinite(self.std)) or min(self.std) <= 0:
            raise ValueError("mean must be finite and std finite and above zero")
        if not (1 <= self.height <= MAX_SIDE and 1 <= self.width <= MAX_SIDE):
            raise ValueError(f"height and width must be from 1 to {MAX_SIDE}")
        if self.white is not msgspec.UNSET and not 0 < self.white < np.inf:
            raise ValueError("white must be finite and above zero")

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 N x C x H x W -> float32 of the same shape, by the formula above."""
        mean = np.asarray(self.mean, np.float32).reshape(1, -1, 1, 1)
        std = np.asarray(self.std, np.float32).reshape(1, -1, 1, 1)
        scaled: NDArray[np.float32] = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return scaled

    def open(self, picture: PictureSource, name: str = "") -> NDArray[np.uint8]:
        """Decode and resize one picture -> uint8 C x H x W.

        Raises DataError naming the file, or the picture as ``name`` where it has no path.
        """
        return pixels_from(picture, self.color, (self.height, self.width), self.brightest, name=name)

    @property
    def brightest(self) -> float | None:
        """``white``, None where it says nothing."""
        return None if self.white is msgspec.UNSET else self.white


class Intake(Protocol):
    """How pictures become a file's input: ``open`` gives uint8 C x H x W of each, ``normalise`` the input for N of one size."""

    @property
    def layout(self) -> Literal["NCHW", "NHWC"]:
        """The axes of the input."""
        ...

    def open(self, picture: PictureSource, name: str = "") -> NDArray[np.uint8]:
        """Decode one picture; raises DataError that names it."""
        ...

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """uint8 N x C x H x W -> the input."""
        ...


class AsDecoded(NamedTuple):
    """The Intake of a file that preprocesses itself: uint8 N x H x W x 3 (RGB), of the pictures' own size."""

    white: float | None

    @property
    def layout(self) -> Literal["NHWC"]:
        """The axes of the input."""
        return "NHWC"

    def open(self, picture: PictureSource, name: str = "") -> NDArray[np.uint8]:
        """Decode one picture -> uint8 3 x H x W; raises DataError as ``Preprocess.open`` does."""
        return pixels_from(picture, "rgb", None, self.white, name=name)

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 N x C x H x W -> N x H x W x 3; grey becomes RGB of three like channels."""
        return np.ascontiguousarray(np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:])).transpose(0, 2, 3, 1))


class NoPicture(NamedTuple):
    """What keeps a model from taking pictures, and what to do."""

    reason: str
    remedy: str


def no_picture(inputs: Sequence[tuple[str, Sequence[int | str]]]) -> NoPicture | None:
    """Why a model with ``inputs``, each dtype and shape, takes no float32 picture N x 1 or 3 x H x W; None if it takes one."""
    if len(inputs) != 1:
        return NoPicture(f"it has {len(inputs)} inputs", "give it arrays with edgekit.load")
    dtype, shape = inputs[0]
    text = f"{dtype} {' x '.join(map(str, shape))}"
    if len(shape) != 4 or not {1, 3} & {shape[1], shape[3]}:
        return NoPicture(f"its input is {text}, no picture", "give it arrays with edgekit.load")
    if shape[1] not in (1, 3):
        remedy = "export a module that takes N x C x H x W and whose forward() begins with x.permute(0, 2, 3, 1)"
        return NoPicture(f"its input is {text}, with the channels last", remedy)
    if dtype != "float32":
        return NoPicture(
            f"its input is {text}, not float32", f"export a module that takes float32 and casts it to {dtype} itself"
        )
    return None


def of_bytes(mean: Sequence[float], std: Sequence[float]) -> tuple[str, ...]:
    """The names, ``mean`` and ``std``, of those that are of pixels in 0..255; empty if both are of pixels in 0..1, as is meant.

    No value of pixels in 0..1 is above 1. A mean of 0 is the same in both units, and a ``std`` of 1 goes with the mean.
    """
    large = {name for name, values in (("mean", mean), ("std", std)) if max(values) > 1}
    either = {name for name, values, value in (("mean", mean, 0), ("std", std, 1)) if all(each == value for each in values)}
    return tuple(name for name in ("mean", "std") if large and name in large | either)


def in_units(values: Sequence[float], bytes_: bool) -> str:
    """The values for pixels in 0..1, as text like ``0.485,0.456,0.406``; those of ``bytes_`` are divided by 255."""
    return ",".join(f"{value / (255 if bytes_ else 1):.4g}" for value in values)
