"""What rounding does to an exported file in fewer bits is measured on every sample, and in both directions."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

from edgekit.bundle.draft import exported_variant
from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import GoldenPart
from edgekit.parity.inputs import Recorded
from edgekit.parity.rounding import recorded_support, steps_as_exported
from edgekit.sources.measuring import ELEMENTS
from edgekit.sources.narrow import NarrowFile, Rounding, with_noise, with_rounding
from edgekit.tensors import Array, Feed
from edgekit.tolerance import Tolerance
from tests.commands.test_verify_exported_int8 import network

OWN = np.random.default_rng(0).uniform(-1, 1, (40, 10)).astype(np.float32)
OWN[0, 0] = 1.0  # the scale
LARGE = np.zeros((40, ELEMENTS // 20), np.float32)
"""Inputs of which the other measurements take every second sample."""
CONTENT = network(quantised=True).SerializeToString()


class Moved(NarrowFile):
    """A file whose outputs move by ``by`` where its scales do."""

    by: Mapping[int, float]

    def outputs(self, content: bytes, feed: Feed, level: str = "off") -> dict[str, Array]:
        moved = OWN.copy()
        for sample, steps in self.by.items() if content != self.content else ():
            moved[sample, 1] += steps / 127
        return {"y": moved}


def rounding_of(by: Mapping[int, float]) -> tuple[Rounding, Recorded]:
    recorded = Recorded(GoldenArrays({"x": LARGE}, {"y": OWN.astype(np.float64)}, {"y": OWN}, None), (GoldenPart("normal", 40),))
    narrow = Moved(CONTENT, "file", recorded)
    narrow.by = by
    return Rounding(narrow, "int8"), recorded


@pytest.mark.parametrize("sample", range(4))
def test_a_sample_counts_that_alone_falls_to_another_code(sample: int) -> None:
    rounding, _ = rounding_of({sample: 1.0})
    assert rounding.steps is None
    runs = list(rounding)
    assert rounding.steps == pytest.approx(1.0, rel=1e-5)
    assert all(run.samples.tolist() == list(range(40)) for run in runs)


def test_a_file_whose_samples_all_move_alike_may_move_so_elsewhere_and_not_three_times_as_far() -> None:
    rounding, recorded = rounding_of(dict.fromkeys(range(40), 0.2))
    runs = list(rounding)
    noise = max(float(np.abs(run.outputs["y"] - OWN).max()) for run in runs)
    floors = EvidenceArrays({"y": np.full((1, 10), noise)})
    exported = exported_variant("int8", Tolerance(rtol=5e-2), 0.0)
    variant = with_rounding(exported, rounding, recorded, floors)
    any_sample, usual = steps_as_exported(variant, variant.allowance, recorded_support("int8", recorded, floors), trusting=False)
    assert any_sample == pytest.approx(4 * 0.2, rel=1e-5)
    assert 0.2 < (usual or 0.0) < 3 * 0.2
    assert msgspec.structs.replace(variant, allowance=exported.allowance) == exported


@pytest.mark.parametrize(
    ("precision", "asked", "noise", "told"),
    [
        ("int8", 0.012, 0.02, 0.04),
        ("int8", 0.012, 0.084, 5e-2),  # noise alone asks for no more than a bundle may choose
        ("int8", 0.12, 0.084, 0.12),
        ("int8", 0.012, 1e-4, 0.012),
        ("float16", 0.012, 0.02, 0.012),
    ],
)
def test_twice_the_measured_noise_of_a_file_in_steps_is_tolerated(
    precision: str, asked: float, noise: float, told: float
) -> None:
    _, recorded = rounding_of({})
    floors = EvidenceArrays({"y": np.full((1, 10), noise * np.abs(OWN).max())})
    variant = with_noise(exported_variant(precision, Tolerance(rtol=asked), 0.0), recorded, floors)
    assert variant.allowance.tolerance.rtol == pytest.approx(told)
