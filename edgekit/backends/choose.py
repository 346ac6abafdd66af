"""Which ways to run a bundle take part on this machine, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from edgekit.backends import absence, checked, open_session, present, row_of, table, takers
from edgekit.backends.contract import Opened
from edgekit.bundle.folder import Bundle
from edgekit.errors import MissingError, UsageError
from edgekit.machine.packages import pip_install
from edgekit.progress import SILENT, Progress
from edgekit.reports.base import Skipped
from edgekit.setups import EVERY, OWN_WORDS, Absence, Setup, as_setups
from edgekit.spelling import did_you_mean


class Choice(NamedTuple):
    """Setups that can run here, and the backends that cannot, where every one was asked for."""

    setups: tuple[Setup, ...]
    skipped: tuple[Skipped, ...]


def choose(bundle: Bundle, setups: Setup | str | Iterable[Setup | str] = ()) -> Choice:
    """What takes part: each setup asked for, which must be present, or with ``EVERY`` and with none asked for all that is.

    Variants are named, so that a report says which file it is about. Raises MissingError for what cannot run here.
    """
    chosen: list[Setup] = []
    skipped: list[Skipped] = []
    for requested in as_setups(setups):
        setup = msgspec.structs.replace(requested, variant=bundle.variant(requested.variant).name)
        if setup.backend == EVERY:
            runnable, absent = _present(bundle, setup)
            chosen += runnable
            skipped += absent
        else:
            chosen.append(present(setup, bundle.files(setup.variant)))
    return Choice(tuple(dict.fromkeys(chosen)), tuple(dict.fromkeys(skipped)))


def open_named(name: str, setup: Setup, bundle: Bundle, progress: Progress = SILENT) -> Opened:
    """Open the bundle's variant by the setup, under the name that tells it from the others of a report."""
    session = bundle.reading(
        lambda place: open_session(setup, bundle.files(setup.variant), progress),
        undo=lambda opened: opened.__exit__(None, None, None),
    )
    return Opened(name, setup, session, row_of(setup.backend).on_gpu)


def _present(bundle: Bundle, setup: Setup) -> tuple[list[Setup], list[Skipped]]:
    """Every backend, with those of the options that are its own; an option must have a backend that is present."""
    _check_known(setup.options)
    runnable: list[Setup] = []
    absent: dict[str, Absence] = {}
    for name, row in table().items():
        own = {option: value for option, value in setup.options.items() if option in row.options.__struct_fields__}
        own_setup = checked(msgspec.structs.replace(setup, backend=name, options=own))
        missing = absence(own_setup, bundle.files(setup.variant))
        if missing:
            absent[name] = missing
        else:
            runnable.append(own_setup)
    for option in setup.options:
        able = takers(option)
        if not {ready.backend for ready in runnable} & set(able):
            raise absent[able[0]].error(f"{able[0]} cannot run here: ")
    if not runnable:
        raise MissingError("no backend works here", f"see edgekit doctor, or {pip_install('cpu')}")
    return runnable, [Skipped.of(name, missing) for name, missing in absent.items()]


def _check_known(options: Mapping[str, Any]) -> None:
    for option in options:
        if not takers(option):
            word, fields = option.replace("_", "-"), {name for row in table().values() for name in row.options.__struct_fields__}
            near = did_you_mean(word, (*sorted(field.replace("_", "-") for field in fields), *OWN_WORDS))
            raise UsageError(f"no backend has the option {word!r}", f"check the spelling{near}")
