"""Further files of a bundle's network, in other precisions or for pictures: functions from a bundle to one more file's draft."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import msgspec

from edgekit.budgets import Budget
from edgekit.bundle.folder import Bundle
from edgekit.bundle.ranges import RangeTable
from edgekit.bundle.variants import VariantDraft
from edgekit.errors import UsageError
from edgekit.progress import SILENT, Progress
from edgekit.recipe import DataRecipe
from edgekit.reports.quantize import Attempt, Sensitivity
from edgekit.spelling import did_you_mean

CONVERTERS = {
    "int8": "edgekit.variants.int8",
    "float16": "edgekit.variants.half",
    "with-preprocessing": "edgekit.variants.preprocessing",
}
"""Variant -> the module whose ``convert`` makes it."""


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the caller asks of a variant, beside its precision.

    ``calibrate``: a recipe, a folder of pictures, an .npz file or ``random``; None: the training set of the bundle's recipe.
    ``samples``: how many samples to calibrate on; None: 256. ``keep``: nodes, or modules, that stay in float32. ``budget``: what
    may be lost, such as ``accuracy=-0.3pt`` or ``snr=30dB``. ``training``: the data set of the training, where the caller knows
    more of it than the bundle does, such as its folder. ``learned``: the ranges of a training for int8, in place of all others.
    """

    calibrate: str | None = None
    samples: int | None = None
    keep: tuple[str, ...] = ()
    budget: str | None = None
    training: DataRecipe | None = None
    learned: RangeTable | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a number of samples that is none."""
        if self.samples is not None and not 1 <= self.samples <= 100_000:
            raise UsageError(
                f"{self.samples} calibration samples are too few or too many", "give a number from 1 to 100000, like 256"
            )


class Outcome(NamedTuple):
    """The draft of a variant, and what was tried on the way to it.

    ``snr_db`` is of the first golden part, against the bundle's reference. ``budget`` is what the file was held to. ``data`` is
    the data set whose test pictures can judge the file, where it is known. ``untimed``: why its time beside the first file's in
    ONNX Runtime on this CPU would mean nothing; empty where it means something.
    """

    draft: VariantDraft
    snr_db: float
    attempts: tuple[Attempt, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    budget: Budget | None = None
    data: DataRecipe | None = None
    untimed: str = ""


def convert(bundle: Bundle, to: str, wanted: Wanted, progress: Progress = SILENT) -> Outcome:
    """The draft of the variant ``to``; raises UsageError for one that there is not."""
    if to not in CONVERTERS:
        raise UsageError(
            f"--to {to}: there is no such variant", f"choose from {', '.join(CONVERTERS)}{did_you_mean(to, CONVERTERS)}"
        )
    module: Any = importlib.import_module(CONVERTERS[to])
    outcome: Outcome = module.convert(bundle, wanted, progress)
    return outcome
