"""Feeds, engines and true outputs for tests that run engines."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from edgekit.backends import open_session
from edgekit.backends.contract import Session
from edgekit.backends.tensorrt.build import build_engine, read_model
from edgekit.backends.tensorrt.engines import Engine
from edgekit.backends.tensorrt.flavour import find
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.bundle.folder import open_bundle
from edgekit.tensors import BatchRange, sample_feed
from tests.ways import way

SECONDS = 0.01


def feed_of(backend: Session, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    return sample_feed(backend.inputs, batch, seed)


def truth(bundle: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    with open_session(way("ort-cpu", threads=1), open_bundle(bundle).files()) as ort:
        return ort.run(feed)["output"]


def engine_of(bundle: Path, *ranges: BatchRange) -> Engine:
    files = open_bundle(bundle).files()
    model = read_model(files)
    return build_engine(find(), model, BuildOptions(profiles=ranges))


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name in packages else real(name, package))
