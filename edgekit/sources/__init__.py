"""What ``SOURCE`` may be: a recipe, a run folder, a shipped model's name, an import path, or an ONNX file from elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from edgekit.bundle.draft import Draft
from edgekit.errors import BundleError, ModelError, UsageError
from edgekit.files import is_onnx, read_bytes
from edgekit.machine.packages import needs
from edgekit.models import MODELS
from edgekit.progress import Advance
from edgekit.recipe import load_recipe
from edgekit.spelling import did_you_mean
from edgekit.training.folder import RUNS

NO_ARGS: Mapping[str, Any] = MappingProxyType({})


class ExportOptions(NamedTuple):
    """What ``edgekit export`` may add to what its source says; None leaves the source's own.

    ``args`` are those of the factory that a model's name or an import path names.
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


class Origin(Protocol):
    """A source that was found, and what it is to become: everything that can be told before the long work."""

    @property
    def name(self) -> str:
        """What its bundle is called unless the user says otherwise."""
        ...

    def draft(self, advance: Advance) -> Draft:
        """Do the long work, in two steps; raises EdgekitError where what it gives could not be verified."""
        ...


NOTHING_ADDED = ExportOptions()


def origin_of(source: str, options: ExportOptions = NOTHING_ADDED, *, runs: Path = RUNS) -> Origin:
    """Resolve ``source``; raises UsageError for options that do not go with it, EdgekitError for what is missing or damaged."""
    path = Path(source)
    if is_onnx(path):
        if not path.is_file():
            read_bytes(path, "ONNX file", BundleError)  # raises, before torch is imported
        needs("torch", "onnx", "onnxscript", "onnxruntime", extra="train")
        from edgekit.sources.onnx_file import origin_of_file

        return origin_of_file(path, options)
    check_name_of_module(source)
    needs("torch", "onnx", "onnxscript", extra="train")
    from edgekit.sources.drafting import origin_of_module

    return origin_of_module(source, options, runs)


def check_name_of_module(source: str) -> None:
    """Refuse what names no PyTorch model, before torch is imported, which takes seconds.

    Raises UsageError for what is no source at all, RecipeError for a recipe that cannot be read, and ModelError where the package
    of an import path is missing.
    """
    path = Path(source)
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
    """The error for a word that names nothing that can be exported or inspected."""
    return UsageError(
        f"{source!r} is neither a recipe (*.toml), an ONNX file (*.onnx), a run directory, a model ({', '.join(MODELS)}) nor an "
        "import path package.module:factory",
        f"check the spelling{did_you_mean(source, MODELS)}",
    )


def _importable(package: str) -> bool:
    """Whether there is a package of this name, here or installed; it is not imported."""
    sys.path.insert(0, os.getcwd())
    try:
        return package in sys.modules or find_spec(package) is not None
    except (ImportError, ValueError):  # it is not for us to say
        return True
    finally:
        sys.path.remove(os.getcwd())
