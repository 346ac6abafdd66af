"""What a shell offers after Tab; importing this imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    pass


def device_names() -> list[str]:
    """The values of ``--device``."""
    return ["auto", "cpu", "cuda"]


def backend_names() -> list[str]:
    """The names that ``--backend`` may begin with."""
    from edgekit.backends import table
    from edgekit.setups import TUNED

    return [*table(), TUNED]


def flavour_names() -> list[str]:
    """The values of ``--flavour``, from the backends that have the option."""
    from edgekit.backends import table, takers
    from edgekit.backends.words import choices

    return list(dict.fromkeys(word for name in takers("flavour") for word in choices(table()[name].options, "flavour")))


def model_names(incomplete: str) -> list[str]:
    """Models that edgekit ships."""
    from edgekit.models import MODELS

    return [name for name in MODELS if name.startswith(incomplete)]


def dataset_names() -> list[str]:
    """Datasets that can be fetched."""
    from edgekit.commands.data import FETCHED

    return list(FETCHED)


def check_names() -> list[str]:
    """The checks of the manifest that ``--allow`` accepts."""
    from edgekit.parity.manifest import CODES

    return list(CODES)


def report_formats() -> list[str]:
    """The values of ``report --format``."""
    from edgekit.commands.report import FORMATS

    return list(FORMATS)


def builder_names() -> list[str]:
    """Backends that ``edgekit build`` builds for."""
    from edgekit.commands.build import builders

    return list(builders())


def metric_names() -> list[str]:
    """The values of ``--metric``."""
    from edgekit.reports.tune import METRICS

    return list(METRICS)


def variant_names(context: typer.Context, incomplete: str) -> list[str]:
    """Variants of the bundle that the command line names before; none where there is no such bundle."""
    from edgekit.bundle.manifest import MANIFEST, decode_manifest
    from edgekit.errors import EdgekitError
    from edgekit.files import read_bytes

    # "--variant" has no value yet, so that nothing was made of the words before it
    bundles = context.params.get("bundle") or ()
    words = (*(bundles if isinstance(bundles, (list, tuple)) else [bundles]), context.params.get("target"), *context.args)
    folder = next((word for word in words if word), None)
    if folder is None:
        return []
    path = Path(folder) / MANIFEST
    try:
        names = [variant.name for variant in decode_manifest(read_bytes(path, "manifest"), path).variants]
    except (EdgekitError, OSError, ValueError):
        return []
    return [name for name in names if name.startswith(incomplete)]


NO_RECIPES = ("pyproject.toml", "ruff.toml", "Cargo.toml")
"""Files of this ending that stand at the top of many a folder, and are for other programs."""


def recipe_paths(incomplete: str) -> list[str]:
    """Recipes (``*.toml``) and what leads to them, without hidden entries, whose path begins with ``incomplete``.

    A shell puts a space after the only path that it is given, behind which Tab goes no further: a folder that is the only one is
    replaced by what is in it.
    """
    head, slash, _ = incomplete.rpartition("/")
    try:
        entries = sorted(Path(f"{head}{slash}" or ".").iterdir())
    except OSError:
        return []
    paths = [f"{head}{slash}{entry.name}{'/' * entry.is_dir()}" for entry in entries if not entry.name.startswith(".")]
    fitting = [path for path in paths if path.startswith(incomplete) and path.endswith(("/", ".toml"))]
    offered = [path for path in fitting if path.rpartition("/")[2] not in NO_RECIPES]
    if len(offered) == 1 and offered[0].endswith("/"):
        return recipe_paths(offered[0]) or offered
    return offered


def source_names(incomplete: str) -> list[str]:
    """Values of ``SOURCE`` that can be listed: models, recipes and folders."""
    return model_names(incomplete) + recipe_paths(incomplete)
