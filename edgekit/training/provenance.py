"""Where a training comes from: what somebody needs to repeat it, and to see why a repetition differs."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from edgekit.machine.bounds import waiting_seconds
from edgekit.machine.cpu import machine_facts
from edgekit.machine.packages import versions_of
from edgekit.reports.train import Provenance, Session, TrainReport
from edgekit.version import __version__

GIT_SECONDS = 10
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")
"""Packages that a training computes with."""
PASSING = ("load", "system", "python")
"""Facts of a machine that change from hour to hour, or that stand elsewhere."""


def provenance(seed: int, data_sha256: str, initial_sha256: str, sessions: Sequence[Session]) -> Provenance:
    """Where a training comes from that ``sessions`` have done, one after another; the last one's facts are the training's."""
    *earlier, last = sessions
    return Provenance(seed, data_sha256, initial_sha256, earlier=tuple(earlier), **msgspec.structs.asdict(last))


def session(folder: Path | None = None) -> Session:
    """What is known of this process, which begins to train; the git repository is that around ``folder``, or the current one."""
    versions = {"edgekit": __version__, "python": platform.python_version()} | versions_of(PACKAGES)
    commit, changed = commit_of(folder or Path.cwd())
    machine = {name: fact for name, fact in machine_facts().items() if name not in PASSING}
    return Session(versions, machine, commit, changed, began=now())


def now() -> str:
    """The time in UTC, as ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def commit_of(folder: Path, outputs: Path | None = None) -> tuple[str, bool]:
    """The commit checked out, and whether tracked files differ from it; nothing outside of a repository or without git.

    What differs below ``outputs``, a whole path, is what is made there, and does not count.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return "", False
    top = Path(_git(folder, "rev-parse", "--show-toplevel"))
    changed = filter(None, _git(folder, "diff", "--name-only", "-z", "HEAD", "--", ":/").split("\0"))
    return commit, any(outputs is None or not (top / name).is_relative_to(outputs.resolve()) for name in changed)


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=waiting_seconds(GIT_SECONDS),  # with less a commit goes unrecorded, and nothing says so
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
            "pictures": origin.data_sha256[:12],
            "initial weights": origin.initial_sha256[:12],
            **facts,
            **_of_sessions(origin.sessions),
        }
        for origin, facts in ((before.provenance, before.facts), (now.provenance, now.facts))
    ]
    names = dict.fromkeys((*tables[0], *tables[1]))
    pairs = ((name, *(table.get(name) or "none" for table in tables)) for name in names)
    return tuple(f"{name} ({old}, now {new})" for name, old, new in pairs if old != new)


def _of_sessions(sessions: Sequence[Session]) -> dict[str, str]:
    """Versions, machine and commit of all processes; where they were not alike, as ``2.11.0 then 2.12.0``."""
    tables = [
        {
            "commit": each.commit[:12] + (" with changes" if each.changed else ""),
            **each.versions,
            **each.machine,
        }
        for each in sessions
    ]
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: " then ".join(dict.fromkeys(table.get(name) or "none" for table in tables)) for name in names}
