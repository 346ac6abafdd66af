"""A percentile that is shown only where the samples support it."""

from __future__ import annotations

from edgekit.reports.base import Part

BOUNDED = {"median": 50.0, "p90": 90.0, "p99": 99.0}
"""What a budget of latencies may bound, and the percentile that it is."""


class Percentile(Part, frozen=True):
    """A percentile of the samples in milliseconds; None with the number of samples it takes when there are fewer."""

    percent: float
    ms: float | None
    samples_needed: int
