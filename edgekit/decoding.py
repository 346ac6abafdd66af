"""From a picture to uint8 pixels: which formats of files are read, and what every pixel type becomes.

Pixels are scaled by what the file's type can hold, and never by what one picture happens to hold: white is 1 in a picture of 1
bit, 255 in 8 bits, 4095 in 12 bits, 65535 in 16 bits, the largest integer in 32 bits, and 1.0 in floating point. Colours become
RGB or grey, transparency is flattened onto black, and a camera's orientation is applied.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError, EdgekitError, MissingError, first_line
from edgekit.files import fingerprints
from edgekit.version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

Color = Literal["grey", "rgb"]
PictureSource: TypeAlias = Union[str, Path, bytes, NDArray[np.uint8], "Image"]
"""A picture: a file's path, a file's bytes, uint8 height x width x 1, 3 (RGB) or 4 (RGBA), or one that Pillow has opened."""
CHANNELS: dict[str, int] = {"grey": 1, "rgb": 3}

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
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _SIGNED = 258, 262, 339, 2
"""TIFF's tags for the bits of a sample, for whether 0 is white and for the sample's type, and the type of signed integers."""
_BLOCK_PIXELS = 1 << 20
"""A deep picture is scaled by as many pixels at a time."""
_FAR_ABOVE_ONE, _FAR_BELOW_ZERO = 2.0, -0.5
"""Floating point pictures with values beyond are not of 0..1, as shares of white; what resampling adds stays within."""
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey values of 2 and 4 bits by, by its names of how a file stores them."""
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def decoded(path: Path, color: Color, size: tuple[int, int], white: float | None = None) -> NDArray[np.uint8]:
    """Decode one file and resize it to ``size`` = (height, width) -> uint8 C x H x W.

    ``white`` is the brightest value of grey pictures with more than 8 bits a pixel, in the units of the file, like 4095 for 12
    bits in 16; None: what their type can hold. Raises DataError naming the file for whatever cannot be decoded, and MissingError
    without Pillow.
    """
    with decoder(color, size, white) as decode:
        return decode(path)


@contextmanager
def decoder(color: Color, size: tuple[int, int], white: float | None = None) -> Iterator[Callable[[Path], NDArray[np.uint8]]]:
    """Yield ``decoded`` of one file, which several threads may call: what they share, the filters of warnings, is set once."""

    def decode(path: Path) -> NDArray[np.uint8]:
        with _naming(path):
            return _resized(_load(path, white), color, size)

    with _without_warnings():
        yield decode


def pixels_from(
    source: PictureSource, color: Color, size: tuple[int, int] | None, white: float | None = None, *, name: str = ""
) -> NDArray[np.uint8]:
    """Decode a picture, wherever it comes from, and resize it to ``size`` = (height, width) -> uint8 C x H x W.

    None: it keeps its size.

    All kinds of sources give the pixels that ``decoded`` gives of the file; an array that has the size and the channels already
    needs no Pillow. ``name`` stands for a picture without a path in errors, which are those of ``decoded``.
    """
    if isinstance(source, (str, Path)):
        with _without_warnings(), _naming(source):
            return _resized(_load(Path(source), white), color, size)
    if isinstance(source, np.ndarray):
        with _naming(name):
            _check_array(source)
        if source.shape == (*(size or source.shape[:2]), CHANNELS[color]):
            return np.ascontiguousarray(source.transpose(2, 0, 1))
    with _without_warnings(), _naming(name):
        return _resized(_image_of(source, white), color, size)


def _check_array(array: NDArray[Any]) -> None:
    """Refuse an array that is no picture: what its numbers mean cannot be told."""
    shape = " x ".join(map(str, array.shape))
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not is_picture or not array.size:
        hint = "transpose it by (1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3) else "call the model on other arrays"
        raise _Unusable(f"is {array.dtype} {shape}, not uint8 height x width x 1, 3 or 4", hint)


def _image_of(source: bytes | NDArray[np.uint8] | Image, white: float | None) -> Image:
    """The picture of a file's bytes, of an array, or of what Pillow has opened, which stays open."""
    try:
        from PIL import Image
    except ImportError:
        raise _no_pillow() from None
    if isinstance(source, np.ndarray):
        return Image.fromarray(source[:, :, 0] if source.shape[2:] == (1,) else source)
    if isinstance(source, Image.Image):
        return _loaded(source, white)
    if not isinstance(source, bytes):
        raise _Unusable(f"is a {type(source).__name__}", "give a path, bytes, a Pillow image or a uint8 array")
    return _read(BytesIO(source), white)


def decoder_version() -> str:
    """Changes wherever the pixels of a picture may: with this module, and with Pillow or a library that it decodes by."""
    try:
        from PIL import features
    except ImportError:
        raise _no_pillow() from None
    libraries = {name: features.version(name) for name in ("pil", "jpg", "jpg_2000", "libtiff", "webp", "avif", "littlecms2")}
    return f"{fingerprints([Path(__file__)])[0] or __version__} {libraries}"


def load_image(path: Path, white: float | None = None) -> Image:
    """Decode one file -> its first frame, upright, with at most 8 bits a channel; ``white`` and errors as of ``decoded``."""
    with _without_warnings(), _naming(path):
        return _load(path, white)


def pixels_of(image: Image, color: Color, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A decoded picture -> uint8 C x H x W, with ``size`` = (height, width); DataError where they cannot be scaled."""
    with _without_warnings(), _naming(getattr(image, "filename", "")):
        return _resized(image, color, size)


def _resized(image: Image, color: Color, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    from PIL import Image as pillow

    image = _flattened(_eight_bits(image, None) if _is_deep(image) else _known_colours(image))
    image = image.convert("L" if color == "grey" else "RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), pillow.Resampling.BILINEAR)
    array = np.asarray(image, np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


class _Quiet:
    """The filter of warnings is the process's: the first of the threads that decode sets it, and the last takes it back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._filter = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filter.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *problem: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filter.close()


_QUIET = _Quiet()


def _without_warnings() -> _Quiet:
    """Of sizes below Pillow's limit, and of damage that Pillow then mends or raises for."""
    return _QUIET


@contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """Whatever goes wrong with a picture becomes a DataError that names its file, where there is one."""
    picture = f"picture {path}".rstrip()
    try:
        yield
    except _Unusable as reason:
        raise DataError(f"{picture} {reason}", reason.remedy) from None
    except EdgekitError:
        raise
    except MemoryError:  # of one picture: the next may fit
        raise DataError(f"{picture} needs more memory than there is", "give a smaller picture") from None
    except Exception as problem:  # decoders raise whatever a damaged file makes them trip over
        raise DataError(f"{picture} cannot be decoded: {first_line(problem)}", "replace the file") from None


def _no_pillow() -> MissingError:
    return MissingError("reading pictures needs Pillow", "pip install pillow")


class _Unusable(Exception):
    """A picture that was read but cannot be used; the message says why, ``remedy`` what to do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def _load(path: Path, white: float | None) -> Image:
    if not path.exists():
        raise _Unusable("does not exist", "check the path")
    if not path.is_file():
        raise _Unusable("is not a regular file", "give a PNG or JPEG file")
    # as a stream: Pillow maps a named TIFF into memory as if it were upright already, and scrambles it
    with path.open("rb") as stream:
        return _read(stream, white)


def _read(stream: BinaryIO, white: float | None) -> Image:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise _no_pillow() from None
    Image.init()
    try:
        with Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN]) as opened:
            return _loaded(opened, white)
    except UnidentifiedImageError:
        stream.seek(0)
        if stream.read(4) in _TIFF_HEADS:
            raise _Unusable(
                "is a TIFF with pixels that are not read, like float64, float16 or integers of 64 bits",
                "save it as float32 or as integers of 16 bits",
            ) from None
        raise _Unusable("is not a picture of a format that is read", "convert it to PNG or JPEG") from None


def _loaded(opened: Image, white: float | None) -> Image:
    """The first frame of an open picture, upright, with at most 8 bits a channel."""
    white = _as_loaded(opened, white)
    transparent = _transparent_as_loaded(opened)
    opened.load()
    if transparent is not None:
        opened.info["transparency"] = transparent
    return _upright(opened, _eight_bits(opened, white) if _is_deep(opened) else opened)


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


def _is_deep(image: Image) -> bool:
    """Whether Pillow holds more than 8 bits of a channel, or 8 bits of signed integers as if they had no sign."""
    return image.mode.startswith("I") or image.mode == "F" or (image.mode == "L" and _is_signed(image))


def _is_signed(image: Image) -> bool:
    return bool(getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED)


def _as_loaded(opened: Image, white: float | None) -> float | None:
    """``white``, which is in the units of the file, in those of the pixels that Pillow will load; call it before."""
    largest = _largest_in_file(opened) if white is not None else None
    if white is None or largest is None:
        return white
    if not _is_deep(opened) and largest > max(255, white):
        raise _Unusable(
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


def _eight_bits(image: Image, white: float | None) -> Image:
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
        raise _Unusable(f"has pixels down to {lowest:.6g}, and black is 0", "shift and scale its values, so that black is 0")


def _blocks(image: Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """Some rows of the picture after others, each with the number of its first: a copy of a large one is too much."""
    height = max(1, _BLOCK_PIXELS // max(1, image.width))
    for top in range(0, image.height, height):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + height, image.height))))


def _brightest(image: Image) -> float:
    largest = 0.0
    for _, values in _blocks(image):
        if not np.isfinite(values).all():
            raise _Unusable("has pixels that are not finite", "replace the file")
        largest = max(largest, float(values.max(initial=0)))
    return largest


def _largest(image: Image, brightest: float) -> float:
    """The value of white by the type of the file's pixels; ``brightest`` is the largest of those in floating point."""
    if image.mode == "F":
        if brightest > _FAR_ABOVE_ONE:
            raise _Unusable(
                f"has floating point pixels up to {brightest:.6g}, and white is 1.0", "let data.white name the brightest value"
            )
        return 1.0
    if not hasattr(image, "tag_v2"):
        return 65535.0  # PNG, PGM and JPEG 2000 have no more
    bits, kinds = image.tag_v2.get(_BITS, (16,)), image.tag_v2.get(_SAMPLE_FORMAT, (1,))
    return float(2 ** (bits[0] - (kinds[0] == _SIGNED)) - 1)


def _known_colours(image: Image) -> Image:
    """The picture in a mode that Pillow converts to grey and RGB."""
    if image.mode != "LAB":
        return image
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image


def _flattened(image: Image) -> Image:
    """The picture on black, where it has transparency."""
    from PIL import Image as pillow

    colour = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(colour, tuple) and max(colour) > 255:  # of 16 bits, of which Pillow keeps the upper 8
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and colour is None:
        return image
    with_alpha = image.convert("LA" if image.mode == "La" else image.mode).convert("RGBA")
    return pillow.alpha_composite(pillow.new("RGBA", with_alpha.size, (0, 0, 0, 255)), with_alpha)
