"""The report of what works on this machine."""

from __future__ import annotations

from edgekit.machine.fitness import Condition, State
from edgekit.reports.base import Part, Report, Skipped, reasons
from edgekit.reports.page import Line, Page, Span, Table, columns
from edgekit.setups import Absence

_STATES: dict[State, Span] = {
    "fit": Span("fit", "good"),
    "weak": Span("weak", "warn"),
    "unfit": Span("UNFIT", "bad"),
    "unknown": Span("unknown", "dim"),
}
_MARKS = {"ok": Span("ok", "good"), "absent": Span("absent", "dim"), "broken": Span("BROKEN", "bad")}


class Finding(Part, frozen=True):
    """A package, or the driver, on this machine.

    ``status`` is ``ok``, ``absent`` or ``broken``; ``remedy`` is a command or nothing.
    """

    name: str
    status: str
    version: str
    runs_on: str
    problem: str
    remedy: str


class DoctorReport(Report, frozen=True):
    """What works on this machine; something absent is no fault, something broken is.

    ``backends``: of each that ``--backend`` takes, why it is absent here, or None. ``warnings``: what works here and is less than
    elsewhere, which is no fault.
    """

    machine: dict[str, str]
    findings: tuple[Finding, ...]
    backends: dict[str, Absence | None]
    warnings: tuple[Absence, ...] = ()

    @property
    def passed(self) -> bool:
        """Neither a package nor a backend is broken; what is absent is no fault."""
        return all(finding.status != "broken" for finding in self.findings) and not self._without(broken=True)

    def page(self) -> Page:
        """A row for each package, the backends that work, and why others do not."""
        rows = tuple(
            (row.name, _MARKS.get(row.status, row.status), row.version, row.runs_on, row.problem, row.remedy)
            for row in self.findings
        )
        works = ", ".join(backend for backend, absence in self.backends.items() if absence is None) or "none"
        return (
            Table("packages", columns("name", "", "version", "runs on", "problem", "remedy", prose=("problem", "remedy")), rows),
            Line(f"backends that work here: {works}"),
            *reasons(self._without(broken=True), "BROKEN", "bad"),
            *reasons(self._without(broken=False)),
            *(Line((Span("warning:", "warn"), f" {warning}")) for warning in self.warnings),
            Line(", ".join(f"{name} {fact}" for name, fact in self.machine.items())),
        )

    def _without(self, broken: bool) -> tuple[Skipped, ...]:
        """The backends that are broken here, or those that are merely absent."""
        rows = (Skipped.of(backend, absence) for backend, absence in self.backends.items() if absence is not None)
        return tuple(row for row in rows if row.broken is broken)


class FitnessReport(Report, frozen=True):
    """Whether this machine is fit to be measured: ``edgekit doctor --bench``. What is weak or not known is no fault."""

    machine: dict[str, str]
    conditions: tuple[Condition, ...]

    @property
    def passed(self) -> bool:
        """Nothing makes it unfit."""
        return all(condition.state != "unfit" for condition in self.conditions)

    def page(self) -> Page:
        """A row for each condition, and the verdict."""
        headings = columns("condition", "", "found", "what to do", prose=("found", "what to do"))
        rows = tuple((row.name, _STATES[row.state], row.found, row.remedy) for row in self.conditions)
        word = Span("yes", "good") if self.passed else Span("no", "bad")
        return (
            Table("this machine as a measuring instrument", headings, rows),
            Line("weak: times scatter more than they had to. unfit: times tell of something else than the bundle."),
            Line(("fit to be measured now: ", word)),
            Line(", ".join(f"{name} {fact}" for name, fact in self.machine.items())),
        )
