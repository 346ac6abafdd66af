"""The key of a training: everything that its weights depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
from torch import nn

from edgekit.files import fingerprints
from edgekit.recipe import Recipe
from edgekit.training.code import source_files
from edgekit.training.initial import state_sha256, structure_sha256

Key: TypeAlias = dict[str, str]
"""Everything that trained weights depend on, by what it is: short values as JSON, others as a hash."""

PROCESSES = "number of processes"
LONGEST_VALUE = 40
"""Characters of a setting that is kept as it is, to be told where it has changed."""


def dependencies(recipe: Recipe, data: Any, initial: nn.Module) -> dict[str, Any]:
    """Everything that trained weights depend on, by name: what a checkpoint and a finished training must agree on.

    ``data`` changes with the data set, ``initial`` is the model as it was built, which shows what its factory read.
    """
    train = msgspec.structs.replace(recipe.train.without_bars(), int8=None)  # it begins with these weights
    tables = {"model": recipe.model.without_place(), "train": train}
    settings = {
        f"{table}.{key}": value for table, struct in tables.items() for key, value in msgspec.structs.asdict(struct).items()
    }
    return {
        **settings,
        "pictures or classes": data,
        "code of the model": fingerprints(source_files(recipe.model.name)),
        "structure of the model": structure_sha256(initial),
        "initial weights": state_sha256(initial),
    }


def training_key(recipe: Recipe, data: str, initial: nn.Module, processes: int) -> Key:
    """Each of the ``dependencies``, or its hash; ``data`` is the hash of the data set (``Dataset.sha256``).

    Steps depend on the number of processes too: each draws random numbers of its own, and sums are rounded otherwise.
    """
    return as_key({**dependencies(recipe, data, initial), PROCESSES: processes})


def as_key(values: Mapping[str, Any]) -> Key:
    """Each value as JSON, or its hash where that is long."""
    texts = {name: msgspec.json.encode(value, order="deterministic") for name, value in values.items()}
    return {
        name: text.decode() if len(text) <= LONGEST_VALUE else hashlib.sha256(text).hexdigest() for name, text in texts.items()
    }
