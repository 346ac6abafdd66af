"""What a variant is held to on one runtime: by whom the bar is set, and how much of it the bundle may choose."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import NamedTuple

from edgekit.bundle.allowance import asks_too_much, held_to_noise
from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.manifest import Evidence, Manifest, Variant
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
    """The bar of each output; ``tolerance`` and ``noise_factor`` describe them in a report."""

    of: Mapping[str, Bar]
    tolerance: Tolerance
    noise_factor: float | None = None


def bars_of(
    manifest: Manifest, variant: Variant, evidence: EvidenceArrays | None, caller: Tolerance | ToleranceChange, *, trusting: bool
) -> BarsByRuntime:
    """The bars of a variant's outputs.

    The caller's own tolerance counts as it is. Without one, the first file is held to the noise that was measured at export, if
    it is of full precision, and every file to at most the tolerance that its bundle records, which may not be wider than
    ``widest_rtol`` unless the caller is ``trusting``.
    """
    recorded = variant.allowance.tolerance
    if isinstance(caller, Tolerance) or caller != ToleranceChange():
        own = caller.of(recorded)
        return BarsByRuntime(manifest, Bars(dict.fromkeys(_names(manifest), own), own))
    if trusting and asks_too_much(variant):
        return BarsByRuntime(manifest, Bars(dict.fromkeys(_names(manifest), recorded), recorded))
    rtol = min(recorded.rtol, widest_rtol(variant.precision))
    held = Tolerance(atol=0, rtol=rtol)
    floors = evidence.floors if evidence is not None and held_to_noise(manifest, variant) else {}
    sizes = [part.samples for part in manifest.golden.parts]
    return BarsByRuntime(manifest, Bars(dict.fromkeys(_names(manifest), ScaleBar(rtol, sizes)), held), floors)


class BarsByRuntime(NamedTuple):
    """The bars of a variant, on runtimes whose noise was measured at export and on others."""

    manifest: Manifest
    plain: Bars
    floors: Mapping[str, Array] = {}

    def on(self, backend: str, facts: Mapping[str, str]) -> Bars:
        """The bars on a backend with the ``facts`` of its session."""
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
