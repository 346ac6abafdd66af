"""Fixtures of several files about bundles."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.files import sha256_of


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose content is read, while a bundle is opened."""
    seen: list[Path] = []

    def record(path: Path) -> str:
        seen.append(path)
        return sha256_of(path)

    monkeypatch.setattr("edgekit.bundle.folder.sha256_of", record)
    return seen
