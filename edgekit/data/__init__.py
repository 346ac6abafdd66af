"""Datasets, as arrays in memory or mapped from files: numpy only, so that nothing here needs a framework."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.accuracy import majority_share
from edgekit.data import fashion_mnist, image_folder
from edgekit.data.pictures import Pictures
from edgekit.data.source import PictureShape, Source
from edgekit.preprocess import Preprocess
from edgekit.progress import SILENT, Progress
from edgekit.recipe import DataRecipe
from edgekit.reports.train import ClassCount, DataReport, LeftOut

__all__ = [
    "EVERY",
    "SOURCES",
    "Dataset",
    "PictureShape",
    "channel_statistics",
    "fingerprint",
    "golden_pictures",
    "load_dataset",
    "picture_shape",
    "training_pictures",
]

MOST_NAMED = 5
"""The most classes that one note names."""
EVERY = 1 << 40
"""More pictures than any data set has: asks for all of them."""
DARK = 32
"""An eighth of the range 0..255: a set whose pixels all stay below uses few of its values."""


class Dataset(msgspec.Struct, frozen=True):
    """Training and test pictures with the preprocessing that turns them into the network's input.

    ``holdout`` pictures are set aside from the training's to watch it by.
    """

    train: Pictures
    test: Pictures
    classes: tuple[str, ...]
    preprocess: Preprocess
    left_out: tuple[LeftOut, ...] = ()
    shared: int = 0
    notes: tuple[str, ...] = ()
    holdout: Pictures | None = None

    def sha256(self) -> str:
        """A hash of everything that training sees: pixels, labels, classes, preprocessing."""
        digest = hashlib.sha256(repr((self.classes, self.preprocess)).encode())
        for half in filter(None, (self.train, self.test, self.holdout)):
            digest.update(repr((half.images.shape, half.labels.shape)).encode())
            digest.update(half.pixels_sha256().encode())
            digest.update(np.ascontiguousarray(half.labels).data)
        return digest.hexdigest()

    def report(self) -> DataReport:
        """How many pictures each class has, what was left out, and what is odd about the set."""
        parts = filter(None, (self.train, self.test, self.holdout))
        halves = [np.bincount(part.labels, minlength=len(self.classes)).tolist() for part in parts]
        counts = tuple(ClassCount(name, *numbers) for name, *numbers in zip(self.classes, *halves, strict=True))
        brightest = self.train.brightest()
        dark = (
            f"the brightest pixel of the training pictures is {brightest} of 255; where grey files use less than the range of "
            "their type, let data.white name the brightest value (4095 for 12 bits in 16); convert deeper colours to 8 bits"
        )
        copies = f"{self.shared} of {len(self.test)} test pictures are training pictures too, so the test accuracy is too high"
        untested = [row.name for row in counts if not row.test]
        more = f" and {len(untested) - MOST_NAMED} more" if len(untested) > MOST_NAMED else ""
        no_test = f"the test has no picture of {', '.join(untested[:MOST_NAMED])}{more}, so it says nothing about them"
        conditions = ((dark, brightest < DARK), (copies, self.shared > 0), (no_test, bool(untested)))
        notes = (*self.notes, *(text for text, applies in conditions if applies))
        return DataReport(counts, self.left_out, round(majority_share(self.test.labels), 4), notes)


SOURCES: dict[str, Source] = {"fashion-mnist": fashion_mnist.SOURCE, "image-folder": image_folder.SOURCE}


def load_dataset(recipe: DataRecipe, progress: Progress = SILENT) -> Dataset:
    """Everything as uint8, in memory or, where it is large, mapped from edgekit's cache.

    Raises DataError naming the file at fault, and OutputError where neither memory nor the cache has room.
    """
    loaded = SOURCES[recipe.dataset].load(recipe, progress)
    given = (recipe.mean, recipe.std) if recipe.mean and recipe.std else loaded.statistics
    mean, std = given or statistics_of(loaded.train.levels())
    height, width = loaded.train.images.shape[2:]
    preprocess = Preprocess(recipe.pixel_color, height, width, mean, std, white=recipe.white or msgspec.UNSET)
    about = (loaded.left_out, loaded.shared, loaded.notes, loaded.holdout)
    return Dataset(loaded.train, loaded.test, loaded.classes, preprocess, *about)


def picture_shape(recipe: DataRecipe) -> PictureShape:
    """The shape of the data set's pictures and its number of classes; raises DataError for a folder that cannot be divided."""
    return SOURCES[recipe.dataset].shape(recipe)


def golden_pictures(recipe: DataRecipe, preprocess: Preprocess, count: int) -> Pictures:
    """``count`` test pictures spread evenly over the test set (all of them when it has fewer)."""
    return SOURCES[recipe.dataset].golden(recipe, preprocess, count)


def training_pictures(recipe: DataRecipe, preprocess: Preprocess, count: int) -> Pictures:
    """``count`` training pictures spread evenly over the training set (all of them when it has fewer)."""
    return SOURCES[recipe.dataset].training(recipe, preprocess, count)


def fingerprint(recipe: DataRecipe, progress: Progress = SILENT) -> str:
    """A hash that changes when the pictures or their classes do, without decoding them."""
    return hashlib.sha256(repr(SOURCES[recipe.dataset].contents(recipe, progress)).encode()).hexdigest()


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel in the 0..1 range, in float64; a flat channel gets std 1."""
    return statistics_of(Pictures(images, np.zeros(len(images), np.int64)).levels())


def statistics_of(counted: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The same from int64 C x 256: how often each value occurs in each channel."""
    means, stds = [], []
    levels = np.arange(256) / 255
    for counts in counted:
        mean = float((counts * levels).sum() / counts.sum())
        variance = float((counts * (levels - mean) ** 2).sum() / counts.sum())
        means.append(round(mean, 6))
        stds.append(round(variance**0.5, 6) or 1.0)
    return tuple(means), tuple(stds)
