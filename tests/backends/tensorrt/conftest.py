"""TensorRT on a machine with a GPU, made up; each test has an engine cache of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.backends import open_session
from edgekit.backends.contract import Session
from edgekit.bundle.folder import open_bundle
from tests.fake_trt import FakeTensorRT
from tests.trt_listing import TEN
from tests.ways import way


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Or one test would find another's engine."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def ten(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT 10 on a machine with a GPU; engines run."""
    return FakeTensorRT(TEN).install_with_cuda(monkeypatch)


@pytest.fixture
def opened(ten: FakeTensorRT, bundle: Path) -> Iterator[Session]:
    with open_session(way("tensorrt"), open_bundle(bundle).files()) as backend:
        yield backend
    assert ten.cuda.left == {}
