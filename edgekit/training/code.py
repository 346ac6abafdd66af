"""The source files that define a model: its module and what that imports of the same project, read and never run."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import edgekit.models
from edgekit.models import MODELS

_EDGEKIT = Path(edgekit.models.__file__).parents[1]
_INSTALLED = (Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib")), _EDGEKIT)
"""Folders whose modules are of no user's project: Python's own, and edgekit, besides folders of installed packages."""


def source_files(name: str) -> tuple[Path, ...]:
    """The files of the model ``name`` in the order of their modules: a shipped model's, or those of ``package.module:factory``.

    Imports are followed wherever Python finds them, from the current folder or its search path, except into Python's own modules
    and other installed packages. A file beside the model that it does not import does not count. Empty for a name that is
    nowhere.
    """
    if name in MODELS:
        return tuple(sorted(Path(edgekit.models.__file__).parent.glob("*.py")))
    module = name.partition(":")[0]
    importlib.invalidate_caches()  # files may be newer than what finders remember of their folders
    files = _reachable(module)
    return tuple(files[module] for module in sorted(files)) if module in files else ()


def _reachable(module: str) -> dict[str, Path]:
    """Module -> file, of a module and what it imports, packages around included."""
    files: dict[str, Path] = {}
    own, waiting, followed = module.partition(".")[0], [module], {module}
    while waiting:
        for spec in _specs(waiting.pop()):
            path = Path(spec.origin or "")
            if spec.name in files or not path.is_file() or (_is_installed(path) and spec.name.partition(".")[0] != own):
                continue
            files[spec.name] = path
            new = set(_imports(path, spec.name if spec.submodule_search_locations is not None else spec.parent or "")) - followed
            followed |= new
            waiting += sorted(new)
    return files


def _is_installed(path: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or any(path.is_relative_to(place) for place in _INSTALLED)


def _specs(module: str) -> Iterator[ModuleSpec]:
    """What Python would import for ``package.module``: the packages around it and itself, as far as they are there."""
    places: Sequence[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:depth]), places)
        if spec is None:
            return
        yield spec
        if spec.submodule_search_locations is None:
            return
        places = list(spec.submodule_search_locations)


def _spec(name: str, places: Sequence[str] | None) -> ModuleSpec | None:
    """The module ``name`` in the folders ``places`` of its package, or on the search path with the current folder before it.

    ``importlib.util.find_spec`` would run the packages around the module.
    """
    package = ModuleSpec(name, None, is_package=True)  # without an __init__.py, of all folders of that name
    for place in [os.getcwd(), *sys.path] if places is None else places:
        finder = pkgutil.get_importer(place or os.getcwd())
        spec = finder.find_spec(name) if finder else None
        if spec is not None and spec.loader is not None:
            return spec
        assert package.submodule_search_locations is not None
        package.submodule_search_locations += (spec and spec.submodule_search_locations) or []
    if package.submodule_search_locations:
        return package
    others = (finder.find_spec(name, None) for finder in sys.meta_path) if places is None and name else iter(())
    return next(filter(None, others), None)  # of packages that are installed as links to their sources


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
        elif isinstance(node, ast.Call) and _called(node.func) in _BY_NAME and node.args:
            yield from _named_by(node.args[0], package)


_BY_NAME = frozenset({"import_module", "__import__"})


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def _named_by(argument: ast.expr, package: str) -> Iterator[str]:
    """Modules that a text may name: one, or of a text that goes on at run time, like ``f"layers.{kind}"``, all of the package."""
    pieces = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
    if isinstance(argument, ast.BinOp):
        pieces = [argument.left, argument.right]
    first = pieces[0] if pieces else None
    if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
        return
    text = first.value
    if text.startswith("."):
        level, parents = len(text) - len(text.lstrip(".")), package.split(".") if package else []
        text = ".".join((*parents[: len(parents) - level + 1], text[level:]))
    if len(pieces) == 1:
        yield text
        return
    above = text.rpartition(".")[0]
    spec = next((spec for spec in _specs(above) if spec.name == above), None) if above else None
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from (f"{above}.{path.stem}" for path in sorted(Path(folder).glob("*.py")))
