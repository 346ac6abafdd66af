"""What a run has done: steps that are skipped while nothing they depend on has changed.

``steps.json`` in the folder of a run keeps hashes of everything that each step depended on, by name, and of what it left behind.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgekit.files import fingerprints, write_bytes
from edgekit.progress import SILENT, Progress
from edgekit.reports.base import Report
from edgekit.reports.run import NOT_RUN, StepReport
from edgekit.version import __version__

STEPS = "steps.json"


class Done(msgspec.Struct, frozen=True):
    """A step as it was done: hashes of its key and of its outputs. An earlier edgekit kept one hash of the whole key."""

    key: dict[str, str] | str
    outputs: list[str]
    ok: bool
    detail: str


class Step(NamedTuple):
    """One step: ``key`` is everything its result depends on, by name, ``outputs`` what it leaves behind.

    ``action`` gives the step's report and a line about it. A failure of a step that is not ``repeatable``, because it measures
    the machine, is tried again.
    """

    name: str
    key: Callable[[], dict[str, Any]]
    action: Callable[[], tuple[Report, str]]
    outputs: tuple[Path, ...]
    repeatable: bool = True


def take_steps(steps: Iterable[Step], folder: Path, progress: Progress = SILENT) -> tuple[StepReport, ...]:
    """Do the steps in order, or skip them, up to one that fails; the run's ``folder`` keeps what they depended on."""
    record = _read(folder / STEPS)
    reports: list[StepReport] = []
    for step in steps:
        failed = next((report.step for report in reports if not report.ok), None)
        if failed is not None:
            reports.append(StepReport(step.name, NOT_RUN, False, 0.0, f"because {failed} failed"))
            continue
        report = _take(step, record, folder / STEPS)
        progress.say(f"{report.step}: {report.status}{'' if report.ok else ' FAILED'}, {report.detail}")
        reports.append(report)
    return tuple(reports)


def _take(step: Step, record: dict[str, Done], place: Path) -> StepReport:
    """Do the step, or skip it, and keep what it depended on in ``record``, which is written to ``place``."""
    key = {name: _hash(value) for name, value in ({"edgekit": __version__} | step.key()).items()}
    old = record.get(step.name)
    why = _why_again(old, key, step) if old else ""
    if old and not why:
        return StepReport(step.name, "skipped", old.ok, 0.0, f"unchanged: {old.detail}")
    started = time.perf_counter()
    report, detail = step.action()
    seconds = round(time.perf_counter() - started, 1)
    record[step.name] = Done(key, fingerprints(step.outputs), report.passed, detail)
    write_bytes(place, msgspec.json.format(msgspec.json.encode(record), indent=2))
    return StepReport(step.name, "done", report.passed, seconds, f"{why}: {detail}" if why else detail)


def _why_again(old: Done, key: dict[str, str], step: Step) -> str:
    """Why what was done is done again; nothing where it is as it was left."""
    if isinstance(old.key, str) or old.key.keys() != key.keys():
        return "again, since an earlier edgekit did it"
    changed = [name for name, value in key.items() if old.key.get(name) != value]
    if changed:
        return f"again, since {' and '.join(changed)} changed"
    if old.outputs != fingerprints(step.outputs):
        return "again, since what it left was changed or lost"
    return "" if old.ok or step.repeatable else "again, since it had failed"


def _hash(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


def _read(path: Path) -> dict[str, Done]:
    """What earlier runs did; a damaged record only means that everything is done again."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Done])
    except (OSError, msgspec.DecodeError):
        return {}
