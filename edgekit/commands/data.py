"""``edgekit data``."""

from __future__ import annotations

from edgekit.errors import UsageError
from edgekit.progress import SILENT, Progress
from edgekit.reports.catalogue import DataReport


def fetch_data(name: str, progress: Progress = SILENT) -> DataReport:
    """Find or fetch a dataset, and check all of it."""
    from edgekit.data import fashion_mnist

    if name != "fashion-mnist":
        raise UsageError(f"no dataset {name!r} to fetch; there is fashion-mnist")
    folder = fashion_mnist.locate(progress=progress)
    train, test = fashion_mnist.load(folder)
    return DataReport(name, str(folder), len(train), len(test), fashion_mnist.CLASSES)
