"""The packages behind edgekit's extras, for remedies: edgekit itself is not on PyPI, and another project has its name there."""

from __future__ import annotations

import importlib.metadata
import re

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
