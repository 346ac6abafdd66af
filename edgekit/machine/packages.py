"""Packages on this machine: their versions, what is missing, and the command that installs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable

import edgekit
from edgekit.errors import BROKEN, MissingError, broken_import


def needs(*packages: str, extra: str | None = None) -> None:
    """Raise MissingError unless every package is installed; the remedy is all of ``extra``, or just what is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        remedy = pip_install(extra) if extra else f"pip install {' '.join(missing)}"
        raise MissingError(f"this needs {', '.join(missing)}, which is not installed; {remedy}")


def needs_onnx() -> None:
    """Looked at before a file is: a package that is broken is not the file's fault."""
    needs("onnx")
    try:
        import onnx

        _ = onnx.load_model_from_string
    except BROKEN as problem:
        raise MissingError(broken_import("onnx", problem)) from problem


def tool_versions() -> dict[str, str]:
    """Versions of edgekit and of the packages its results depend on, of those installed."""
    packages = ("torch", "onnx", "onnxscript", "numpy", "onnxruntime", "onnxruntime-gpu")
    return {"edgekit": edgekit.__version__} | versions_of(packages)


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


_REQUIREMENT = re.compile(r"^([\w.-]+)[^;]*; extra == '(\w+)'$")


def pip_install(extra: str) -> str:
    """The command that installs what ``extra``, one of pyproject.toml's, brings, without edgekit."""
    try:
        required = importlib.metadata.requires("edgekit") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder that was never installed
        required = []
    found = [_REQUIREMENT.match(line.replace('"', "'")) for line in required]
    names = [one[1] for one in found if one is not None and one[2] == extra]
    return f"pip install {' '.join(names)}" if names else f"install edgekit's extra {extra} from its repository"
