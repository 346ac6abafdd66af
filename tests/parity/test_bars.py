"""Which bar a variant has on which runtime, and how much of it a bundle may choose."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.manifest import Manifest, Variant
from edgekit.bundle.variants import own_outputs
from edgekit.parity.bars import Bars, bars_as_written, bars_of
from edgekit.parity.callers import CallersBar
from edgekit.parity.converted import ConvertedBar
from edgekit.tolerance import TIE, NoiseBar, ScaleBar, Tolerance, ToleranceChange, widest_rtol

AS_RECORDED = ToleranceChange()


@pytest.fixture(scope="module")
def densenet() -> Bundle:
    """The committed bundle, with an int8 and a float16 file."""
    return open_bundle(Path(__file__).parents[2] / "exported" / "densenet")


def asking(variant: Variant, tolerance: dict[str, Any] | None = None, **fields: Any) -> Variant:
    allowance = msgspec.structs.replace(variant.allowance, **fields)
    changed = msgspec.structs.replace(allowance.tolerance, **(tolerance or {}))
    return msgspec.structs.replace(variant, allowance=msgspec.structs.replace(allowance, tolerance=changed))


def only_bar(bars: Bars) -> Any:
    (bar,) = bars.of.values()
    return bar


def plain(bundle: Bundle, variant: Variant, caller: Any = AS_RECORDED, *, trusting: bool = False) -> Any:
    own = own_outputs(bundle, variant.name)
    by_runtime = bars_of(bundle.manifest, variant, bundle.evidence(), caller, trusting=trusting, own=own)
    return only_bar(by_runtime.on("ort-cpu", {}))


def as_written(bundle: Bundle, variant: Variant, *, trusting: bool = False) -> ConvertedBar:
    own = own_outputs(bundle, variant.name)
    assert own is not None
    bars = bars_as_written(bundle.manifest, variant, AS_RECORDED, trusting=trusting, own=own)
    assert bars.as_written
    bar = only_bar(bars)
    assert isinstance(bar, ConvertedBar)
    return bar


@pytest.mark.parametrize(
    ("rounding", "steps", "typical"), [(None, 0.5, 0.15), (0.2, 0.5, 0.15), (4.0, 4.0, 0.25), (99.0, 8.0, 0.5)]
)
def test_as_written_an_int8_file_may_be_off_by_what_rounding_moves_it(
    densenet: Bundle, rounding: float | None, steps: float, typical: float
) -> None:
    bar = as_written(densenet, asking(densenet.variant("int8"), rounding=rounding))
    assert (bar.steps, bar.typical_steps, bar.own_parts) == (steps, typical, None)


def test_a_caller_who_trusts_takes_the_rounding_that_is_asked_for(densenet: Bundle) -> None:
    assert as_written(densenet, asking(densenet.variant("int8"), rounding=99.0), trusting=True).steps == 99


def test_as_written_a_float16_file_may_be_off_by_its_rtol_on_all_parts(densenet: Bundle) -> None:
    half = densenet.variant("float16")
    bar = as_written(densenet, half)
    assert bar.steps == 127 * half.allowance.tolerance.rtol
    assert (bar.typical_steps, bar.own_parts, bar.against) == (None, None, densenet.manifest.golden.samples)


def test_an_int8_file_is_held_to_the_reference_and_to_its_own_outputs_on_the_first_part(densenet: Bundle) -> None:
    int8, (first, *_) = densenet.variant("int8"), densenet.manifest.golden.parts
    bar = plain(densenet, int8)
    assert (bar.against, bar.own_parts, bar.tie) == (first.samples, 1, TIE / 2)
    assert (bar.steps, bar.snr_db, bar.rtol) == (int8.allowance.steps, int8.allowance.snr_db, int8.allowance.tolerance.rtol)


def test_a_float16_file_is_held_to_the_reference_on_all_parts_and_its_classes_tie_within_its_rtol(densenet: Bundle) -> None:
    half = densenet.variant("float16")
    bar = plain(densenet, half)
    assert (bar.against, bar.steps, bar.typical_steps) == (densenet.manifest.golden.samples, None, None)
    assert bar.tie == bar.rtol == half.allowance.tolerance.rtol


def test_a_wider_bar_than_a_bundle_may_choose_is_cut_unless_the_caller_trusts(densenet: Bundle) -> None:
    int8 = asking(densenet.variant("int8"), {"rtol": 0.9, "top1": 0.1}, steps=90.0, snr_db=1.0)
    cut, trusted = plain(densenet, int8), plain(densenet, int8, trusting=True)
    assert (cut.rtol, cut.top1, cut.steps, cut.snr_db) == (0.5, 0.5, 32, 10)
    assert (trusted.rtol, trusted.top1, trusted.steps, trusted.snr_db) == (0.9, 0.1, 90, 1)


def test_a_first_file_is_held_to_the_noise_that_was_measured_or_to_more_on_other_releases_and_machines(densenet: Bundle) -> None:
    manifest, evidence = densenet.manifest, densenet.evidence()
    described = manifest.evidence
    assert described is not None
    known = described.runtimes["ort-cpu"]

    def factor(manifest: Manifest, facts: dict[str, str]) -> float:
        bars = bars_of(manifest, manifest.variants[0], evidence, AS_RECORDED, trusting=False).on("ort-cpu", facts)
        assert isinstance(only_bar(bars), NoiseBar)
        assert only_bar(bars).factor == bars.noise_factor
        return float(bars.noise_factor or 0)

    here = msgspec.structs.replace(manifest, evidence=msgspec.structs.replace(described, machine=platform.machine()))
    there = msgspec.structs.replace(manifest, evidence=msgspec.structs.replace(described, machine="sparc"))
    assert factor(here, {**known, "more": "said"}) == 4
    assert factor(here, dict.fromkeys(known, "0")) == factor(there, known) == 16


def test_another_float32_file_has_no_measured_noise_and_at_most_the_usual_rtol(densenet: Bundle) -> None:
    further = asking(msgspec.structs.replace(densenet.variant(), name="further"), {"rtol": 0.3})
    manifest = msgspec.structs.replace(densenet.manifest, variants=(*densenet.manifest.variants, further))
    bar = only_bar(bars_of(manifest, further, densenet.evidence(), AS_RECORDED, trusting=False).on("ort-cpu", {}))
    assert (type(bar), bar.rtol, bar.sizes) == (
        ScaleBar,
        widest_rtol("float32"),
        [part.samples for part in manifest.golden.parts],
    )
    trusted = bars_of(manifest, further, densenet.evidence(), AS_RECORDED, trusting=True).on("ort-cpu", {})
    assert only_bar(trusted) == further.allowance.tolerance


def test_a_bar_that_is_not_wider_than_allowed_is_the_usual_one_for_who_trusts_too(densenet: Bundle) -> None:
    assert isinstance(plain(densenet, densenet.variant(), trusting=True), NoiseBar)


def test_a_caller_sets_how_far_numbers_may_be_off_and_the_bundle_nothing_beyond_its_limits(densenet: Bundle) -> None:
    first = densenet.manifest.golden.parts[0].samples
    evil = {"atol": 1e9, "top1": 0.0}
    change = ToleranceChange(rtol=0.3)
    bar = plain(densenet, asking(densenet.variant(), evil), change)
    assert bar == CallersBar(Tolerance(1e-5, 0.3, 1.0), 1.0, widest_rtol("float32"), first, None)
    bar = plain(densenet, asking(densenet.variant("int8"), evil), change)
    assert bar == CallersBar(Tolerance(1e-5, 0.3, 0.5), 0.5, widest_rtol("int8"), first, first)
    assert plain(densenet, asking(densenet.variant(), evil), change, trusting=True).tolerance == Tolerance(1e9, 0.3, 0.0)
    own = Tolerance(1e-3, 1e-3, 0.9)
    assert plain(densenet, densenet.variant(), own).tolerance == own
    assert bar.held(np.zeros((first + 3, 2))) == first
