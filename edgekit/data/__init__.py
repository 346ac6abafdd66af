"""Datasets, as arrays in memory: numpy only, so that nothing here needs a framework."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.accuracy import majority_share
from edgekit.data import fashion_mnist, image_folder
from edgekit.data.image_folder import Decoding
from edgekit.data.pictures import Pictures
from edgekit.decoding import CHANNELS, Color
from edgekit.preprocess import Preprocess
from edgekit.progress import SILENT, Progress
from edgekit.recipe import DataRecipe
from edgekit.reports.train import ClassCount, DataReport, LeftOut

DARK = 32
"""An eighth of the range 0..255: a set whose pixels all stay below uses few of its values."""


class Dataset(msgspec.Struct, frozen=True):
    """Training and test pictures with the preprocessing that turns them into the network's input."""

    train: Pictures
    test: Pictures
    classes: tuple[str, ...]
    preprocess: Preprocess
    left_out: tuple[LeftOut, ...] = ()
    shared: int = 0

    def sha256(self) -> str:
        """A hash of everything that training sees: pixels, labels, classes, preprocessing."""
        digest = hashlib.sha256(repr((self.classes, self.preprocess)).encode())
        for half in (self.train, self.test):
            digest.update(repr((half.images.shape, half.labels.shape)).encode())
            digest.update(np.ascontiguousarray(half.images).data)
            digest.update(np.ascontiguousarray(half.labels).data)
        return digest.hexdigest()

    def report(self) -> DataReport:
        """How many pictures each class has, what was left out, and what is odd about the set."""
        halves = [np.bincount(half.labels, minlength=len(self.classes)).tolist() for half in (self.train, self.test)]
        counts = tuple(ClassCount(name, *numbers) for name, *numbers in zip(self.classes, *halves, strict=True))
        brightest = int(self.train.images.max(initial=0))
        dark = (
            f"the brightest pixel of the training pictures is {brightest} of 255; where grey files use less than the range of "
            "their type, let data.white name the brightest value (4095 for 12 bits in 16); convert deeper colours to 8 bits"
        )
        copies = f"{self.shared} of {len(self.test)} test pictures are training pictures too, so the test accuracy is too high"
        notes = tuple(text for text, applies in ((dark, brightest < DARK), (copies, self.shared > 0)) if applies)
        return DataReport(counts, self.left_out, round(majority_share(self.test.labels), 4), notes)


def load_dataset(recipe: DataRecipe, progress: Progress = SILENT) -> Dataset:
    """Everything in memory as uint8; raises DataError naming the file at fault."""
    color: Color = recipe.color or ("grey" if recipe.dataset == "fashion-mnist" else "rgb")
    if recipe.dataset == "fashion-mnist":
        folder = fashion_mnist.locate(Path(recipe.path) if recipe.path else None, progress)
        train, test = fashion_mnist.load(folder, color, recipe.size or fashion_mnist.SIZE, progress)
        classes: tuple[str, ...] = fashion_mnist.CLASSES
        left_out: tuple[LeftOut, ...] = ()
        shared = 0
        default = (fashion_mnist.MEAN * CHANNELS[color], fashion_mnist.STD * CHANNELS[color])
    else:
        assert recipe.path is not None  # recipe.load refuses the recipe otherwise
        assert recipe.size is not None
        decoding = Decoding(color, recipe.size, recipe.white, recipe.skip_bad)
        loaded = image_folder.load_folder(Path(recipe.path), decoding, recipe.test_fraction, progress)
        train, test, classes, left_out, shared = loaded
        default = None
    mean, std = (recipe.mean, recipe.std) if recipe.mean and recipe.std else default or channel_statistics(train.images)
    height, width = train.images.shape[2:]
    preprocess = Preprocess(color, height, width, mean, std, white=recipe.white or msgspec.UNSET)
    return Dataset(train, test, classes, preprocess, left_out, shared)


class PictureShape(NamedTuple):
    """What a network is given and asked for, known before any picture is decoded."""

    channels: int
    height: int
    width: int
    classes: int


def picture_shape(recipe: DataRecipe) -> PictureShape:
    """The shape of the data set's pictures and its number of classes; raises DataError for a folder that cannot be divided."""
    if recipe.dataset == "fashion-mnist":
        height, width = recipe.size or fashion_mnist.SIZE
        return PictureShape(CHANNELS[recipe.color or "grey"], height, width, len(fashion_mnist.CLASSES))
    assert recipe.path is not None
    assert recipe.size is not None
    classes = image_folder.class_names(Path(recipe.path))
    return PictureShape(CHANNELS[recipe.color or "rgb"], *recipe.size, len(classes))


def golden_pictures(recipe: DataRecipe, preprocess: Preprocess, count: int) -> Pictures:
    """``count`` test pictures spread evenly over the test set (all of them when it has fewer)."""
    size = (preprocess.height, preprocess.width)
    if recipe.dataset == "fashion-mnist":
        folder = fashion_mnist.locate(Path(recipe.path) if recipe.path else None)
        return fashion_mnist.from_test_set(folder, preprocess.color, size, count)
    assert recipe.path is not None
    decoding = Decoding(preprocess.color, size, recipe.white, recipe.skip_bad)
    return image_folder.from_test_set(Path(recipe.path), decoding, recipe.test_fraction, count)


def fingerprint(recipe: DataRecipe, progress: Progress = SILENT) -> str:
    """A hash that changes when the pictures or their classes do, without decoding them."""
    if recipe.dataset == "fashion-mnist":
        content = repr(sorted(fashion_mnist.SHA256.items()))
    else:
        assert recipe.path is not None
        content = repr(image_folder.contents(Path(recipe.path), progress))
    return hashlib.sha256(content.encode()).hexdigest()


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel in the 0..1 range, in float64; a flat channel gets std 1."""
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].reshape(-1), minlength=256)
        levels = np.arange(256) / 255
        mean = float((counts * levels).sum() / counts.sum())
        variance = float((counts * (levels - mean) ** 2).sum() / counts.sum())
        means.append(round(mean, 6))
        stds.append(round(variance**0.5, 6) or 1.0)
    return tuple(means), tuple(stds)
