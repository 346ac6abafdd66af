"""What this machine has found out about a bundle: the last report of each command, in the user's state folder.

A record is kept under the sha256 of the bundle's manifest and under the machine, so that what is of another bundle or of another
kind of machine is never taken for this one's: a home folder may be shared by several machines.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekit.errors import InputError, OutputError, printable
from edgekit.files import read_bytes, state_folder, write_bytes
from edgekit.machine.cpu import machine_facts
from edgekit.machine.gpu import gpu_facts
from edgekit.version import __version__

MOST_BYTES = 64 << 20
"""A larger file in the state folder is not one that edgekit wrote."""
IDENTITY = ("system", "cpu", "gpu", "compute capability")
"""The facts that tell one kind of machine from another."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A report as JSON, with what it was measured by: ``words`` of the command line, ``when`` in UTC, the machine's facts."""

    command: str
    words: str
    when: str
    edgekit: str
    host: str
    machine: dict[str, str]
    report: msgspec.Raw


class Records(NamedTuple):
    """``here``: command -> this machine's last record. ``elsewhere``: other machines'. ``unreadable``: files that are none."""

    here: dict[str, Record]
    elsewhere: tuple[Record, ...]
    unreadable: tuple[Path, ...]


def all_facts() -> dict[str, str]:
    """The facts of this machine and of its GPU."""
    return machine_facts() | gpu_facts()


def keep(manifest_sha256: str, command: str, report: bytes, words: str) -> None:
    """Keep ``report``, a JSON document, in place of the last one; a folder that cannot be written is no fault."""
    facts = all_facts()
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    compact = msgspec.Raw(msgspec.json.format(report, indent=-1))
    record = Record(command, words, now, __version__, printable(platform.node()), facts, compact)
    with suppress(OutputError, OSError):
        write_bytes(folder_for(manifest_sha256, facts) / f"{command}.json", msgspec.json.encode(record))


def records(manifest_sha256: str) -> Records:
    """Every record of the bundle with this manifest; none where there is no state folder, or it cannot be read."""
    here: dict[str, Record] = {}
    elsewhere, unreadable = list[Record](), list[Path]()
    try:
        own = folder_for(manifest_sha256, all_facts())
    except OutputError:
        return Records({}, (), ())
    for path in _files(own.parent):
        record = _read(path)
        if record is None:
            unreadable.append(path)
        elif path.parent == own:
            here[record.command] = record
        else:
            elsewhere.append(record)
    return Records(here, tuple(elsewhere), tuple(unreadable))


def folder_for(manifest_sha256: str, facts: dict[str, str]) -> Path:
    """Where what machines with these ``facts`` find out about a bundle is kept; raises OutputError where there is none."""
    named = "\n".join(f"{name}: {facts[name]}" for name in IDENTITY if name in facts)
    return state_folder(manifest_sha256) / hashlib.sha256(named.encode()).hexdigest()[:16]


def _files(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from sorted(folder.glob("*/*.json"))


def _read(path: Path) -> Record | None:
    try:
        record = msgspec.json.decode(read_bytes(path, "record", most=MOST_BYTES), type=Record)
    except (InputError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return record if f"{record.command}.json" == path.name else None
