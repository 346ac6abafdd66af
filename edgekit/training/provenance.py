"""Where a training comes from: what somebody needs to repeat it, and to see why a repetition differs."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from edgekit.machine.cpu import machine_facts
from edgekit.machine.packages import versions_of
from edgekit.reports.train import Provenance, TrainReport
from edgekit.version import __version__

GIT_SECONDS = 10
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")
"""Packages that a training computes with."""
PASSING = ("load", "system", "python")
"""Facts of a machine that change from hour to hour, or that stand elsewhere."""


def provenance(seed: int, data_sha256: str, initial_sha256: str, folder: Path | None = None) -> Provenance:
    """What is known of a training that begins now; the git repository is that around ``folder``, or the current one."""
    versions = {"edgekit": __version__, "python": platform.python_version()} | versions_of(PACKAGES)
    commit, changed = _commit(folder or Path.cwd())
    machine = {name: fact for name, fact in machine_facts().items() if name not in PASSING}
    return Provenance(seed, data_sha256, initial_sha256, versions, machine, commit, changed)


def _commit(folder: Path) -> tuple[str, bool]:
    """The commit checked out, and whether tracked files differ from it; nothing outside of a repository or without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    return commit, bool(commit and _git(folder, "status", "--porcelain", "--untracked-files=no"))


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def changes(before: TrainReport, now: TrainReport) -> tuple[str, ...]:
    """What differs between two trainings, like ``torch (2.11.0, now 2.12.0)``."""
    if before.provenance is None or now.provenance is None:
        return ("what an earlier edgekit did not record",)
    tables = [
        {
            "seed": str(origin.seed),
            "commit": origin.commit[:12] + (" with changes" if origin.changed else ""),
            "pictures": origin.data_sha256[:12],
            "initial weights": origin.initial_sha256[:12],
            **facts,
            **origin.versions,
            **origin.machine,
        }
        for origin, facts in ((before.provenance, before.facts), (now.provenance, now.facts))
    ]
    names = dict.fromkeys((*tables[0], *tables[1]))
    pairs = ((name, *(table.get(name) or "none" for table in tables)) for name in names)
    return tuple(f"{name} ({old}, now {new})" for name, old, new in pairs if old != new)
