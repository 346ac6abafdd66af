"""``evidence.npz`` comes back as it was written, and a crafted one is refused before it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.bundle.evidence import EvidenceArrays, Fingerprint
from edgekit.bundle.folder import open_bundle
from edgekit.errors import BundleError
from edgekit.tensors import Array
from tests.bundle.editing import npz, put

CRAFTED: dict[str, Callable[[dict[str, Array]], object]] = {
    "floor of no output": lambda arrays: arrays.update({"floor.other": arrays["floor.output"]}),
    "floor of other parts": lambda arrays: arrays.update({"floor.output": arrays["floor.output"][:-1]}),
    "floor of other channels": lambda arrays: arrays.update({"floor.output": arrays["floor.output"][:, :-1]}),
    "floor in float32": lambda arrays: arrays.update({"floor.output": arrays["floor.output"].astype(np.float32)}),
    "floor below zero": lambda arrays: arrays.update({"floor.output": -arrays["floor.output"]}),
    "floor of NaN": lambda arrays: arrays.update({"floor.output": arrays["floor.output"] * np.nan}),
    "floor without end": lambda arrays: arrays.update({"floor.output": arrays["floor.output"] * np.inf}),
    "unknown array": lambda arrays: arrays.update({"more": np.zeros(3)}),
    "nodes without names": lambda arrays: arrays.pop("node-names"),
    "nodes of another width": lambda arrays: arrays.update({"nodes": arrays["nodes"][:, 1:]}),
    "names that are no JSON": lambda arrays: arrays.update({"node-names": np.zeros(4, np.uint8)}),
    "predictions in float64": lambda arrays: arrays.update({"predicted": np.zeros(3)}),
}


def arrays_of(root: Path) -> dict[str, Array]:
    with np.load(root / "evidence.npz") as content:
        return dict(content)


def test_evidence_comes_back_and_the_same_arrays_give_the_same_bytes(bundle: Path) -> None:
    evidence = open_bundle(bundle).evidence()
    assert evidence is not None
    assert evidence.to_npz() == (bundle / "evidence.npz").read_bytes()
    assert list(evidence.floors) == ["output"]
    assert (evidence.floors["output"] > 0).all()
    assert "conv2d" in evidence.nodes
    assert evidence.nodes["conv2d"].statistics.shape == (3, 6)
    assert evidence.predicted is None  # no data is known


def test_the_committed_bundle_has_the_originals_predictions(repository: Path) -> None:
    evidence = open_bundle(repository / "exported" / "lenet").evidence()
    assert evidence is not None
    assert evidence.predicted is not None
    assert evidence.truth is not None
    assert len(evidence.predicted) == len(evidence.truth) == 10_000
    assert (evidence.predicted == evidence.truth).mean() > 0.89


@pytest.mark.parametrize("kind", CRAFTED)
def test_crafted_evidence_is_refused(bundle: Path, kind: str) -> None:
    arrays = arrays_of(bundle)
    CRAFTED[kind](arrays)
    put(bundle, "evidence.npz", npz(arrays))
    with pytest.raises(BundleError, match=r"evidence\.npz is not what edgekit export wrote"):
        open_bundle(bundle).evidence()


def test_evidence_that_would_take_much_memory_is_refused_unread(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bundle, "evidence.npz", npz({"predicted": np.zeros(9 << 20, np.int64)}))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("evidence.npz was unpacked"))
    with pytest.raises(BundleError, match="it unpacks to 72 MiB, and at most 64 MiB are read"):
        open_bundle(bundle).evidence()


def test_every_optional_array_may_be_left_out() -> None:
    whole = EvidenceArrays({}, {"v": Fingerprint(np.ones((3, 2), np.float32), "a.b")}, np.arange(3), np.arange(3))
    for name in ("nodes", "predicted", "truth"):
        fewer: Any = msgspec.structs.replace(whole, **{name: {} if name == "nodes" else None})
        assert isinstance(fewer.to_npz(), bytes)
