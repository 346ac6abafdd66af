"""The report of a recipe's steps."""

from __future__ import annotations

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Page, Table, columns, verdict

NOT_RUN = "not run"
"""The status of a step behind one that failed."""


class StepReport(Part, frozen=True):
    """One step of ``edgekit run``: ``done``, ``skipped`` or ``not run``; ``ok`` is its check."""

    step: str
    status: str
    ok: bool
    seconds: float
    detail: str


class RunReport(Report, frozen=True):
    """All steps of a recipe."""

    recipe: str
    bundle: str
    steps: tuple[StepReport, ...]

    @property
    def passed(self) -> bool:
        """Every step's check holds."""
        return all(step.ok for step in self.steps)

    def page(self) -> Page:
        """A row for each step."""
        rows = tuple(
            (step.step, step.status, f"{step.seconds:.1f}", "-" if step.status == NOT_RUN else verdict(step.ok), step.detail)
            for step in self.steps
        )
        headings = columns("step", "", "seconds", "check", "result", numbers=("seconds",), prose=("result",))
        return (Table(self.recipe, headings, rows),)
