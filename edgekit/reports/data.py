"""The reports of ``edgekit data``."""

from __future__ import annotations

import math

import msgspec

from edgekit.reports.base import Report
from edgekit.reports.page import Line, Page


class DataReport(Report, frozen=True):
    """A checked dataset on this machine."""

    dataset: str
    folder: str
    train: int
    test: int
    classes: tuple[str, ...]

    def page(self) -> Page:
        """The number of pictures and classes, and the folder."""
        return (
            Line(
                f"{self.dataset}: {self.train:,} + {self.test:,} pictures of {len(self.classes)} classes, "
                f"checked, in {self.folder}"
            ),
        )


class DecodedSet(msgspec.Struct, frozen=True):
    """Decoded pictures in a file of the cache."""

    what: str
    path: str
    bytes: int


class CacheReport(Report, frozen=True):
    """The decoded pictures in the cache's ``folder``, or those that were ``removed`` from it."""

    folder: str
    decoded: tuple[DecodedSet, ...]
    removed: bool

    def page(self) -> Page:
        """A line for each file, with its size in units of 10^9 bytes, and their sum."""
        total = sum(each.bytes for each in self.decoded)
        did = "removed from" if self.removed else "in"
        lines = [f"{_gigabytes(each.bytes)}  {each.what}" for each in self.decoded]
        return tuple(map(Line, [*lines, f"{_gigabytes(total)} of decoded pictures {did} {self.folder}"]))


def _gigabytes(size: int) -> str:
    return f"{math.ceil(size / 1e7) / 100:.2f} GB"
