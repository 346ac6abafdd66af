"""From a picture to uint8 pixels, wherever it comes from and whatever type its own pixels have.

Colours become RGB or grey, transparency is flattened onto black, and a camera's orientation is applied. ``opening`` says which
formats are read, ``depth`` what is white.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from edgekit.decoding.depth import eight_bits, flattened, is_deep, known_colours
from edgekit.decoding.opening import load, loaded, read
from edgekit.decoding.unusable import Unusable, naming, no_pillow
from edgekit.files import fingerprints
from edgekit.version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

Color = Literal["grey", "rgb"]
PictureSource: TypeAlias = Union[str, Path, bytes, NDArray[np.uint8], "Image"]
"""A picture: a file's path, a file's bytes, uint8 height x width x 1, 3 (RGB) or 4 (RGBA), or one that Pillow has opened."""
CHANNELS: dict[str, int] = {"grey": 1, "rgb": 3}


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
        with naming(path):
            return _resized(load(path, white), color, size)

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
        with _without_warnings(), naming(source):
            return _resized(load(Path(source), white), color, size)
    if isinstance(source, np.ndarray):
        with naming(name):
            _check_array(source)
        if source.shape == (*(size or source.shape[:2]), CHANNELS[color]):
            return np.ascontiguousarray(source.transpose(2, 0, 1))
    with _without_warnings(), naming(name):
        return _resized(_image_of(source, white), color, size)


def _check_array(array: NDArray[Any]) -> None:
    """Refuse an array that is no picture: what its numbers mean cannot be told."""
    shape = " x ".join(map(str, array.shape))
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not is_picture or not array.size:
        hint = "transpose it by (1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3) else "call the model on other arrays"
        raise Unusable(f"is {array.dtype} {shape}, not uint8 height x width x 1, 3 or 4", hint)


def _image_of(source: bytes | NDArray[np.uint8] | Image, white: float | None) -> Image:
    """The picture of a file's bytes, of an array, or of what Pillow has opened, which stays open."""
    try:
        from PIL import Image
    except ImportError:
        raise no_pillow() from None
    if isinstance(source, np.ndarray):
        return Image.fromarray(source[:, :, 0] if source.shape[2:] == (1,) else source)
    if isinstance(source, Image.Image):
        return loaded(source, white)
    if not isinstance(source, bytes):
        raise Unusable(f"is a {type(source).__name__}", "give a path, bytes, a Pillow image or a uint8 array")
    return read(BytesIO(source), white)


def decoder_version() -> str:
    """Changes wherever the pixels of a picture may: with these modules, and with Pillow or a library that it decodes by."""
    try:
        from PIL import features
    except ImportError:
        raise no_pillow() from None
    libraries = {name: features.version(name) for name in ("pil", "jpg", "jpg_2000", "libtiff", "webp", "avif", "littlecms2")}
    code = " ".join(fingerprints(sorted(Path(__file__).parent.glob("*.py"))))
    return f"{code or __version__} {libraries}"


def load_image(path: Path, white: float | None = None) -> Image:
    """Decode one file -> its first frame, upright, with at most 8 bits a channel; ``white`` and errors as of ``decoded``."""
    with _without_warnings(), naming(path):
        return load(path, white)


def pixels_of(image: Image, color: Color, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A decoded picture -> uint8 C x H x W, with ``size`` = (height, width); DataError where they cannot be scaled."""
    with _without_warnings(), naming(getattr(image, "filename", "")):
        return _resized(image, color, size)


def _resized(image: Image, color: Color, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    from PIL import Image as pillow

    image = flattened(eight_bits(image, None) if is_deep(image) else known_colours(image))
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
