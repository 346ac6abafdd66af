"""What several files say of a build."""

from __future__ import annotations

from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.reports.build import BuildReport, PrecisionReport
from edgekit.tensors import BatchRange

RANGE = BuildOptions(profiles=(BatchRange(1, 2, 4),))


def precision_of(report: BuildReport) -> PrecisionReport:
    assert report.precision is not None
    return report.precision
