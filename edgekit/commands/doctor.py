"""What works on this machine: every package and backend, what it would really run on, what is wrong, what mends it.

Each package is imported in a process of its own, because a broken one may crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import msgspec

from edgekit.backends import table
from edgekit.backends.contract import Backend
from edgekit.errors import BROKEN, first_line
from edgekit.machine.child import Answer, Limits, run_child
from edgekit.machine.cpu import machine_facts
from edgekit.machine.gpu import cuda_absence, gpu_facts
from edgekit.machine.packages import Package, pip_install, plain_package, version_of
from edgekit.progress import SILENT, Progress
from edgekit.reports.doctor import DoctorReport, Finding
from edgekit.setups import Absence

LIMITS = Limits(seconds=120)
Probe: TypeAlias = Callable[[Sequence[str], str], "Answer | Absence"]
"""Runs a module with arguments, and gives its answer, which has the key named; or why there is none."""


def doctor(progress: Progress = SILENT, probe: Probe | None = None) -> DoctorReport:
    """Look at every package and backend, with ``probe`` in place of a process for each."""
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
    return DoctorReport(facts, tuple(findings), backends)


def _facts_of(row: Backend) -> dict[str, str]:
    try:
        return {str(name): str(fact) for name, fact in row.doctor_facts().items()}
    except BROKEN as problem:  # a row from elsewhere must not take the findings with it
        return {row.name: f"cannot tell its facts: {first_line(problem)}"}


def ask(command: Sequence[str], key: str) -> Answer | Absence:
    """Run a module in a process of its own; why there is no answer that has ``key`` is what is broken."""
    outcome = run_child(command[0], command[1:], LIMITS, key)
    if isinstance(outcome, dict):
        return outcome
    if outcome.kind == "silence":
        return Absence("importing it ends the program before it can say its version", "", broken=True)
    return Absence(outcome.sentence("importing it"), "", broken=True)


def _onnx_absence() -> Absence | None:
    return None if version_of("onnx") else Absence("not installed", pip_install("cpu"))


ONNX = Package("onnx", _onnx_absence, ("edgekit.machine.probe", "onnx"), plain_package)
"""No backend is of this package, and much needs it."""


def _packages(rows: Iterable[Backend]) -> tuple[Package, ...]:
    """Those of all backends, each once: of two of one name the first."""
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
        again = f"pip install --force-reinstall {package.name}" if version else "install it again by what installed it"
        return Finding(package.name, "broken", version, "", facts.reason, again)
    examined = package.examine(facts)
    limit = examined.limit or Absence("", "")
    status = "broken" if limit.broken else "ok"
    return Finding(package.name, status, examined.version or version, examined.runs_on, limit.reason, limit.remedy)


def _without(name: str, version: str, absence: Absence) -> Finding:
    status = "broken" if absence.broken else "absent"
    return Finding(name, status, version if absence.broken else "", "", absence.reason, absence.remedy)


def _absence(backend: str, probe: Probe) -> Absence | None:
    """What ``--backend`` would say here."""
    facts = probe(("edgekit.backends.probe", backend), "absence")
    return facts if isinstance(facts, Absence) else msgspec.convert(facts["absence"], Absence | None)
