"""What every kind of data set can do: a row of the table in ``edgekit.data``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edgekit.data.pictures import Pictures
from edgekit.preprocess import Preprocess
from edgekit.progress import Progress
from edgekit.recipe import DataRecipe
from edgekit.reports.train import LeftOut


class PictureShape(NamedTuple):
    """What a network is given and asked for, known before any picture is decoded."""

    channels: int
    height: int
    width: int
    classes: int


class Loaded(NamedTuple):
    """Decoded halves, the classes, what was left out, and how many test pictures are training pictures too.

    ``holdout`` are those that a recipe sets aside of the training pictures; ``train`` lacks them. ``notes`` are sentences about
    the whole set. ``statistics`` are mean and standard deviation for each channel, where they are known and need not be measured.
    """

    train: Pictures
    test: Pictures
    classes: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()
    shared: int = 0
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    notes: tuple[str, ...] = ()
    holdout: Pictures | None = None


class Source(NamedTuple):
    """A kind of data set.

    ``shape`` opens no picture; ``load`` decodes all; ``golden`` gives as many test pictures, spread over the test set, and
    ``training`` as many training pictures, spread over the training set. ``contents`` is whatever changes when the pictures or
    their classes do.
    """

    shape: Callable[[DataRecipe], PictureShape]
    load: Callable[[DataRecipe, Progress], Loaded]
    golden: Callable[[DataRecipe, Preprocess, int], Pictures]
    training: Callable[[DataRecipe, Preprocess, int], Pictures]
    contents: Callable[[DataRecipe, Progress], list[tuple[str, str]]]
