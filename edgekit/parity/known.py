"""Accuracies that this machine has measured: they are read again where file, runtime, CPU and pictures are the same.

Each has a file of its own, so that processes that learn at the same time lose nothing of one another's, and nobody waits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from edgekit.backends import row_of
from edgekit.bundle.folder import Bundle
from edgekit.bundle.state import keep, kept
from edgekit.machine.cpu import instruction_sets
from edgekit.machine.packages import versions_of
from edgekit.reports.tune import AccuracyDifference
from edgekit.setups import Setup

FOLDER = "accuracy"


class Entry(msgspec.Struct, frozen=True):
    """An accuracy, and all that it depends on."""

    key: str
    accuracy: AccuracyDifference


class Known(NamedTuple):
    """Accuracies of a bundle by what they depend on; ``data``: the fingerprint of the pictures."""

    bundle: Bundle
    data: str

    def of(self, setup: Setup) -> AccuracyDifference | None:
        """The accuracy by ``setup``, whose threads do not matter; None where it is not known, or its file cannot be read."""
        key = self._key(setup)
        try:
            entry = msgspec.json.decode(kept(self.bundle, _file(key)) or b"", type=Entry)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return entry.accuracy if entry.key == key else None

    def learn(self, measured: Mapping[Setup, AccuracyDifference]) -> None:
        """Keep ``measured``; a state folder that cannot be written is no fault."""
        for setup, accuracy in measured.items():
            key = self._key(setup)
            keep(self.bundle, _file(key), msgspec.json.format(msgspec.json.encode(Entry(key, accuracy)), indent=2) + b"\n")

    def _key(self, setup: Setup) -> str:
        alone = msgspec.structs.replace(setup, threads=None, batches=())
        versions = versions_of(package.name for package in row_of(setup.backend).packages)
        facts = [f"{name} {version}" for name, version in versions.items()]
        return "; ".join((str(alone), *facts, *instruction_sets(), self.data))


def _file(key: str) -> str:
    return f"{FOLDER}/{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
