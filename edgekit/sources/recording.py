"""Record golden inputs of a PyTorch model, with its outputs: pictures where its data is known, and inputs that reach further."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit import data
from edgekit.bundle.manifest import GoldenPart, GoldenPicture
from edgekit.errors import ModelError
from edgekit.graphs.golden import record
from edgekit.graphs.trace import as_arrays, inference_copy, own_copies, run_module, tensors_of_feed
from edgekit.parity.inputs import Recorded, extreme_pictures, only_steady, rows_of, without_data
from edgekit.parity.noise import jittered
from edgekit.preprocess import Preprocess
from edgekit.sources.module import ModelSource
from edgekit.tensors import Array, Feed

if TYPE_CHECKING:
    from torch import fx, nn

FILES = 4


class _Inputs(NamedTuple):
    """Golden inputs by name, the labels of pictures (-1: none), and the kinds of samples."""

    feed: dict[str, Array]
    labels: Array | None
    parts: tuple[GoldenPart, ...]


def _takes(module: nn.Module, feed: Feed) -> bool:
    try:
        run_module(module, own_copies(tensors_of_feed(feed)))
    except ModelError:
        return False
    return True


def _opened(files: dict[str, bytes], preprocess: Preprocess) -> Iterator[NDArray[np.uint8]]:
    """The pixels of picture files, by the way that a board goes."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.write_bytes(content)
            yield preprocess.open(path)


class PictureFiles(NamedTuple):
    """Golden pictures as files: their bytes by name, and for each the sample that it becomes and its class."""

    contents: dict[str, bytes]
    described: tuple[GoldenPicture, ...]


def as_files(recorded: Recorded, files: dict[str, bytes]) -> PictureFiles:
    """What the manifest says of picture ``files``, which became the first samples of ``recorded``."""
    first = next(iter(recorded.arrays.float64.values()))
    if first.ndim != 2:
        return PictureFiles({}, ())
    classes = first.argmax(1)
    return PictureFiles(files, tuple(GoldenPicture(name, place, int(classes[place])) for place, name in enumerate(files)))


def picture_files(model: ModelSource, preprocess: Preprocess | None) -> dict[str, bytes]:
    """``FILES`` test pictures as PNG files, larger than the input so that resizing is on their way; none without data."""
    if model.recipe is None or preprocess is None:
        return {}
    from PIL import Image

    files = {}
    for place, pixels in enumerate(data.golden_pictures(model.recipe.data, preprocess, FILES).images):
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        larger = image.resize((image.width * 3 // 2, image.height * 3 // 2), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        larger.save(buffer, "PNG")
        files[f"picture-{place}.png"] = buffer.getvalue()
    return files


def recorded_of(
    model: ModelSource, traced: fx.GraphModule, preprocess: Preprocess | None, count: int, files: dict[str, bytes]
) -> Recorded:
    """The golden samples of ``model``: picture ``files``, ``count`` pictures of its test set, extreme ones; or inputs made up.

    Raises ModelError if an output is NaN on the first part, or infinite in one dtype only.
    """
    inputs = _inputs(model, preprocess, count, files)
    arrays = record(model.module, traced, inputs.feed, inputs.labels, inputs.parts[0].samples)
    moved = as_arrays(run_module(inference_copy(model.module), own_copies(tensors_of_feed(jittered(inputs.feed)))))
    return only_steady(Recorded(arrays, inputs.parts), moved)


def _inputs(model: ModelSource, preprocess: Preprocess | None, count: int, files: dict[str, bytes]) -> _Inputs:
    if model.recipe is None or preprocess is None:
        made = without_data(model.inputs, preprocess, rows_of(model.inputs, partial(_takes, inference_copy(model.module))))
        return _Inputs(made.inputs, None, made.parts)
    pictures = data.golden_pictures(model.recipe.data, preprocess, count)
    extremes = extreme_pictures(*pictures.images.shape[1:])
    opened = [pixels[None] for pixels in _opened(files, preprocess)]
    images = np.concatenate([*opened, pictures.images, extremes])
    none = np.full(1, -1, np.int64)
    labels = np.concatenate([none.repeat(len(opened)), pictures.labels, none.repeat(len(extremes))])
    parts = (GoldenPart("pictures", len(opened) + len(pictures)), GoldenPart("extremes", len(extremes)))
    return _Inputs({model.inputs[0].name: preprocess.normalise(images)}, labels, parts)
