"""``edgekit data``: datasets, and the pictures that were decoded for training."""

from __future__ import annotations

from edgekit.errors import UsageError
from edgekit.progress import SILENT, Progress
from edgekit.reports.data import CacheReport, DataReport, DecodedSet
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


def cache(*, remove: bool = False) -> CacheReport:
    """What edgekit's cache holds of decoded pictures; ``remove`` removes it, and each is decoded again when it is needed."""
    from edgekit.data import cache

    found = cache.remove_entries() if remove else cache.entries()
    return CacheReport(str(cache.folder()), tuple(DecodedSet(what, str(path), size) for what, path, size in found), remove)
