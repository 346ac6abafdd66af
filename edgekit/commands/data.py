"""``edgekit data``: datasets."""

from __future__ import annotations

from edgekit.errors import UsageError
from edgekit.progress import SILENT, Progress
from edgekit.reports.data import DataReport
from edgekit.spelling import did_you_mean

FETCHED = ("fashion-mnist",)


def fetch(name: str, progress: Progress = SILENT) -> DataReport:
    """Find or fetch a dataset, and check all of it."""
    if name not in FETCHED:
        raise UsageError(f"no dataset {name!r} to fetch", f"there is fashion-mnist{did_you_mean(name, FETCHED)}")
    from edgekit.data import fashion_mnist

    folder = fashion_mnist.locate(progress=progress)
    train, test = fashion_mnist.load(folder)
    return DataReport(name, str(folder), len(train), len(test), fashion_mnist.CLASSES)
