"""``edgekit doctor``: which packages and backends work on this machine, on which device, and the remedy for those that do not.

With ``--bench`` it is about the machine as a measuring instrument instead.

Each package is imported in a process of its own, because a broken package may crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import msgspec

from edgekit.backends import table
from edgekit.backends.contract import Backend
from edgekit.errors import BROKEN, first_line
from edgekit.machine.bounds import waiting_seconds
from edgekit.machine.child import Answer, Limits, run_child
from edgekit.machine.cpu import machine_facts, vnni_absence
from edgekit.machine.fitness import conditions
from edgekit.machine.gpu import cuda_absence, gpu_facts
from edgekit.machine.packages import Package, pip_install, plain_package, version_of
from edgekit.machine.records import all_facts
from edgekit.progress import SILENT, Progress
from edgekit.reports.doctor import DoctorReport, Finding, FitnessReport
from edgekit.setups import Absence

LIMITS = Limits(seconds=120)
Probe: TypeAlias = Callable[[Sequence[str], str], "Answer | Absence"]
"""Runs a module with arguments; returns its answer, which must have the named key, or the reason why there is none."""


def doctor(progress: Progress = SILENT, probe: Probe | None = None) -> DoctorReport:
    """Examine every package and backend; ``probe`` replaces the process for each."""
    probe, rows = probe or ask, table()
    packages, findings, backends = _packages(rows.values()), [_driver()], {}
    with progress.task("looking at runtimes", len(packages) + len(rows)) as advance:
        for package in packages:
            findings.append(_examine(package, probe))
            advance(1, package.name)
        for name in rows:
            backends[name] = _absence(name, probe)
            advance(1, name)
    facts = machine_facts()
    for row in rows.values():
        facts |= _facts_of(row)
    return DoctorReport(facts, tuple(findings), backends, tuple(filter(None, [vnni_absence()])))


def fitness(progress: Progress = SILENT) -> FitnessReport:
    """Watch for two seconds what moves times on this machine, and say what to change."""
    with progress.task("watching the machine", 1) as advance:
        found = conditions()
        advance(1, "")
    return FitnessReport(all_facts(), found)


def _facts_of(row: Backend) -> dict[str, str]:
    try:
        return {str(name): str(fact) for name, fact in row.doctor_facts().items()}
    except BROKEN as problem:  # a broken plugin must not hide the findings of others
        return {row.name: f"its facts cannot be read: {first_line(problem)}"}


def ask(command: Sequence[str], key: str) -> Answer | Absence:
    """Run a module in a process of its own; returns its answer, or a broken Absence if the answer lacks ``key``."""
    limits = LIMITS._replace(seconds=waiting_seconds(LIMITS.seconds))
    outcome = run_child(command[0], command[1:], limits, key)
    if isinstance(outcome, dict):
        return outcome
    if outcome.kind == "silence":
        return Absence("importing it ends the program before its version can be read", "", broken=True)
    return Absence(outcome.reason("importing it"), outcome.remedy, broken=True)


def _onnx_absence() -> Absence | None:
    return None if version_of("onnx") else Absence("not installed", pip_install("cpu"))


ONNX = Package("onnx", _onnx_absence, ("edgekit.machine.probe", "onnx"), plain_package)
"""The onnx package: not a backend's, but many commands need it."""


def _packages(rows: Iterable[Backend]) -> tuple[Package, ...]:
    """The packages of all backends, each name once; the first entry of a name counts."""
    packages = {ONNX.name: ONNX}
    for row in rows:
        for package in row.packages:
            packages.setdefault(package.name, package)
    return tuple(packages.values())


def _driver() -> Finding:
    absence = cuda_absence()
    if absence:
        return _without("NVIDIA driver", "", absence)
    facts = gpu_facts()
    return Finding("NVIDIA driver", "ok", facts.get("driver", ""), facts.get("gpu", "GPU"), "", "")


def _examine(package: Package, probe: Probe) -> Finding:
    version, absence = version_of(package.name), package.absence()
    if absence:
        return _without(package.name, version, absence)
    facts = probe(package.probe, "version")
    if isinstance(facts, Absence):
        again = (
            f"pip install --force-reinstall {package.name}" if version else f"reinstall {package.name} the way it was installed"
        )
        library = next((command for name, command in package.libraries.items() if name in facts.reason), again)
        return Finding(package.name, "broken", version, "", facts.reason, facts.remedy or library)
    examined = package.examine(facts)
    limit = examined.limit or Absence("", "")
    status = "broken" if limit.broken else "ok"
    return Finding(package.name, status, examined.version or version, examined.runs_on, limit.reason, limit.remedy)


def _without(name: str, version: str, absence: Absence) -> Finding:
    status = "broken" if absence.broken else "absent"
    return Finding(name, status, version if absence.broken else "", "", absence.reason, absence.remedy)


def _absence(backend: str, probe: Probe) -> Absence | None:
    """The absence of a backend, as ``--backend`` would report it on this machine."""
    facts = probe(("edgekit.backends.probe", backend), "absence")
    return facts if isinstance(facts, Absence) else msgspec.convert(facts["absence"], Absence | None)
