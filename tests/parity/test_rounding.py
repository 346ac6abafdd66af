"""What rounding may do to an exported file in fewer bits is what its bundle's arrays support, and never a flat share."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.bundle.draft import exported_variant
from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import Allowance, GoldenPart, Variant
from edgekit.parity.inputs import Recorded
from edgekit.parity.rounding import (
    FLOAT_STEPS,
    Support,
    recorded_support,
    seen_support,
    steps_as_exported,
    steps_in_half,
    steps_moved,
)
from edgekit.tolerance import Tolerance

OWN = np.random.default_rng(0).uniform(-1, 1, (40, 10))
OWN[0, 0] = 1.0  # the scale


def recorded(original: float = 0.0) -> Recorded:
    """Golden outputs of one part, of which the original's first number is ``original`` of scale off."""
    mine = OWN.copy()
    mine[0, 1] += original
    return Recorded(GoldenArrays({"x": np.zeros((40, 1))}, {"y": OWN}, {"y": mine}, None), (GoldenPart("normal", 40),))


def floors(noise: float) -> EvidenceArrays:
    return EvidenceArrays({"y": np.full((1, 10), noise)})


def exported(rounding: float | None, precision: str = "int8") -> Variant:
    variant = exported_variant(precision, Tolerance(rtol=5e-2), 0.0)
    return msgspec.structs.replace(variant, allowance=msgspec.structs.replace(variant.allowance, rounding=rounding))


@pytest.mark.parametrize(
    ("noise", "original", "told"),
    [(0.0, 0.0, FLOAT_STEPS), (1e-7, 1e-7, FLOAT_STEPS), (1e-3, 0.0, 4 * 0.127), (1e-3, 2e-3, 4 * 0.381)],
)
def test_the_floors_and_the_originals_error_support_four_times_themselves(noise: float, original: float, told: float) -> None:
    assert recorded_support("int8", recorded(original), floors(noise)) == pytest.approx((told, 8 * told))


@pytest.mark.parametrize("evidence", [None, EvidenceArrays()])
def test_without_floors_an_int8_file_may_ask_for_what_any_may_and_a_float16_file_for_its_originals_error(evidence: Any) -> None:
    assert recorded_support("int8", recorded(1e-3), evidence) == (8, 8)
    bare = recorded_support("float16", recorded(1e-3), evidence)
    assert bare == pytest.approx((4 * 0.127, 32 * 0.127))
    assert (
        bare.any_sample < recorded_support("float16", recorded(1e-3), floors(1e-3)).any_sample
    )  # leaving floors out buys nothing


@pytest.mark.parametrize(
    ("asked", "most", "steps", "usual"),
    [
        (0.5, 2.0, 0.5, 0.5 / 16),
        (8.0, 2.0, 2.0, 0.5),  # rounding that moves all samples by a half of a step, and none by more than two
        (40.0, 2.0, 2.0, 1.0),
        (None, 2.0, 2.0, 0.5),  # no more than the most that any may ask for
        (0.0, 2.0, FLOAT_STEPS, FLOAT_STEPS),
        (8.0, 0.0, FLOAT_STEPS, FLOAT_STEPS),
    ],
)
def test_a_manifest_may_ask_for_less_than_is_supported_and_leaving_it_out_buys_no_more(
    asked: Any, most: float, steps: float, usual: float
) -> None:
    variant = exported(asked)
    assert steps_as_exported(variant, variant.allowance, Support(most, 8 * most), trusting=False) == (steps, usual)


def test_a_caller_who_trusts_the_bundle_takes_what_it_asks_for() -> None:
    variant = exported(8.0)
    assert steps_as_exported(variant, variant.allowance, Support(2.0, 16.0), trusting=True)[0] == 8


def test_rounding_to_float16_moves_every_sample_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    variant = exported(0.5, "float16")
    assert steps_as_exported(variant, variant.allowance, Support(2.0, 16.0), trusting=False) == (0.5, None)
    wide = exported(8.0, "float16")
    assert steps_as_exported(wide, wide.allowance, Support(8.0, 64.0), trusting=False) == (5e-2 * 127, None)  # its rtol at most


@pytest.mark.parametrize(("machine", "steps"), [("x86_64", 0.5), ("aarch64", 5e-2 * 127)])
def test_where_kernels_sum_in_float16_the_rtol_alone_holds(monkeypatch: pytest.MonkeyPatch, machine: str, steps: float) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    allowance = exported(0.5, "float16").allowance
    assert steps_in_half(allowance.rounding, allowance) == steps
    assert steps_in_half(None, allowance) == 5e-2 * 127


@pytest.mark.parametrize(("samples", "told"), [(4, 0.5), (40, 4.0)])
def test_steps_that_most_samples_move_by_count_eight_times(samples: int, told: float) -> None:
    moved = OWN.copy()
    moved[:samples] += 0.5 / 127
    assert steps_moved({"y": moved}, {"y": OWN}, [40]) == pytest.approx(told)


def readings(*steps: float, samples: int = 4) -> list[dict[str, Any]]:
    """Outputs whose first samples are moved by so many steps, one reading after the other."""
    moved = [OWN.copy() for _ in steps]
    for outputs, by in zip(moved, steps, strict=True):
        outputs[:samples] += by / 127
    return [{"y": outputs} for outputs in moved]


@pytest.mark.parametrize(
    ("moved", "samples", "told"),
    [
        ((0.1, 0.5, 0.2), 4, (2.0, 2.0)),
        ((0.1, 0.5), 40, (2.0, 16.0)),
        ((0.0, 0.0), 40, (0.0, 0.0)),
        ((np.nan, 0.1), 4, (0.4, 0.4)),
    ],
)
def test_four_times_what_any_reading_here_moves_is_supported(moved: Any, samples: int, told: Any) -> None:
    seen = seen_support(readings(*moved, samples=samples), {"y": OWN}, [40], Allowance(Tolerance(), rounding=8.0))
    assert seen == pytest.approx(told)


@pytest.mark.parametrize(("asked", "taken"), [(FLOAT_STEPS, 0), (0.4, 1), (2.0, 2), (None, 3), (1e300, 3)])
def test_readings_are_taken_until_they_support_what_is_asked(asked: Any, taken: int) -> None:
    rest = iter(readings(0.1, 0.5, 3.0, 0.0, 0.0))
    seen_support(rest, {"y": OWN}, [40], Allowance(Tolerance(), rounding=asked))
    assert len(list(rest)) == 5 - taken
