"""Fixtures of the tests of a bundle in other formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.commands.quantize import quantize


@pytest.fixture(scope="session")
def taking_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed LeNet with a file that takes pictures of any size; not to be changed."""
    root = tmp_path_factory.mktemp("pictures") / "lenet"
    quantize(Path(__file__).parents[2] / "exported" / "lenet", "with-preprocessing", output=root)
    return root
