"""The report of what works on this machine."""

from __future__ import annotations

from edgekit.reports.base import Part, Report


class Finding(Part, frozen=True):
    """One runtime on this machine: ``status`` is ``ok``, ``absent`` or ``broken``; ``remedy`` is a command or nothing."""

    name: str
    status: str
    version: str
    runs_on: str
    problem: str
    remedy: str


class DoctorReport(Report, frozen=True):
    """What works on this machine; something absent is no fault, something broken is.

    ``backends``: of each that ``--backend`` takes, why it is absent here, or nothing.
    """

    machine: dict[str, str]
    findings: tuple[Finding, ...]
    backends: dict[str, str] = {}

    @property
    def passed(self) -> bool:
        """Nothing is broken; what is absent is no fault."""
        return all(finding.status != "broken" for finding in self.findings)
