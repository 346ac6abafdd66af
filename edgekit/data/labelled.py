"""A labelled set of pictures to judge a network on, decoded batch by batch so that memory stays flat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.data import EVERY, fashion_mnist, fingerprint, golden_pictures
from edgekit.data.image_folder import Half, split_folder, to_judge
from edgekit.decoding.frames import watched_frames
from edgekit.errors import printable
from edgekit.preprocess import Preprocess
from edgekit.progress import SILENT, Progress
from edgekit.recipe import DataRecipe

BATCH = 250


class Batch(NamedTuple):
    """uint8 ``images`` N x C x H x W, int64 ``labels`` N (places in the set's classes), and ``names`` of the pictures.

    ``several`` are the names of those with several frames, of which the first counts.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    several: tuple[str, ...] = ()


class LabelledSet(NamedTuple):
    """``size`` pictures of ``classes``; ``batches`` decodes them anew at each call. ``fingerprint``: of a recipe's data."""

    name: str
    classes: tuple[str, ...]
    size: int
    batches: Callable[[], Iterator[Batch]]
    fingerprint: str | None = None


def of_recipe(recipe: DataRecipe, preprocess: Preprocess, progress: Progress = SILENT) -> LabelledSet:
    """The test set of a recipe; raises DataError where it cannot be found or decoded."""
    if recipe.dataset == "image-folder":
        assert recipe.path is not None
        split = split_folder(Path(recipe.path), recipe.test_fraction, progress)
        test = _of_half(f"the test set of {recipe.path}", split.classes, split.test, preprocess)
        return test._replace(fingerprint=fingerprint(recipe, progress))
    pictures = golden_pictures(recipe, preprocess, EVERY)

    def batches() -> Iterator[Batch]:
        for start in range(0, len(pictures), BATCH):
            stop = min(start + BATCH, len(pictures))
            names = tuple(f"test/{index}" for index in range(start, stop))
            yield Batch(pictures.images[start:stop], pictures.labels[start:stop], names)

    return LabelledSet("Fashion-MNIST's test set", fashion_mnist.CLASSES, len(pictures), batches, fingerprint(recipe, progress))


def of_folder(root: Path, preprocess: Preprocess) -> LabelledSet:
    """The pictures of a folder of class folders: the test half of a divided one, and otherwise all."""
    return _of_half(str(root), *to_judge(root), preprocess)


def _of_half(name: str, classes: tuple[str, ...], half: Half, preprocess: Preprocess) -> LabelledSet:
    def batches() -> Iterator[Batch]:
        for start in range(0, len(half.pictures), BATCH):
            chosen = half.pictures[start : start + BATCH]
            images, several = [], list[str]()
            for picture in chosen:
                with watched_frames() as frames:
                    images.append(preprocess.open(picture.path))
                several += [printable(picture.name)] * frames.several
            labels = np.asarray(half.labels[start : start + BATCH], np.int64)
            yield Batch(np.stack(images), labels, tuple(printable(picture.name) for picture in chosen), tuple(several))

    return LabelledSet(name, tuple(map(printable, classes)), len(half.pictures), batches)
