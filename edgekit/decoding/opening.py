"""From a file to the picture that Pillow holds: which formats are read, upright, and in which units Pillow loads values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgekit.decoding.depth import eight_bits, is_deep
from edgekit.decoding.frames import tell_frames
from edgekit.decoding.unusable import Unusable, no_pillow
from edgekit.files import NotRegularError
from edgekit.files import opened as opened_file

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS: dict[str, tuple[str, ...]] = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "QOI": (".qoi",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""Formats that are read, by Pillow's names, with the suffixes of their files. Of several frames the first counts."""
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_ORIENTATION = 0x0112
_ORIENTED = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""What Pillow keeps the orientation in."""
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey values of 2 and 4 bits by, by its names of how a file stores them."""
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def load(path: Path, white: float | None) -> Image:
    """A file's first frame, upright, with at most 8 bits a channel; raises Unusable, and whatever a decoder raises.

    ``white``: as of ``edgekit.decoding.decoded``.
    """
    try:
        # as a stream: Pillow maps a named TIFF into memory as if it were upright already, and scrambles it
        stream = opened_file(path)
    except (FileNotFoundError, NotADirectoryError):
        raise Unusable("does not exist", "check the path") from None
    except NotRegularError:
        raise Unusable("is not a regular file", "give a PNG or JPEG file") from None
    with stream:
        return read(stream, white)


def read(stream: BinaryIO, white: float | None) -> Image:
    """``load`` of a file that is open."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise no_pillow() from None
    Image.init()
    try:
        with Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN]) as opened:
            return loaded(opened, white)
    except UnidentifiedImageError:
        stream.seek(0)
        if stream.read(4) in _TIFF_HEADS:
            raise Unusable(
                "is a TIFF with pixels that are not read, like float64, float16 or integers of 64 bits",
                "save it as float32 or as integers of 16 bits",
            ) from None
        raise Unusable("is not a picture of a format that is read", "convert it to PNG or JPEG") from None
    except Image.DecompressionBombError as problem:
        raise _too_large(problem) from None


def _too_large(problem: Exception) -> Unusable:
    """Why a picture is not decoded whose size Pillow refuses; it gives the size and its limit in its message alone."""
    pixels, limit = (int(number) for number in re.findall(r"\d+", str(problem))[:2])
    return Unusable(f"has {pixels:,} pixels, and at most {limit:,} are read", "make it smaller")


def loaded(opened: Image, white: float | None) -> Image:
    """The first frame of an open picture, upright, with at most 8 bits a channel."""
    white = _as_loaded(opened, white)
    transparent = _transparent_as_loaded(opened)
    opened.load()
    if transparent is not None:
        opened.info["transparency"] = transparent
    image = _upright(opened, eight_bits(opened, white) if is_deep(opened) else opened)
    tell_frames(opened)
    return image


def _transparent_as_loaded(opened: Any) -> Any:
    """The transparent value or colour of a PNG, which is in the units of the file, as its pixels will be; call it before loading.

    Of colours of 16 bits Pillow loads the upper 8, so those that differ in the lower alone are transparent too.
    """
    value, stored = opened.info.get("transparency"), opened.tile[0][3] if getattr(opened, "tile", ()) else ""
    if opened.format != "PNG" or not isinstance(stored, str):
        return value
    if isinstance(value, int) and stored in _GREY_STEPS:
        step = _GREY_STEPS[stored]
        return value % (255 // step + 1) * step
    if isinstance(value, tuple) and stored.startswith("RGB;16"):
        return tuple(part >> 8 for part in value)
    return value


def _upright(opened: Image, image: Image) -> Image:
    """``image``, the pixels of the file that is open, as the camera was held.

    EXIF data that cannot be read say nothing, and no other tag of them matters.
    """
    from PIL import Image as pillow

    turns = {
        2: pillow.Transpose.FLIP_LEFT_RIGHT, 3: pillow.Transpose.ROTATE_180, 4: pillow.Transpose.FLIP_TOP_BOTTOM,
        5: pillow.Transpose.TRANSPOSE, 6: pillow.Transpose.ROTATE_270, 7: pillow.Transpose.TRANSVERSE,
        8: pillow.Transpose.ROTATE_90,
    }  # fmt: skip
    try:
        orientation = opened.getexif().get(_ORIENTATION)
        turn = turns.get(orientation) if isinstance(orientation, int) else None
    except Exception:
        turn = None
    if turn is not None:
        turned = image.transpose(turn)
        for key in _ORIENTED:  # or whoever is given the turned picture turns it again
            turned.info.pop(key, None)
        return turned
    return image.copy() if image is opened else image


def _as_loaded(opened: Image, white: float | None) -> float | None:
    """``white``, which is in the units of the file, in those of the pixels that Pillow will load; call it before."""
    largest = _largest_in_file(opened) if white is not None else None
    if white is None or largest is None:
        return white
    if not is_deep(opened) and largest > max(255, white):
        raise Unusable(
            "has colours of more than 8 bits, which data.white cannot scale", "convert it to 8 bits, or to grey of 16 bits"
        )
    return white * 65535 / largest


def _largest_in_file(opened: Any) -> int | None:
    """What a sample of the file can hold, where Pillow scales that to 8 or 16 bits; None where it does not."""
    decoder, arguments = (opened.tile[0][0], opened.tile[0][3]) if getattr(opened, "tile", ()) else ("", ())
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    if decoder in ("ppm", "ppm_plain"):
        return int(parts[-1])
    if decoder == "jpeg2k":
        return (1 << _bits_of_jpeg2000(opened.fp)) - 1
    return 65535 if any(isinstance(part, str) and ";16" in part for part in parts) else None


def _bits_of_jpeg2000(stream: BinaryIO) -> int:
    """The bits of a sample, from the file's SIZ marker."""
    place = stream.tell()
    stream.seek(0)
    content = stream.read()
    stream.seek(place)
    return (content[content.index(b"\xff\x4f\xff\x51") + 42] & 0x7F) + 1
