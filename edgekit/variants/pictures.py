"""What a new variant does to labelled pictures: on training pictures to choose by it, on the test set to report it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit import data
from edgekit.accuracy import paired
from edgekit.budgets import Budget
from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import Variant
from edgekit.data.pictures import Pictures
from edgekit.errors import EdgekitError, UsageError
from edgekit.onnx.run import open_unoptimised, run_in_turns
from edgekit.parity.accuracy import BATCH, classes_of
from edgekit.recipe import DataRecipe
from edgekit.reports.quantize import AccuracyChange
from edgekit.tensors import fixed_batch

HELD = 5000
"""Training pictures that a budget of accuracy is judged on."""


class LabelledPictures:
    """Labelled pictures and the float32 file's answers, which other files are held against."""

    def __init__(self, bundle: Bundle, pictures: Pictures, name: str) -> None:
        self._bundle, self._pictures, self._name = bundle, pictures, name
        self._before = self._answers(bundle.onnx_bytes(), bundle.variant())

    def change(self, content: bytes, variant: Variant | None = None) -> AccuracyChange:
        """The accuracy of a file against that of the float32 file, both in ONNX Runtime with its optimisations.

        The file takes what the ``variant`` takes; None: what the first does.
        """
        after, labels = self._answers(content, variant or self._bundle.variant()), self._pictures.labels
        both = paired(self._before == labels, after == labels)
        return AccuracyChange(
            of=self._name,
            pictures=both.n,
            before=float((self._before == labels).mean()),
            after=float((after == labels).mean()),
            low=both.low,
            high=both.high,
            flips=int((after != self._before).sum()),
        )

    def _answers(self, content: bytes, variant: Variant) -> NDArray[np.int64]:
        manifest = self._bundle.manifest
        intake, (given,) = variant.intake(manifest.preprocess), variant.inputs or manifest.inputs
        assert intake is not None
        run = open_unoptimised(content, Path("model.onnx"), level="all")
        sizes, output = (fixed_batch([given]) or BATCH,), manifest.outputs[0].name
        predicted = classes_of(
            lambda inputs: run_in_turns(run, {given.name: inputs}, sizes)[output], self._pictures.images, intake
        )
        assert predicted is not None  # its output has two axes
        return predicted


def held_pictures(bundle: Bundle, recipe: DataRecipe | None, budget: Budget) -> LabelledPictures:
    """Training pictures that a ``budget`` of accuracy is judged on; raises UsageError where none are known."""
    if recipe is None or not _classifies(bundle):
        raise UsageError(
            f"--budget {budget.text} needs labelled training pictures, and where they are is not known",
            "give --calibrate the recipe of the training, or write --budget snr=30dB",
        )
    assert bundle.manifest.preprocess is not None
    pictures = data.training_pictures(recipe, bundle.manifest.preprocess, HELD)
    return LabelledPictures(bundle, pictures, f"{len(pictures)} training pictures")


def tested_pictures(bundle: Bundle, recipe: DataRecipe | None) -> LabelledPictures | None:
    """The recipe's test set; None where it is not on this machine, or the network does not classify pictures."""
    if recipe is None or not _classifies(bundle):
        return None
    assert bundle.manifest.preprocess is not None
    try:
        pictures = data.golden_pictures(recipe, bundle.manifest.preprocess, data.EVERY)
    except EdgekitError:
        return None
    return LabelledPictures(bundle, pictures, f"the {len(pictures)} test pictures")


def _classifies(bundle: Bundle) -> bool:
    manifest = bundle.manifest
    return manifest.preprocess is not None and bool(manifest.labels) and len(manifest.outputs[0].shape) == 2
