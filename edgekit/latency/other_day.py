"""A stored report as the other side: it informs, and decides only where the machine is the same and the control did not move.

The control is the reference network on the backend of each row that decides: a CPU that has not moved says nothing of a GPU. How
far it may have moved, by its bounds, is taken from what is judged, and both share the risk. No coin decides which day a process
falls on: the verdict stands on the day moving network and bundle by the same ratio, and on noise that takes no side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekit.errors import InputError, UsageError
from edgekit.files import read_bytes
from edgekit.latency.control import control_of
from edgekit.latency.prediction import FEWEST_PROCESSES
from edgekit.latency.signflip import MOST_PAIRS
from edgekit.latency.turns import Thing
from edgekit.latency.verdict import CONTROLLED_ALPHA, evidence_of
from edgekit.reports.against import Control, Stored
from edgekit.reports.bench import OF_THE_MOMENT, BenchReport, Between
from edgekit.reports.fresh import Fresh
from edgekit.setups import Setup


def read_report(file: Path) -> BenchReport:
    """A report of ``edgekit bench`` with processes; raises InputError for another file, and UsageError for one without."""
    report = BenchReport.from_json(read_bytes(file, "report", InputError))
    rows = (*report.between, *report.controls)
    if not report.between or min(len(row.processes) for row in rows) < FEWEST_PROCESSES:
        raise UsageError(f"{file} has no medians of fresh processes", "make it with edgekit bench B --processes 8 --output FILE")
    if not all(0 < ms < math.inf for row in rows for ms in row.medians_ms):
        raise InputError(f"{file} has medians that are no times", "make the report again")
    return report


def row_like(thing: Thing, report: BenchReport, file: Path) -> Between:
    """The stored row of that backend, threads, options, batch and boundary; raises UsageError that lists those there are.

    It may be of another variant: files that are compared need not have one name.
    """
    wanted = (_place(thing.setup), thing.batch, thing.boundary)
    rows = [row for row in report.between if (_place(row.setup), row.batch, row.boundary) == wanted]
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise UsageError(f"{file} has {len(rows)} rows of {_told(thing)}", "store a report of one bundle and variant")
    known = "; ".join(dict.fromkeys(_told(row) for row in report.between))
    raise UsageError(f"{file} has no processes of {_told(thing)}", f"it has {known}")


def check_seconds(file: Path, report: BenchReport, seconds: float) -> None:
    """Raise UsageError where the report's processes were timed for another time than ``seconds``."""
    if report.seconds not in (0.0, seconds):
        raise UsageError(
            f"{file} has timed its processes for {report.seconds:g} s each, and these would be for {seconds:g} s",
            f"give --seconds {report.seconds:g}",
        )


class Today(NamedTuple):
    """What a stored report is held against: facts of the machine, the setups that decide, and the controls' processes."""

    machine: Mapping[str, str]
    setups: Sequence[Setup]
    controls: Sequence[tuple[Thing, Sequence[Fresh]]]


def other_day(file: Path, report: BenchReport, today: Today, limit: float) -> Stored:
    """What has changed since the report, and whether it may decide."""
    controls = [_held(thing, processes, report, limit) for thing, processes in today.controls]
    known = tuple(control for control in controls if control is not None)
    differs = differing(report.machine, today.machine, known)
    if report.seconds == 0.0:
        informs = "it does not say how long its processes were timed; store it again"
    else:
        informs = informing_only(differs, known, today.setups)
    return Stored(str(file), differs, known, informs)


def _place(setup: Setup) -> Setup:
    return msgspec.structs.replace(setup, variant="", batches=())


def _told(row: Thing | Between) -> str:
    return f"{_place(row.setup)}, batch {row.batch}, {row.boundary}"


def _held(thing: Thing, now: Sequence[Fresh], report: BenchReport, limit: float) -> Control | None:
    """The reference network now over then; None where the report has not timed it by that setup.

    It did not move where its bounds lie within the limit on both sides.
    """
    then = next((row for row in report.controls if row.setup == thing.setup), None)
    if then is None:
        return None
    pairs = list(zip(now, then.processes, strict=False))[:MOST_PAIRS]
    found = evidence_of([one.median_ms for one, _ in pairs], [other.median_ms for _, other in pairs], CONTROLLED_ALPHA)
    within = found.high is not None and found.low > 0 and max(math.log(found.high), -math.log(found.low)) <= math.log1p(limit)
    return Control(thing.setup, tuple(now), then.processes, found.ratio, found.low, found.high, moved=not within)


def differing(then: Mapping[str, str], now: Mapping[str, str], controls: Sequence[Control]) -> dict[str, str]:
    """Facts of the machine, and of the controls' runtimes, that are not as they were: name -> "then -> now"."""
    pairs = [(then, now), *((control.second[0].facts, control.first[0].facts) for control in controls)]
    return {
        name: f"{old.get(name, 'none')} -> {new.get(name, 'none')}"
        for old, new in pairs
        for name in sorted({*old, *new})
        if name not in OF_THE_MOMENT and old.get(name) != new.get(name)
    }


def informing_only(differs: Mapping[str, str], controls: Sequence[Control], setups: Sequence[Setup]) -> str:
    """Why a stored report decides nothing of ``setups`` here; empty where it may."""
    if differs:
        return "not the same machine: " + ", ".join(f"{name} {change}" for name, change in differs.items())
    known = {control.setup for control in controls}
    without = [str(setup) for setup in dict.fromkeys(map(control_of, setups)) if setup not in known]
    if without:
        return f"the reference network was not timed both times on {', '.join(without)}"
    moved = [str(control.setup) for control in controls if control.moved]
    return f"the reference network moved on {', '.join(moved)}" if moved else ""
