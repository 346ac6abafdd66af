"""The report of ``edgekit verify --bisect``."""

from __future__ import annotations

from typing import Literal

from edgekit.errors import FETCH_AGAIN
from edgekit.reports.base import Part, Report
from edgekit.reports.page import Cell, Line, Page, Span, Table, columns, note, verdict
from edgekit.setups import Setup


class CulpritNode(Part, frozen=True):
    """The first node that departs.

    ``node`` and ``operator`` are those of the ONNX file, ``module`` is the path of the PyTorch module that it was written from,
    empty if that is not known. ``error`` is the error of scale of its ``value``, ``before`` the largest of what the node reads.
    ``alone`` is its error where it is fed exact inputs, None if that was not tried.
    """

    node: str
    operator: str
    module: str
    value: str
    error: float
    before: float
    alone: float | None = None


class Trial(Part, frozen=True):
    """A setup that was tried: its largest |y - r| in units of what is allowed, and the median milliseconds of one sample."""

    setup: Setup
    of_limit: float
    passed: bool
    median_ms: float


class BisectReport(Report, frozen=True):
    """Where a bundle departs on one backend.

    ``departs``: the ``file`` from what was exported, the ``runtime`` from the file, the ``reference`` from both, the ``manifest``
    from the files, ``nothing``, or ``unknown``: what ran passes, and nothing here runs ``not_run``, which are variants that were
    asked for. ``trials`` begin with the setup that was asked for; ``proposal`` is the fastest of them that passes.
    """

    bundle: str
    backend: str
    departs: Literal["file", "runtime", "reference", "manifest", "nothing", "unknown"]
    culprit: CulpritNode | None = None
    trials: tuple[Trial, ...] = ()
    proposal: Setup | None = None
    notes: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for a proposal that was not tried: the report may come from a file."""
        if self.proposal is not None and self.proposal not in [trial.setup for trial in self.trials]:
            raise ValueError(f"{self.proposal} is proposed and is none of the trials")

    @property
    def passed(self) -> bool:
        """Nothing departs, of all variants that were asked for."""
        return self.departs == "nothing"

    def page(self) -> Page:
        """What departs, where, and what helps."""
        words = {"bundle": self.bundle, "backend": self.backend, "unknown": " and ".join(self.not_run)}
        lines: Page = (Line(_WORDS[self.departs].format(**words)),)
        if self.culprit is not None:
            lines += (_culprit(self.culprit),)
        if len(self.trials) > 1:
            numbers = ("of limit", "ms")
            lines += (Table("tried", columns("setup", *numbers, "", numbers=numbers), tuple(map(_row, self.trials))),)
        if self.proposal is not None:
            lines += (Line(("proposal: ", Span(f"--backend '{self.proposal}'", "good"), self._effect(self.proposal))),)
        if self.departs == "manifest":
            lines += tuple(Line((verdict(False), f" {text}")) for text in self.notes)
        else:
            lines += tuple(map(note, self.notes))
        remedy = _REMEDIES.get(self.departs, "")
        return (*lines, Line(("what to do: ", Span(remedy, "good")))) if remedy else lines

    def _effect(self, proposal: Setup) -> str:
        before, after = self.trials[0], next(trial for trial in self.trials if trial.setup == proposal)
        return (
            f": {_of_limit(before)} -> {_of_limit(after)} of what is allowed, "
            f"{before.median_ms:.3g} -> {after.median_ms:.3g} ms a sample"
        )


NO_NUMBER = 1e300
"""Errors from here on stand for outputs that are not finite, or not of the reference's shape."""


def _of_limit(trial: Trial) -> str:
    return "not finite" if trial.of_limit >= NO_NUMBER else f"{trial.of_limit:.2g}"


def _row(trial: Trial) -> tuple[Cell, ...]:
    return str(trial.setup), _of_limit(trial), f"{trial.median_ms:.3g}", verdict(trial.passed)


_WORDS = {
    "nothing": "nothing departs: {bundle} passes on {backend}",
    "file": "the file departs from what was exported, on every runtime: {bundle} was changed, or is damaged",
    "reference": "the recorded outputs depart: {backend} computes what was exported, so golden.npz of {bundle} was changed",
    "manifest": "the manifest of {bundle} departs from its files, which pass on {backend}",
    "unknown": "whether {unknown} of {bundle} departs is not known: nothing here runs it; what ran passes",
    "runtime": "{backend} departs from what the file of {bundle} says; the file is what was exported",
}


_REMEDIES = {
    "file": f"{FETCH_AGAIN}; if you are that one, export it again",
    "reference": f"{FETCH_AGAIN}; if you are that one, export it again",
    "manifest": f"{FETCH_AGAIN}, or accept a claim with edgekit verify --allow",
    "unknown": "run it where a runtime for it is installed, or leave it out by naming the others with --variant",
    "runtime": "where a setup is proposed, use it; otherwise use another backend or release, and report the node to its makers",
}


def _culprit(culprit: CulpritNode) -> Line:
    place = f" (module {culprit.module})" if culprit.module else ""
    name = Span(f"{culprit.operator} {culprit.node or culprit.value}", "bad")
    if culprit.error >= NO_NUMBER:
        return Line(("first node that departs: ", name, f"{place}: its output is not finite, or of another shape"))
    alone = ""
    if culprit.alone is not None:
        by_itself = culprit.alone >= culprit.error / 8
        cause = "its own kernel departs" if by_itself else "it departs only in what the runtime fuses it with"
        alone = f"; fed exact inputs it is off by {culprit.alone:.1e}, so {cause}"
    gradual = culprit.alone is None and culprit.error < 8 * culprit.before
    first = (
        "the error grows over several nodes, most at (the cause may lie before it): " if gradual else "first node that departs: "
    )
    text = f"{place}: {culprit.error:.1e} of scale, where its inputs have {culprit.before:.1e}{alone}"
    return Line((first, name, text))
