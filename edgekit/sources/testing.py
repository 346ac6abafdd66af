"""What the original and its exported file say of a recipe's test set: predictions to compare runtimes with, and the accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit import data
from edgekit.bundle.manifest import MODEL
from edgekit.graphs.trace import as_arrays, inference_copy, run_module, tensors_of_feed
from edgekit.onnx.run import open_unoptimised
from edgekit.parity.accuracy import classes_of
from edgekit.preprocess import Preprocess
from edgekit.sources.module import ModelSource
from edgekit.tensors import Array

UNTESTED = (
    "the accuracy of the file was not measured, because ONNX Runtime does not run it on the CPU; edgekit evaluate measures it"
)


class Tested(NamedTuple):
    """A test set: its fingerprint, the original's class of each picture and the right one, and the share the file has right."""

    data: str
    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]
    accuracy: float | None


def tested(model: ModelSource, preprocess: Preprocess | None, content: bytes | None) -> Tested | None:
    """The original on its recipe's whole test set, and its ONNX file where ONNX Runtime can run its ``content``.

    None for a model without a recipe, or whose first output is no vector of classes.
    """
    if model.recipe is None or preprocess is None:
        return None
    pictures = data.golden_pictures(model.recipe.data, preprocess, data.EVERY)
    copy, name = inference_copy(model.module), model.inputs[0].name

    def original(inputs: NDArray[np.float32]) -> Array:
        return next(iter(as_arrays(run_module(copy, tensors_of_feed({name: inputs}))).values()))

    predicted = classes_of(original, pictures.images, preprocess)
    if predicted is None:
        return None
    accuracy = None
    if content is not None:
        run = open_unoptimised(content, Path(MODEL), level="all")
        of_file = classes_of(lambda inputs: next(iter(run({name: inputs}).values())), pictures.images, preprocess)
        accuracy = None if of_file is None else float((of_file == pictures.labels).mean())
    return Tested(data.fingerprint(model.recipe.data), predicted, pictures.labels, accuracy)
