"""What is known of where a bundle comes from: from options, a recipe, a training's report, git and the environment."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekit.bundle.provenance import DataSet, Provenance, Training
from edgekit.errors import UsageError
from edgekit.numerals import whole
from edgekit.recipe import DATASETS, ExportRecipe, Recipe
from edgekit.reports.train import TrainReport
from edgekit.sources import ExportOptions
from edgekit.spdx import spdx
from edgekit.training.provenance import commit_of


def provenance_of(options: ExportOptions, recipe: Recipe | None = None, report: TrainReport | None = None) -> Provenance:
    """Licence, author, data and training of a source; options go before a recipe's keys.

    Raises UsageError for a licence that SPDX does not know.
    """
    settings = recipe.export if recipe is not None else ExportRecipe()
    try:
        license_ = spdx(options.license or settings.license)
    except ValueError as problem:
        raise UsageError(f"--license {problem}") from None
    author = " ".join((options.author or settings.author).split())
    return Provenance(license_, author, data=_data(recipe, report), training=_training(report))


def _data(recipe: Recipe | None, report: TrainReport | None) -> DataSet | None:
    if recipe is None:
        return None
    named = DATASETS[recipe.data.dataset].needs  # a folder of the user's has a name of its own
    name = Path(recipe.data.path).name if named and recipe.data.path else recipe.data.dataset
    origin = report.provenance if report is not None else None
    return DataSet(name, origin.data_sha256 if origin is not None else "")


def _training(report: TrainReport | None) -> Training | None:
    if report is None:
        return None
    epochs, origin = len(report.epochs), report.provenance
    if origin is None:  # an earlier edgekit trained it
        return Training(epochs)
    return Training(epochs, origin.seed, origin.initial_sha256, origin.commit, origin.changed, origin.versions)


class Moment(NamedTuple):
    """When and of which code an export is made."""

    created: str
    commit: str
    changed: bool

    def of(self, provenance: Provenance) -> Provenance:
        """``provenance`` of an export at this moment."""
        return msgspec.structs.replace(provenance, **self._asdict())


def moment(root: Path) -> Moment:
    """The moment of an export into the folder ``root``; raises UsageError for a SOURCE_DATE_EPOCH that is no time."""
    outputs = root.absolute().parent
    if Path.cwd().is_relative_to(outputs):
        outputs = root.absolute()
    return Moment(_created(), *commit_of(Path.cwd(), outputs))


def _created() -> str:
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return ""
    seconds = whole(text)
    if seconds is not None:
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
    raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}, which is no time", "give whole seconds since 1970, or unset it")
