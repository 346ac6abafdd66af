"""From a picture to the network's input, described as data, so that training, the bundle and the board do the same.

With pixels p in 0..255 after decoding and resizing, the network's input is

    x[c] = (p[c] / 255 - mean[c]) / std[c]        float32, shape N x C x H x W

Decoding turns the picture upright (EXIF), flattens transparency onto black and converts to grey or RGB; resizing is
Pillow's antialiased filter of the given name straight to height x width, without cropping.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError, MissingError

if TYPE_CHECKING:
    from PIL.Image import Image

Color = Literal["grey", "rgb"]
MAX_SIDE = 4096
CHANNELS: dict[str, int] = {"grey": 1, "rgb": 3}


class Preprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ``mean`` and one ``std`` per channel, in units of the 0..1 pixel range."""

    color: Color
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear"] = "bilinear"
    layout: Literal["NCHW"] = "NCHW"

    def __post_init__(self) -> None:
        channels = CHANNELS[self.color]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"mean and std need {channels} value(s) for {self.color} pictures")
        if not all(np.isfinite(self.mean)) or not all(np.isfinite(self.std)) or min(self.std) <= 0:
            raise ValueError("mean must be finite and std finite and above zero")
        if not (1 <= self.height <= MAX_SIDE and 1 <= self.width <= MAX_SIDE):
            raise ValueError(f"height and width must be from 1 to {MAX_SIDE}")

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 N x C x H x W -> float32 of the same shape, by the formula above."""
        mean = np.asarray(self.mean, np.float32).reshape(1, -1, 1, 1)
        std = np.asarray(self.std, np.float32).reshape(1, -1, 1, 1)
        scaled: NDArray[np.float32] = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return scaled

    def open(self, path: Path) -> NDArray[np.uint8]:
        """Decode and resize one file -> uint8 C x H x W; raises DataError naming the file."""
        return pixels_of(load_image(path), self.color, (self.height, self.width))


def of_bytes(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether ``mean`` and ``std`` are of pixels in 0..255: of pixels in 0..1, which are meant here, none is above 1."""
    return max(*mean, *std) > 1


def divided(values: Sequence[float]) -> str:
    """Each value in units of 0..255 divided by 255, as text like ``0.485,0.456,0.406``."""
    return ",".join(f"{value / 255:.4g}" for value in values)


def load_image(path: Path) -> Image:
    """Decode a picture file, upright; raises DataError naming the file, MissingError without Pillow."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise MissingError("reading pictures needs Pillow", "pip install pillow") from None
    if path.exists() and not path.is_file():
        raise DataError(f"picture {path} is not a regular file", "give a PNG or JPEG file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # still below Pillow's limit
            warnings.simplefilter("ignore", UserWarning)  # of damage that Pillow then mends or raises for
            with Image.open(path) as opened:
                opened.load()
                return ImageOps.exif_transpose(opened)
    except FileNotFoundError:
        raise DataError(f"picture {path} does not exist", "check the path") from None
    except UnidentifiedImageError:
        raise DataError(f"{path} is not a picture that Pillow can read", "convert it to PNG or JPEG") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise DataError(f"picture {path} cannot be decoded: {problem}", "replace the file") from None


def pixels_of(image: Image, color: Color, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A decoded picture -> uint8 C x H x W, with ``size`` = (height, width)."""
    from PIL import Image as pillow

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        black = pillow.new("RGBA", with_alpha.size, (0, 0, 0, 255))
        image = pillow.alpha_composite(black, with_alpha)
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    image = image.convert("L" if color == "grey" else "RGB")
    if image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), pillow.Resampling.BILINEAR)
    array = np.asarray(image, np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _to_eight_bits(image: Image) -> Image:
    # Pillow clips 16-bit greys at 255 when it converts them itself
    from PIL import Image as pillow

    values = np.asarray(image, np.float64)
    full = 65535.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 255.0
    return pillow.fromarray(np.clip(values * (255.0 / full), 0, 255).round().astype(np.uint8))
