"""Accuracies that this machine has measured: they are read again where file, runtime, CPU and pictures are the same."""

from __future__ import annotations

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

FILE = "accuracy.json"


class Known(NamedTuple):
    """Accuracies by what they depend on; ``data``: the fingerprint of the pictures."""

    bundle: Bundle
    data: str
    entries: Mapping[str, AccuracyDifference]

    @classmethod
    def read(cls, bundle: Bundle, data: str) -> Known:
        """What is known of the bundle on this machine; nothing where the file cannot be read."""
        try:
            entries = msgspec.json.decode(kept(bundle, FILE) or b"{}", type=dict[str, AccuracyDifference])
        except (msgspec.DecodeError, UnicodeDecodeError):
            entries = {}
        return cls(bundle, data, entries)

    def of(self, setup: Setup) -> AccuracyDifference | None:
        """The accuracy by ``setup``, whose threads do not matter."""
        return self.entries.get(self._key(setup))

    def learn(self, measured: Mapping[Setup, AccuracyDifference]) -> Known:
        """Keep ``measured`` too."""
        entries = {**self.entries, **{self._key(setup): accuracy for setup, accuracy in measured.items()}}
        keep(self.bundle, FILE, msgspec.json.format(msgspec.json.encode(entries), indent=2) + b"\n")
        return self._replace(entries=entries)

    def _key(self, setup: Setup) -> str:
        alone = msgspec.structs.replace(setup, threads=None, batches=())
        versions = versions_of(package.name for package in row_of(setup.backend).packages)
        facts = [f"{name} {version}" for name, version in versions.items()]
        return "; ".join((str(alone), *facts, *instruction_sets(), self.data))
