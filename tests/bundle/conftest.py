"""Fixtures of the bundle tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.files import sha256_of


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose checksum is computed while a bundle is opened."""
    paths: list[Path] = []

    def record(path: Path) -> str:
        paths.append(path)
        return sha256_of(path)

    monkeypatch.setattr("edgekit.bundle.folder.sha256_of", record)
    return paths
