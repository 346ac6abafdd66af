"""A sample of the campaign of injected faults: what changes outputs is caught, in every kind of fault."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from fault_injection import EFFECT, damaged, effect, judged, run, subject, with_model
from faults import KINDS, injected


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_with_an_effect_is_caught(kind: str, tmp_path: Path) -> None:
    lenet = subject("lenet", tmp_path)
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    for changed, where in injected(lenet.model, kind, rng):
        content = changed.SerializeToString()
        moved, _ = effect(lenet, run(content, lenet.bundle, lenet.inputs))
        caught, of_limit, _ = judged(with_model(lenet.bundle, tmp_path / "bundle", content))
        assert caught or moved <= EFFECT, (where, moved, of_limit)


def test_a_bundle_that_is_not_damaged_passes(tmp_path: Path) -> None:
    """The partner: checksums that were written anew are no reason to fail."""
    lenet = subject("lenet", tmp_path)
    assert judged(damaged(lenet.bundle, tmp_path / "bundle", lambda *_: None))[0] is False


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_changes_the_model_or_has_no_place_in_it(kind: str, repository: Path) -> None:
    for name in ("lenet", "densenet"):
        model = onnx.load(repository / "exported" / name / "model.onnx")
        before = model.SerializeToString()
        for changed, where in injected(model, kind, np.random.default_rng(1)):
            assert where
            assert changed.SerializeToString() != before
        assert model.SerializeToString() == before
