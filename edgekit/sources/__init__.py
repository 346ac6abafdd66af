"""Sources of a bundle: a recipe, a run folder, a shipped model's name, an import path, or an ONNX file from elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from edgekit.bundle.draft import Draft
from edgekit.bundle.folder import open_bundle
from edgekit.bundle.packed import is_packed
from edgekit.errors import BundleError, ModelError, UsageError
from edgekit.files import as_path, is_onnx, read_bytes
from edgekit.machine.packages import needs
from edgekit.models import MODELS
from edgekit.progress import Advance
from edgekit.recipe import load_recipe
from edgekit.spelling import did_you_mean
from edgekit.training.folder import RUNS

NO_ARGS: Mapping[str, Any] = MappingProxyType({})


class ExportOptions(NamedTuple):
    """Options of ``edgekit export`` that change or complete the source's own settings; None leaves the source's setting.

    ``args``: arguments of the factory that a model's name or an import path names. ``golden_pictures``: put some
    test pictures into the bundle as files. ``license``, an SPDX expression, and ``author`` stand in the bundle.
    """

    fold_bn: bool | None = None
    opset: int | None = None
    input_shapes: tuple[str, ...] = ()
    weights: Path | None = None
    keep_weights: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: Path | None = None
    args: Mapping[str, Any] = NO_ARGS
    golden_pictures: bool = True
    license: str = ""
    author: str = ""


class Origin(Protocol):
    """A resolved source: everything that can be decided before the long work of exporting."""

    @property
    def name(self) -> str:
        """The default name of the bundle."""
        ...

    def draft(self, advance: Advance) -> Draft:
        """Do the long work, in two steps; raises EdgekitError if the result could not be verified."""
        ...


NOTHING_ADDED = ExportOptions()


def origin_of(source: str, options: ExportOptions = NOTHING_ADDED, *, runs: Path = RUNS) -> Origin:
    """Resolve ``source``; raises UsageError for options that do not apply to it, EdgekitError if it is missing or damaged."""
    path = as_path(source, "source", UsageError)
    if is_onnx(path):
        if not path.is_file():
            read_bytes(path, "ONNX file", BundleError)  # raises before torch is imported
        needs("torch", "onnx", "onnxscript", "onnxruntime", extra="train")
        from edgekit.sources.onnx_file import origin_of_file

        return origin_of_file(path, options)
    check_name_of_module(source)
    needs("torch", "onnx", "onnxscript", "onnxruntime", extra="train")
    from edgekit.sources.drafting import origin_of_module

    return origin_of_module(source, options, runs)


def check_name_of_module(source: str) -> None:
    """Refuse a source that names no PyTorch model; runs before the import of torch, which takes seconds.

    Raises UsageError if ``source`` is no source at all, RecipeError if a recipe cannot be read, ModelError if the package of an
    import path is missing, and BundleError for a packed bundle.
    """
    path = Path(source)
    if is_packed(path):
        open_bundle(path)  # raises: it is to be unpacked
    if path.suffix == ".toml" and not path.is_dir():
        load_recipe(path)
    elif source not in MODELS and not path.is_dir():
        module, colon, _ = source.partition(":")
        if not colon:
            raise no_source(source)
        package = module.partition(".")[0]
        if package and not _importable(package):
            reason = f"ModuleNotFoundError: No module named {package!r}"
            raise ModelError(f"{source}: cannot import {module}: {reason}", "check the path")


def no_source(source: str) -> UsageError:
    """The error for a word that is no source of any kind."""
    return UsageError(
        f"{source!r} is neither a recipe (*.toml), an ONNX file (*.onnx), a run directory, a model ({', '.join(MODELS)}) nor an "
        "import path package.module:factory",
        f"check the spelling{did_you_mean(source, MODELS)}",
    )


def _importable(package: str) -> bool:
    """Whether a package is in the current folder or installed, found without importing it."""
    sys.path.insert(0, os.getcwd())
    try:
        return package in sys.modules or find_spec(package) is not None
    except (ImportError, ValueError):  # undecided; the import will tell
        return True
    finally:
        sys.path.remove(os.getcwd())
