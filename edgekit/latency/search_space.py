"""Every way to run a bundle on this machine: backend x variant x the backend's own options x threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from edgekit.backends import absence, checked, row_of
from edgekit.backends.choose import choose
from edgekit.bundle.folder import Bundle
from edgekit.machine.cpu import cores
from edgekit.progress import SILENT, Progress
from edgekit.reports.base import Skipped
from edgekit.setups import Setup


class SearchSpace(NamedTuple):
    """Setups to try, each with its threads where its backend computes on the CPU; and what cannot run here."""

    setups: tuple[Setup, ...]
    skipped: tuple[Skipped, ...]


def search_space(bundle: Bundle, asked: Iterable[Setup | str] = (), progress: Progress = SILENT) -> SearchSpace:
    """All ways that ``asked`` leaves open: what a setup says is kept, and what it leaves out is tried in every form.

    Without any asked for it is every backend present with every variant that takes what the network takes, since one is to stand
    for another. Raises MissingError for a backend that was named and cannot run here.
    """
    choice = choose(bundle, asked, all_variants=True, progress=progress)
    setups, skipped = dict[Setup, None](), list(choice.skipped)
    alike = [setup for setup in choice.setups if not bundle.variant(setup.variant).inputs]
    for base in alike:
        for options in _option_sets(base):
            setup = checked(msgspec.structs.replace(base, options={**options, **base.options}))
            missing = absence(setup, bundle.files(setup.variant))
            if missing:
                skipped.append(Skipped.of(str(setup), missing))
                continue
            setups |= dict.fromkeys(msgspec.structs.replace(setup, threads=count) for count in _thread_counts(setup))
    return SearchSpace(tuple(setups), tuple(dict.fromkeys(skipped)))


def of_file(setup: Setup) -> Setup:
    """What the setups of one file in one runtime with the same options share: parity, accuracy, what loading takes."""
    return msgspec.structs.replace(setup, threads=None, batches=())


def files_of(setups: Iterable[Setup]) -> tuple[Setup, ...]:
    """The ``of_file`` of each, once."""
    return tuple(dict.fromkeys(map(of_file, setups)))


def _option_sets(setup: Setup) -> Sequence[Mapping[str, Any]]:
    """What the backend's row says is worth trying; only what was asked for where that is options."""
    return ({},) if setup.options else row_of(setup.backend).worth_trying


def _thread_counts(setup: Setup) -> Iterator[int | None]:
    """1, 2, 4, ... and all cores."""
    if setup.threads is not None or row_of(setup.backend).on_gpu:
        yield setup.threads
        return
    count, most = 1, cores()
    while count < most:
        yield count
        count *= 2
    yield most
