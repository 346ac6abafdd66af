"""The table of backends: edgekit's own, and those that other packages bring by the entry-point group ``edgekit.backends``.

Importing this package imports no runtime; reading the table imports one light module for each backend.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points

import msgspec

from edgekit.backends.contract import Backend, Options, Session
from edgekit.backends.words import typed
from edgekit.bundle.files import ModelFiles
from edgekit.errors import BROKEN, EdgekitError, MissingError, UsageError, first_line
from edgekit.files import check_name
from edgekit.machine.packages import Package, below_floor, broken_package
from edgekit.progress import SILENT, Progress
from edgekit.setups import OWN_WORDS, RESERVED, Absence, Setup
from edgekit.spelling import did_you_mean

OWN = ("pytorch", "onnxruntime", "openvino", "tensorrt")
"""Folders of this package, each with its rows in ``BACKENDS``, in the order of reports."""
GROUP = "edgekit.backends"
USUAL_BACKEND = "ort-cpu"
"""The backend that runs a bundle where one is enough and none is named."""


@cache
def table() -> Mapping[str, Backend]:
    """Every backend by its name, edgekit's own first."""
    rows = {row.name: row for folder in OWN for row in importlib.import_module(f"edgekit.backends.{folder}").BACKENDS}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        for row in _rows_of(entry):
            named = row if row.name not in rows else _unusable(f"{_origin(entry)}:{row.name}", _reason_of(row, entry))
            rows[named.name] = named
    return rows


def row_of(name: str) -> Backend:
    """A row of the table; raises UsageError that lists the names there are."""
    if name not in table():
        raise UsageError(f"no backend {name!r}", f"use one of {', '.join(table())}{did_you_mean(name, (*table(), *RESERVED))}")
    return table()[name]


def takers(option: str) -> tuple[str, ...]:
    """The backends that have ``option``."""
    return tuple(name for name, row in table().items() if option in row.options.__struct_fields__)


def checked(setup: Setup, options: type[Options] | None = None) -> Setup:
    """The setup with its options as the backend's row types them, or as ``options`` does; raises UsageError for others."""
    kind = options or row_of(setup.backend).options
    values = {str(name).replace("-", "_"): value for name, value in setup.options.items()}
    for name in values:
        if name not in kind.__struct_fields__:
            word, words = name.replace("_", "-"), [field.replace("_", "-") for field in kind.__struct_fields__]
            near = did_you_mean(word, (*words, *OWN_WORDS))
            raise UsageError(f"{setup.backend} has no option {word!r}", f"its options: {', '.join((*words, *OWN_WORDS))}{near}")
    return msgspec.structs.replace(setup, options=typed(setup.backend, values, kind))


def absence(setup: Setup, files: ModelFiles | None = None) -> Absence | None:
    """Why the setup cannot run ``files`` on this machine, or any file; None where it can. A row that breaks is broken, not we."""
    wanted_setup, row = checked(setup), row_of(setup.backend)
    try:
        missing = row.absence(files, wanted_setup)
        if not isinstance(missing, Absence | None):
            raise TypeError(f"its absence is {missing!r}")
    except EdgekitError:
        raise
    except BROKEN as problem:
        broken = broken_package(setup.backend, problem)
        return Absence(f"{setup.backend} cannot tell whether it works: {first_line(problem)}", broken.remedy, broken=True)
    if missing is None and files is not None:
        return below_floor(row.packages, files.floor, files.onnx.name)
    return missing


def open_session(setup: Setup, files: ModelFiles, progress: Progress = SILENT) -> Session:
    """Open ``files`` by the setup; raises MissingError where its backend is not present here, UsageError for no such backend."""
    runnable = present(setup, files)
    return row_of(runnable.backend).open(files, runnable, progress)


def present(setup: Setup, files: ModelFiles) -> Setup:
    """The setup, checked; raises MissingError where it cannot run here."""
    typed_setup = checked(setup)
    missing = absence(typed_setup, files)
    if missing:
        raise missing.error(f"{typed_setup.backend} cannot run here: ")
    return typed_setup


def _rows_of(entry: EntryPoint) -> Iterable[Backend]:
    """The rows that an entry point names; for an entry point that breaks, a row that tells the reason."""
    try:
        loaded = entry.load()
        rows = (loaded,) if isinstance(loaded, Backend) else tuple(loaded)
        if not rows or not all(isinstance(row, Backend) for row in rows):
            raise TypeError(f"{entry.value} is no edgekit.backends.contract.Backend")
        for row in rows:
            _check_row(row)
    except BROKEN as problem:
        missing = broken_package(f"the backend of {_origin(entry)}", problem)
        name = entry.name if check_name(entry.name) and entry.name not in RESERVED else _origin(entry)
        return (_unusable(name, Absence(missing.reason, f"pip install --force-reinstall {_origin(entry)}", broken=True)),)
    return rows


def _check_row(row: Backend) -> None:
    """Raise for a row that would break the commands, or could not be asked for by its name."""
    if not check_name(row.name) or row.name in RESERVED:
        raise ValueError(f"{row.name!r} is no name for a backend")
    fields = msgspec.structs.fields(row.options)
    reserved = [field.name for field in fields if field.name in Setup.__struct_fields__ or field.encode_name != field.name]
    if reserved:
        raise ValueError(f"its option {reserved[0]!r} has another's name; call it otherwise, without rename")
    msgspec.to_builtins(row.options())  # every field has a default, and JSON has all of them
    for options in (row.as_written or {}, *row.worth_trying):
        typed(row.name, dict(options), row.options)
    if not all(isinstance(package, Package) for package in row.packages):
        raise TypeError(f"{row.name} has packages that are no edgekit.machine.packages.Package")


def _reason_of(row: Backend, entry: EntryPoint) -> Absence:
    """Why a row does not get its name: it is broken anyhow, or another has the name."""
    broken = row.absence(None, Setup(row.name)) if row.open is _refuse else None
    return broken or Absence(f"there is another backend {row.name!r}", f"pip uninstall {_origin(entry)}", broken=True)


def _origin(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.module


def _unusable(name: str, missing: Absence) -> Backend:
    return Backend(name, partial(_absent, missing), _refuse)


def _absent(missing: Absence, files: ModelFiles | None, setup: Setup) -> Absence:
    return missing


def _refuse(files: ModelFiles, setup: Setup, progress: Progress) -> Session:
    raise MissingError(f"{setup.backend} cannot be opened", "run edgekit doctor")
