"""Which bar a variant has on which runtime, and how much of it a bundle may choose."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.manifest import Allowance, Manifest, Variant
from edgekit.bundle.variants import own_outputs
from edgekit.parity.bars import Bars, bars_as_written, bars_of
from edgekit.parity.callers import CallersBar
from edgekit.parity.compare import compare_output
from edgekit.parity.converted import ConvertedBar
from edgekit.parity.rounding import Support
from edgekit.tensors import Array
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
    bars = bars_as_written(bundle.manifest, variant, AS_RECORDED, trusting=trusting, own=own, support=Support(8.0, 64.0))
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
    bar, other = plain(densenet, asking(densenet.variant(), evil), change), ScaleBar(0.0)
    assert isinstance(bar.instead_of, ScaleBar)
    exact = CallersBar(Tolerance(1e-5, 0.3, 1.0), 1.0, widest_rtol("float32"), other, first, None)
    assert bar._replace(instead_of=other) == exact
    bar = plain(densenet, asking(densenet.variant("int8"), evil), change)
    assert isinstance(bar.instead_of, ConvertedBar)
    int8 = CallersBar(Tolerance(1e-5, 0.3, 0.5), 0.5, widest_rtol("int8"), other, first, first)
    assert bar._replace(instead_of=other) == int8
    assert plain(densenet, asking(densenet.variant(), evil), change, trusting=True).tolerance == Tolerance(1e9, 0.3, 0.0)
    own = Tolerance(1e-3, 1e-3, 0.9)
    assert plain(densenet, densenet.variant(), own).tolerance == own
    assert bar.held(np.zeros((first + 3, 2))) == first


def exported(bundle: Bundle, precision: str) -> tuple[Manifest, Variant]:
    """The bundle as if its file of ``precision`` had been exported: the only one, which was converted from nothing."""
    recorded = bundle.variant(precision)
    allowance = Allowance(Tolerance(0.0, widest_rtol(precision), recorded.allowance.tolerance.top1))
    only = msgspec.structs.replace(recorded, conversion=None, allowance=allowance)
    return msgspec.structs.replace(bundle.manifest, variants=(only,)), only


def moved(reference: Array, seed: int) -> Array:
    """Outputs that are off by noise of some size; by an odd ``seed`` one sample's two best classes also change places."""
    rng = np.random.default_rng(seed)
    size = 10 ** rng.uniform(-9, -0.5) * np.abs(reference).max()
    mine = reference + size * rng.uniform(-1, 1, reference.shape)
    return flipped(mine, int(rng.integers(len(mine)))) if seed % 2 else mine


def flipped(scores: Array, sample: int = 0) -> Array:
    """The scores, of whose ``sample`` the two best classes have changed places."""
    mine: Array = scores.copy()
    first, second = np.argsort(mine[sample])[[-1, -2]]
    mine[sample, [first, second]] = mine[sample, [second, first]]
    return mine


def near(reference: Array, margin: float) -> Array:
    """The reference, but for the two best classes of its first sample, which are ``margin`` of scale apart."""
    mine: Array = reference.copy()
    first, second = np.argsort(mine[0])[[-1, -2]]
    mine[0, second] = mine[0, first] - margin * np.abs(mine).max()
    return mine


@pytest.mark.parametrize("margin", [1e-7, 1e-5, 1e-3, 1e-2])
@pytest.mark.parametrize(
    ("precision", "converted"), [("float32", False), ("float16", False), ("float16", True), ("int8", False), ("int8", True)]
)
def test_what_passes_by_default_passes_with_every_looser_rtol(
    densenet: Bundle, precision: str, converted: bool, margin: float
) -> None:
    manifest, variant = densenet.manifest, densenet.variant(precision)
    if not converted and precision != "float32":
        manifest, variant = exported(densenet, precision)
    ((name, recorded),) = densenet.golden().float64.items()
    reference = near(recorded, margin)

    def passes(output: Array, caller: ToleranceChange) -> bool:
        own = {name: reference} if converted else None
        bar = only_bar(bars_of(manifest, variant, densenet.evidence(), caller, trusting=False, own=own).on("ort-cpu", {}))
        return compare_output(name, output, reference, bar).within(bar)

    outputs = [flipped(reference), *(moved(reference, seed) for seed in range(40))]
    passing = [output for output in outputs if passes(output, AS_RECORDED)]
    assert 0 < len(passing) < len(outputs)
    looser = [variant.allowance.tolerance.rtol * times for times in (1, 1.5)] + [0.6, 0.99]
    assert all(passes(output, ToleranceChange(rtol=rtol)) for output in passing for rtol in looser)


def test_a_wider_rtol_takes_no_classes_for_equal_that_the_bundles_bar_tells_apart(densenet: Bundle) -> None:
    manifest, variant = exported(densenet, "float16")
    ((name, recorded),) = densenet.golden().float64.items()
    reference = near(recorded, 0.2)
    bar = only_bar(bars_of(manifest, variant, None, ToleranceChange(rtol=0.9), trusting=False).on("ort-cpu", {}))
    diff = compare_output(name, flipped(reference), reference, bar)
    assert (diff.of_limit < 1, diff.within(bar)) == (True, False)
