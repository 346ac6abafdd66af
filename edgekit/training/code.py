"""The source files that define a model: its module and what that imports of the same project, read and never run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import edgekit.models
from edgekit.models import MODELS


def source_files(name: str) -> tuple[Path, ...]:
    """The files of the model ``name``, in sorted order: a shipped model's, or those of an import path ``package.module:factory``.

    Followed are imports of modules in the folder that the first module is found in, and for an installed package those inside
    that package: other packages do not count, nor does a file beside the model that it does not import. Empty for a name that is
    nowhere.
    """
    if name in MODELS:
        return tuple(sorted(Path(edgekit.models.__file__).parent.glob("*.py")))
    module = name.partition(":")[0]
    for root in (Path.cwd(), *map(Path, sys.path)):
        if _files_of(root, module):
            return tuple(sorted(_reachable(root, module)))
    return ()


def _reachable(root: Path, module: str) -> set[Path]:
    files: set[Path] = set()
    waiting = [module]
    installed = bool({"site-packages", "dist-packages"} & set(root.parts))
    inside = module.partition(".")[0] if installed else ""
    followed = set(waiting)
    while waiting:
        name = waiting.pop()
        for path in _files_of(root, name):
            if path not in files:
                files.add(path)
                package = ".".join(path.parent.relative_to(root).parts)
                names = _imports(path, package)
                new = {name for name in names if name not in followed and (not inside or name.partition(".")[0] == inside)}
                followed |= new
                waiting += sorted(new)
    return files


def _files_of(root: Path, module: str) -> list[Path]:
    """The file of a module below ``root``, then the ``__init__.py`` of the packages around it; empty where it is not there."""
    parts = [part for part in module.split(".") if part]
    if not parts:
        return []
    place = root.joinpath(*parts)
    own = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()][:1]
    around = [root.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts))]
    return own + [path for path in around if path.is_file()] if own else []


def _imports(path: Path, package: str) -> Iterator[str]:
    """Names of modules that a file imports, and of what may be modules: ``from a import b`` may mean ``a.b``."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".") if package else []
            base = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join((*base, *([node.module] if node.module else [])))
            yield source
            yield from (f"{source}.{alias.name}" if source else alias.name for alias in node.names)
