"""``runtime.json``: the way to run a bundle that ``edgekit tune`` chose for this machine, which other commands obey."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekit.backends import row_of
from edgekit.bundle.folder import Bundle
from edgekit.bundle.state import keep, kept, kept_elsewhere
from edgekit.errors import EdgekitError, MissingError, UsageError
from edgekit.machine.cpu import OF_TIMES
from edgekit.machine.packages import versions_of
from edgekit.machine.records import all_facts
from edgekit.progress import SILENT, Progress
from edgekit.setups import Setup, taking

FILE = "runtime.json"
FACTS = (*OF_TIMES, "gpu", "gpu memory", "driver", "cuda driver")
"""What must be alike for a choice to hold; the runtime's version must be too."""


class Tuned(msgspec.Struct, frozen=True):
    """The choice: ``setup`` is the best by ``metric`` for batches of ``batch``, on a machine of these facts and packages."""

    manifest_sha256: str
    setup: str
    metric: str
    batch: int
    made: str
    machine: dict[str, str]
    packages: dict[str, str]


class Choice(NamedTuple):
    """The setup that was chosen, None where there is none for this machine; ``note`` says so where another's was found.

    It is the best by ``metric`` for batches of ``batch``.
    """

    setup: Setup | None
    note: str = ""
    metric: str = ""
    batch: int = 0

    def said(self, batches: Iterable[int] = ()) -> Iterator[str]:
        """What runs, what it is the best by, and which of ``batches``, that are asked for, it was not tuned for."""
        yield f"run by {self.setup}, as edgekit tune chose for this machine (by {self.metric}, batch {self.batch})"
        others = [str(size) for size in dict.fromkeys(batches) if size != self.batch]
        if others:
            told = " and ".join(others)
            yield f"note: that was not tuned for batches of {told}; edgekit tune --batch {others[0]} finds what is best there"


def keep_choice(bundle: Bundle, setup: Setup, metric: str, batch: int, made: str) -> Path | None:
    """Write ``runtime.json``; None where the state folder cannot be written."""
    tuned = Tuned(bundle.sha256, str(setup), metric, batch, made, _facts(), _packages(setup))
    return keep(bundle, FILE, msgspec.json.format(msgspec.json.encode(tuned), indent=2) + b"\n")


def choice_for(bundle: Bundle) -> Choice:
    """What ``edgekit tune`` chose for the bundle here; a choice of another machine, or of other releases, is ignored."""
    content = kept(bundle, FILE)
    if content is None:
        content = kept_elsewhere(bundle, FILE)
    if content is None:
        return Choice(None)
    try:
        tuned = msgspec.json.decode(content, type=Tuned)
        setup = Setup.parse(tuned.setup)
        packages = _packages(setup)
        bundle.variant(setup.variant)
    except (msgspec.DecodeError, UnicodeDecodeError, EdgekitError):
        return Choice(None, f"{FILE} of this bundle cannot be read and is ignored; run edgekit tune again")
    if tuned.manifest_sha256 != bundle.sha256:
        return Choice(None, f"{FILE} is of another bundle and is ignored; run edgekit tune again")
    other = _difference(tuned.machine | tuned.packages, _facts() | packages)
    if other:
        return Choice(None, f"edgekit tune's choice, {setup}, is ignored: {other}; run edgekit tune again here")
    return Choice(setup, metric=tuned.metric, batch=tuned.batch)


def tuned_setup(bundle: Bundle, asked: Setup, batches: Iterable[int] = (), progress: Progress = SILENT) -> Setup:
    """The setup that ``tuned`` stands for, with the batches ``asked`` for.

    ``progress`` is told what it was tuned for, and which of ``batches`` and of those of ``asked`` are others. Raises MissingError
    where nothing was chosen on this machine, and UsageError where ``asked`` says more than ``tuned``.
    """
    if asked.variant or asked.threads or asked.options:
        raise UsageError(f"{asked}: tuned stands for a variant, threads and options too", "leave them out, or name the backend")
    choice = choice_for(bundle)
    if choice.setup is None:
        raise MissingError(choice.note or f"nothing was tuned for bundle {bundle.root} here", f"run edgekit tune {bundle.root}")
    for line in choice.said((*asked.batches, *batches)):
        progress.say(line)
    return taking(choice.setup, asked.batches)


def _facts() -> dict[str, str]:
    """What a choice holds for."""
    return {name: fact for name, fact in all_facts().items() if name in FACTS}


def _packages(setup: Setup) -> dict[str, str]:
    """The installed packages that the setup's backend runs on."""
    return versions_of(package.name for package in row_of(setup.backend).packages)


def _difference(then: dict[str, str], now: dict[str, str]) -> str:
    """The first fact that is another now."""
    for name in dict.fromkeys((*then, *now)):
        if then.get(name) != now.get(name):
            return f"its {name} was {then.get(name, 'none')!r} and is {now.get(name, 'none')!r} here"
    return ""
