"""Shared by the tests of parity: a bundle of three files, of which each test may change its copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.converted import convert, copied


@pytest.fixture(scope="session")
def _lenet_of_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = copied(Path(__file__).parents[2], tmp_path_factory.mktemp("three"))
    convert(root, "int8")
    convert(root, "float16")
    return root


@pytest.fixture
def lenet(_lenet_of_three: Path, tmp_path: Path) -> Path:
    """A copy of the committed bundle, with an int8 and a float16 file."""
    return Path(shutil.copytree(_lenet_of_three, tmp_path / "lenet"))
