"""Packages on this machine: their versions, what is missing, and the command that installs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from edgekit.errors import BROKEN, FETCH_AGAIN, MissingError, first_line
from edgekit.machine.gpu import cuda_absence
from edgekit.setups import Absence
from edgekit.version import __version__


class Examined(NamedTuple):
    """The device on which a package would really run, and its limit or None."""

    runs_on: str = ""
    limit: Absence | None = None
    version: str = ""
    """The version that the package itself tells, where pip does not know it; else empty."""


class Package(NamedTuple):
    """An installed or missing distribution, for ``edgekit doctor``.

    ``absence`` says, without importing it, why it is not here or cannot work. ``probe`` is a module and its arguments, run in a
    process of its own, which prints JSON facts about the package; ``examine`` judges them. ``libraries``: the command that brings
    a shared library without which the package does not start. ``runtime``: what it brings, where that has another name.
    """

    name: str
    absence: Callable[[], Absence | None]
    probe: tuple[str, ...]
    examine: Callable[[Mapping[str, Any]], Examined]
    libraries: Mapping[str, str] = MappingProxyType({})
    runtime: str = ""


def broken_package(name: str, problem: BaseException) -> Absence:
    """The absence of a package that is installed and does not start; Ctrl-C during the import is passed on."""
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):  # pybind11 makes an ImportError of it
            raise cause
        cause = cause.__cause__ or cause.__context__
    reason = "it ends the program" if isinstance(problem, SystemExit) else first_line(problem)
    return Absence(f"{name} is installed but cannot be imported: {reason}", "run edgekit doctor", broken=True)


def below_floor(packages: Iterable[Package], floor: Mapping[str, str], file: str) -> Absence | None:
    """Why the installed ``packages`` are too old for a ``file``; ``floor``: runtime -> the oldest release that runs it as meant.

    A release that pip does not know is taken as new enough.
    """
    for package in packages:
        asked, here = floor.get(package.runtime or package.name), version_of(package.name)
        if asked is None or not here:
            continue
        try:
            old = Version(here) < Version(asked)
        except InvalidVersion as problem:
            return Absence(f"{file} asks for a release of {package.name} that cannot be compared: {problem}", FETCH_AGAIN)
        if old:
            remedy = f"pip install '{package.name}>={asked}'"
            return Absence(f"{file} needs {package.name} {asked} or newer, and {here} is installed", remedy)
    return None


def needs(*packages: str, extra: str | None = None) -> None:
    """Raise MissingError unless every package is installed; the remedy is all of ``extra``, or just what is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        remedy = pip_install(extra) if extra else "pip install"
        remedy = " ".join((remedy, *(name for name in missing if name not in remedy.split())))
        if extra:
            remedy = (
                f"in a clone of edgekit: pip install -c constraints.txt -e '.[{extra}]' (tested versions), or anywhere: {remedy}"
            )
        are = "is" if len(missing) == 1 else "are"
        raise MissingError(f"this needs {', '.join(missing)}, which {are} not installed", remedy)


def needs_onnx() -> None:
    """Looked at before a file is: a package that is broken is not the file's fault."""
    needs("onnx")
    try:
        import onnx

        _ = onnx.load_model_from_string
    except BROKEN as problem:
        raise broken_package("onnx", problem).error() from problem


def tool_versions() -> dict[str, str]:
    """Versions of edgekit and of the packages its results depend on, of those installed."""
    packages = ("torch", "onnx", "onnxscript", "numpy", "onnxruntime", "onnxruntime-gpu")
    return {"edgekit": __version__} | versions_of(packages)


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those that are installed."""
    return {name: version for name, version in ((name, version_of(name)) for name in packages) if version}


def version_of(name: str) -> str:
    """The version of an installed distribution; empty where pip knows none of that name."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def pip_install(extra: str) -> str:
    """The command that installs what ``extra``, one of pyproject.toml's, brings, without edgekit."""
    try:
        lines = importlib.metadata.requires("edgekit") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder that was never installed
        lines = []
    names = [requirement.name for requirement in map(Requirement, lines) if _only_with(extra, requirement.marker)]
    return f"pip install {' '.join(names)}" if names else f"install edgekit's extra {extra} from its repository"


def for_gpus(command: str) -> str:
    """The command that installs what only a GPU needs: where there is none, it says so."""
    return f"for NVIDIA GPUs: {command}" if cuda_absence() else command


def plain_package(facts: Mapping[str, Any]) -> Examined:
    """The facts of a package that is only imported: no device, no limit."""
    return Examined()


def _only_with(extra: str, marker: Marker | None) -> bool:
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})
