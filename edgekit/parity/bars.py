"""What a variant is held to on one runtime: by whom the bar is set, and how much of it the bundle may choose."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from edgekit.bundle.allowance import MOST_ATOL, WHOLE_BARS, asks_too_much, bounded_allowance, held_by_snr, held_to_noise
from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.manifest import Allowance, Evidence, Manifest, Variant
from edgekit.parity.callers import CallersBar
from edgekit.parity.converted import ConvertedBar
from edgekit.parity.rounding import LEAST_TYPICAL, TYPICAL, Support, steps_as_exported, steps_in_half
from edgekit.tensors import Array
from edgekit.tolerance import (
    MEASURED_FACTOR,
    UNMEASURED_FACTOR,
    Bar,
    NoiseBar,
    ScaleBar,
    Tolerance,
    ToleranceChange,
    widest_rtol,
)


class Bars(NamedTuple):
    """The bar of each output; all but ``of`` describe them in a report (see ``edgekit.reports.verify.ParityReport``)."""

    of: Mapping[str, Bar]
    tolerance: Tolerance
    noise_factor: float | None = None
    snr_db: float | None = None
    steps: float | None = None
    as_written: bool = False


def bars_of(
    manifest: Manifest,
    variant: Variant,
    evidence: EvidenceArrays | None,
    caller: Tolerance | ToleranceChange,
    *,
    trusting: bool,
    own: Mapping[str, Array] | None = None,
) -> BarsByRuntime:
    """The bars of a variant's outputs, ``own`` being those that it has recorded.

    The caller's own tolerance is how far numbers may be off, whatever the bundle says. Without one, the first file is held to the
    noise that was measured at export, if it is of full precision, and every file to at most the allowance that its bundle
    records, which may not be wider than ``edgekit.bundle.allowance`` says unless the caller is ``trusting``.
    """
    usual = _usual_bars(manifest, variant, evidence, trusting=trusting, own=own)
    return usual._replace(callers=_callers_own(manifest, variant, caller, trusting=trusting))


def _usual_bars(
    manifest: Manifest,
    variant: Variant,
    evidence: EvidenceArrays | None,
    *,
    trusting: bool,
    own: Mapping[str, Array] | None,
) -> BarsByRuntime:
    """The bars where no caller sets any."""
    recorded = variant.allowance.tolerance
    trusted = trusting and bool(asks_too_much(variant))
    allowance = variant.allowance if trusted else bounded_allowance(variant)
    whole = held_by_snr(variant) is not None or allowance.steps is not None
    if own is not None and whole and not held_to_noise(manifest, variant):
        return BarsByRuntime(manifest, _converted(manifest, variant, allowance, own))
    if trusted:
        return BarsByRuntime(manifest, Bars(dict.fromkeys(_names(manifest), recorded), recorded))
    rtol = min(recorded.rtol, widest_rtol(variant.precision))
    held = Tolerance(atol=0, rtol=rtol)
    floors = evidence.floors if evidence is not None and held_to_noise(manifest, variant) else {}
    sizes = [part.samples for part in manifest.golden_of(variant.name).parts]
    return BarsByRuntime(manifest, Bars(dict.fromkeys(_names(manifest), ScaleBar(rtol, sizes)), held), floors)


def _callers_own(
    manifest: Manifest, variant: Variant, caller: Tolerance | ToleranceChange, *, trusting: bool
) -> Callable[[Bars], Bars]:
    """What puts the bars that the caller sets in place of others; it leaves them where the caller sets none.

    What the caller leaves open is the bundle's, as far as a bundle may choose it unless the caller is ``trusting``. A file that
    is held to its reference on the first part alone, because no calibration saw the others, is held to the caller's there too.
    """
    if caller == ToleranceChange():
        return lambda bars: bars
    recorded, allowance = variant.allowance.tolerance, variant.allowance
    if not trusting:
        allowance = bounded_allowance(variant)
        recorded = msgspec.structs.replace(allowance.tolerance, atol=min(recorded.atol, MOST_ATOL))
    tolerance = caller.of(recorded)
    usual = next((part.samples for part in manifest.golden_of(variant.name).parts), None)
    calibrated = held_by_snr(variant) is not None and allowance.steps is not None

    def instead_of(bar: Bar) -> CallersBar:
        return CallersBar(tolerance, tolerance.top1, widest_rtol(variant.precision), bar, usual, usual if calibrated else None)

    return lambda bars: Bars({name: instead_of(bar) for name, bar in bars.of.items()}, tolerance, as_written=bars.as_written)


def bars_as_written(
    manifest: Manifest,
    variant: Variant,
    caller: Tolerance | ToleranceChange,
    *,
    trusting: bool,
    own: Mapping[str, Array],
    support: Support,
) -> Bars:
    """The bars where a variant's file is run node by node, as its ``own`` outputs were recorded: only rounding may differ.

    Those of an exported file are the original's, and ``support`` is of its rounding. The caller's own tolerance takes its place
    here too.
    """
    allowance = variant.allowance if trusting else bounded_allowance(variant)
    if variant.conversion is None:
        (steps, typical), whose = steps_as_exported(variant, allowance, support, trusting=trusting), "the original's"
    else:
        (steps, typical), whose = _steps_as_converted(variant, allowance), "its own"
    typical = None if typical is None else float(f"{typical:.2g}")
    bars = _converted(manifest, variant, allowance, own)
    held = {
        name: bar._replace(steps=steps, own_parts=None, typical_steps=typical, whose=whose)
        if isinstance(bar, ConvertedBar)
        else bar
        for name, bar in bars.of.items()
    }
    callers = _callers_own(manifest, variant, caller, trusting=trusting)
    return callers(bars._replace(of=held, steps=steps, as_written=True))


def _steps_as_converted(variant: Variant, allowance: Allowance) -> tuple[float, float | None]:
    """The steps that any sample, and three of four samples, of a converted file may be off where it runs as written."""
    whole = WHOLE_BARS.get(variant.precision)
    if whole is None or whole.rounding is None:
        return steps_in_half(allowance.rounding, allowance), None
    steps = max(whole.rounding, allowance.rounding or 0.0)
    return steps, max(LEAST_TYPICAL, TYPICAL * steps)


def _converted(manifest: Manifest, variant: Variant, allowance: Allowance, own: Mapping[str, Array]) -> Bars:
    """The bars of a variant that has recorded its ``own`` outputs, to which the first part is held."""
    sizes = [part.samples for part in manifest.golden.parts] or [manifest.golden.samples]
    tolerance, whole = allowance.tolerance, held_by_snr(variant)
    against = sum(sizes) if whole is None or allowance.steps is None else sizes[0]
    tie = tolerance.rtol if whole is None else min(tolerance.rtol, whole.tie)
    bars: dict[str, Bar] = {
        name: ConvertedBar(
            tolerance.rtol,
            against,
            sizes,
            array,
            allowance.snr_db if whole else None,
            allowance.steps,
            tie,
            tolerance.top1,
            own_parts=1,
        )
        for name, array in own.items()
    }
    return Bars(bars, tolerance, snr_db=allowance.snr_db if whole else None, steps=allowance.steps)


class BarsByRuntime(NamedTuple):
    """The bars of a variant, on runtimes whose noise was measured at export and on others; ``callers`` puts a caller's there."""

    manifest: Manifest
    plain: Bars
    floors: Mapping[str, Array] = {}
    callers: Callable[[Bars], Bars] = lambda bars: bars

    def on(self, backend: str, facts: Mapping[str, str]) -> Bars:
        """The bars on a backend with the ``facts`` of its session."""
        return self.callers(self._usual_on(backend, facts))

    def _usual_on(self, backend: str, facts: Mapping[str, str]) -> Bars:
        """The bars there where no caller sets any."""
        evidence = self.manifest.evidence
        if evidence is None or not self.floors:
            return self.plain
        factor = MEASURED_FACTOR if was_measured(evidence, backend, facts) else UNMEASURED_FACTOR
        sizes = [part.samples for part in self.manifest.golden.parts]
        rtol = self.plain.tolerance.rtol
        bars = {
            name: NoiseBar(self.floors[name], sizes, evidence.axes[name], factor, rtol) if name in self.floors else bar
            for name, bar in self.plain.of.items()
        }
        return Bars(bars, self.plain.tolerance, factor)


def was_measured(evidence: Evidence, backend: str, facts: Mapping[str, str]) -> bool:
    """Whether this release of this runtime was run at export, on a machine of this kind."""
    known = evidence.runtimes.get(backend)
    return known is not None and evidence.machine == platform.machine() and known.items() <= facts.items()


def _names(manifest: Manifest) -> list[str]:
    return [spec.name for spec in manifest.outputs]
