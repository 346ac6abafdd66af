"""From every type of pixel that Pillow holds to 8 bits a channel, on black.

Pixels are scaled by what the file's type can hold, and never by what one picture happens to hold: white is 1 in a picture of 1
bit, 255 in 8 bits, 4095 in 12 bits, 65535 in 16 bits, the largest integer in 32 bits, and 1.0 in floating point.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.decoding.unusable import Unusable

if TYPE_CHECKING:
    from PIL.Image import Image

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _SIGNED = 258, 262, 339, 2
"""TIFF's tags for the bits of a sample, for whether 0 is white and for the sample's type, and the type of signed integers."""
_BLOCK_PIXELS = 1 << 20
"""A deep picture is scaled by as many pixels at a time."""
_FAR_ABOVE_ONE, _FAR_BELOW_ZERO = 2.0, -0.5
"""Floating point pictures with values beyond are not of 0..1, as shares of white; what resampling adds stays within."""


def is_deep(image: Image) -> bool:
    """Whether Pillow holds more than 8 bits of a channel, or 8 bits of signed integers as if they had no sign."""
    return image.mode.startswith("I") or image.mode == "F" or (image.mode == "L" and _is_signed(image))


def _is_signed(image: Image) -> bool:
    return bool(getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED)


def eight_bits(image: Image, white: float | None) -> Image:
    """A deep grey picture in 8 bits, with black where its transparent value was. Pillow itself would clip it at 255."""
    from PIL import Image as pillow

    brightest = _brightest(image) if image.mode == "F" else 0.0
    full = _largest(image, brightest) if white is None or image.mode == "L" else white
    transparent = image.info.get("transparency")
    white_is_zero = image.mode != "L" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0  # Pillow inverts 8 bits
    scaled = np.empty((image.height, image.width), np.uint8)
    for top, block in _blocks(image):
        values = _with_sign(image, block)
        _check_not_below_black(values, full)
        rows = np.clip(values.astype(np.float64) * (255.0 / full), 0, 255).round()
        if white_is_zero:
            rows = 255 - rows
        if isinstance(transparent, int):
            rows[values == transparent] = 0
        scaled[top : top + len(rows)] = rows
    return pillow.fromarray(scaled)


def _with_sign(image: Image, block: NDArray[Any]) -> NDArray[Any]:
    """Values as the file has them: Pillow holds unsigned integers of 32 bits in signed ones, and signed ones of 8 in unsigned."""
    if image.mode == "L":
        return block.view(np.int8)
    unsigned = image.mode == "I" and not _is_signed(image) and getattr(image, "tag_v2", {}).get(_BITS, (16,))[0] == 32
    return block.astype(np.int32).view(np.uint32) if unsigned else block


def _check_not_below_black(values: NDArray[Any], full: float) -> None:
    """Refuse pixels that would become black because their scale has another origin; ``full`` is the value of white."""
    lowest = float(values.min(initial=0))
    if lowest < (full * _FAR_BELOW_ZERO if values.dtype.kind == "f" else 0):
        raise Unusable(f"has pixels down to {lowest:.6g}, and black is 0", "shift and scale its values, so that black is 0")


def _blocks(image: Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """Some rows of the picture after others, each with the number of its first: a copy of a large one is too much."""
    height = max(1, _BLOCK_PIXELS // max(1, image.width))
    for top in range(0, image.height, height):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + height, image.height))))


def _brightest(image: Image) -> float:
    largest = 0.0
    for _, values in _blocks(image):
        if not np.isfinite(values).all():
            raise Unusable("has pixels that are not finite", "replace the file")
        largest = max(largest, float(values.max(initial=0)))
    return largest


def _largest(image: Image, brightest: float) -> float:
    """The value of white by the type of the file's pixels; ``brightest`` is the largest of those in floating point."""
    if image.mode == "F":
        if brightest > _FAR_ABOVE_ONE:
            raise Unusable(
                f"has floating point pixels up to {brightest:.6g}, and white is 1.0", "let data.white name the brightest value"
            )
        return 1.0
    if not hasattr(image, "tag_v2"):
        return 65535.0  # PNG, PGM and JPEG 2000 have no more
    bits, kinds = image.tag_v2.get(_BITS, (16,)), image.tag_v2.get(_SAMPLE_FORMAT, (1,))
    return float(2 ** (bits[0] - (kinds[0] == _SIGNED)) - 1)


def known_colours(image: Image) -> Image:
    """The picture in a mode that Pillow converts to grey and RGB."""
    if image.mode != "LAB":
        return image
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image


def flattened(image: Image) -> Image:
    """The picture on black, where it has transparency."""
    from PIL import Image as pillow

    colour = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(colour, tuple) and max(colour) > 255:  # of 16 bits, of which Pillow keeps the upper 8
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and colour is None:
        return image
    with_alpha = image.convert("LA" if image.mode == "La" else image.mode).convert("RGBA")
    return pillow.alpha_composite(pillow.new("RGBA", with_alpha.size, (0, 0, 0, 255)), with_alpha)
