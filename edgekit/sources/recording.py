"""Record golden inputs of a PyTorch model, with its outputs: pictures where its data is known, and inputs that reach further."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgekit import data
from edgekit.bundle.manifest import GoldenPart
from edgekit.graphs.golden import record
from edgekit.parity.inputs import Recorded, extreme_pictures, only_steady, without_data
from edgekit.preprocess import Preprocess
from edgekit.sources.module import ModelSource
from edgekit.tensors import Array

if TYPE_CHECKING:
    from torch import fx


class _Inputs(NamedTuple):
    """Golden inputs by name, the labels of pictures (-1: none), and the kinds of samples."""

    feed: dict[str, Array]
    labels: Array | None
    parts: tuple[GoldenPart, ...]


def recorded_of(model: ModelSource, traced: fx.GraphModule, preprocess: Preprocess | None, count: int) -> Recorded:
    """The golden samples of ``model``: ``count`` pictures of its test set with extreme ones, or inputs made up.

    Raises ModelError if an output is not finite on the first part.
    """
    inputs = _inputs(model, preprocess, count)
    arrays = record(model.module, traced, inputs.feed, inputs.labels, inputs.parts[0].samples)
    return only_steady(Recorded(arrays, inputs.parts))


def _inputs(model: ModelSource, preprocess: Preprocess | None, count: int) -> _Inputs:
    if model.recipe is None or preprocess is None:
        made = without_data(model.inputs, preprocess)
        return _Inputs(made.inputs, None, made.parts)
    pictures = data.golden_pictures(model.recipe.data, preprocess, count)
    extremes = extreme_pictures(*pictures.images.shape[1:])
    images = np.concatenate([pictures.images, extremes])
    labels = np.concatenate([pictures.labels, np.full(len(extremes), -1, np.int64)])
    parts = (GoldenPart("pictures", len(pictures)), GoldenPart("extremes", len(extremes)))
    return _Inputs({model.inputs[0].name: preprocess.normalise(images)}, labels, parts)
