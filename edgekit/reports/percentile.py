"""A percentile that is shown only where the samples support it, and what may be asked of one."""

from __future__ import annotations

from typing import Literal

from edgekit.reports.base import Part

BOUNDED = {"median": 50.0, "p90": 90.0, "p99": 99.0}
"""What a budget of latencies may bound, and the percentile that it is."""


class Percentile(Part, frozen=True):
    """A percentile of the samples in milliseconds; None with the number of samples it takes when there are fewer."""

    percent: float
    ms: float | None
    samples_needed: int


class Bound(Part, frozen=True):
    """The most milliseconds that a median or a percentile may take."""

    key: Literal["median", "p90", "p99"]
    ms: float

    @property
    def percent(self) -> float:
        """Of the percentile that is bounded."""
        return BOUNDED[self.key]

    @property
    def name(self) -> str:
        """``median`` or ``P99``, as tables have it."""
        return self.key if self.key == "median" else self.key.upper()
