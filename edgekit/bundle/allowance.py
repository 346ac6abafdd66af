"""What a bundle may choose of its own bar, and which of its files the measured noise is the bar of."""

from __future__ import annotations

from typing import NamedTuple

from edgekit.bundle.manifest import Allowance, Manifest, Variant
from edgekit.tolerance import TIE, Tolerance, widest_rtol

_EXACT = ("float32", "float64")
MOST_ATOL = 1e-5


def held_to_noise(manifest: Manifest, variant: Variant) -> bool:
    """Whether the recorded noise floors, which are of the first file, are a variant's bar."""
    return variant.precision in _EXACT and variant == manifest.variants[0]


class WholeBar(NamedTuple):
    """What a file of a precision may ask that is held by its signal-to-noise ratio.

    ``snr_db``: the least of that. ``tie``: classes tie whose reference values are nearer than that each, of scale. ``rounding``:
    steps by which its outputs may be off where it is run node by node, as it was recorded; None: as many as its rtol.
    """

    snr_db: float
    tie: float
    rounding: float | None = None
    rtol: float = 0.5


WHOLE_BARS = {"int8": WholeBar(10, TIE / 2, 0.5), "float16": WholeBar(35, widest_rtol("float16"), rtol=widest_rtol("float16"))}
"""Precisions that may be held by a signal-to-noise ratio: an int8 file may flip a class however clear, and counts as many."""
MARGIN_DB = 6.0
"""What other runtimes and CPUs may round differently: so much below the measured SNR of an int8 file ``verify`` accepts."""
HALF_MARGIN_DB = 6.0
"""The same of a float16 file: kernels of a GPU may also sum in float16."""
MOST_RTOL, MOST_STEPS, LEAST_TOP1 = 0.5, 32.0, 0.5
"""Widest rtol, most steps and least top-1 that a file may ask for beside its signal-to-noise ratio."""


MOST_ROUNDING = 8.0
"""Most steps that rounding in float32 may move a file by that is computed as it was recorded."""


def held_by_snr(variant: Variant) -> WholeBar | None:
    """The bounds of a variant that is held by its signal-to-noise ratio and its own recorded outputs; None for any other."""
    return WHOLE_BARS.get(variant.precision) if variant.allowance.snr_db is not None and variant.conversion is not None else None


def bounded_allowance(variant: Variant) -> Allowance:
    """The variant's allowance, as far as a bundle may choose it."""
    asked, whole = variant.allowance, held_by_snr(variant)
    most = widest_rtol(variant.precision) if whole is None else whole.rtol
    top1 = 1.0 if whole is None else max(asked.tolerance.top1, LEAST_TOP1)
    return Allowance(
        Tolerance(atol=0, rtol=min(asked.tolerance.rtol, most), top1=top1),
        asked.accuracy_points,
        None if whole is None else max(asked.snr_db or 0.0, whole.snr_db),
        None if asked.steps is None else min(asked.steps, MOST_STEPS),
        None if asked.rounding is None else min(asked.rounding, MOST_ROUNDING),
    )


def asks_too_much(variant: Variant) -> str:
    """What of the variant's recorded allowance is wider than a bundle may choose; empty if nothing is."""
    asked, whole = variant.allowance.tolerance, held_by_snr(variant)
    most = widest_rtol(variant.precision) if whole is None else whole.rtol
    steps, rounding = variant.allowance.steps or 0.0, variant.allowance.rounding or 0.0
    wide = [
        f"rtol {asked.rtol:g} instead of at most {most:g}" if asked.rtol > most else "",
        f"atol {asked.atol:g} instead of at most {MOST_ATOL:g}" if asked.atol > MOST_ATOL else "",
        f"top-1 {asked.top1:g} instead of 1" if asked.top1 < 1 and variant.precision in _EXACT else "",
        f"{steps:g} steps instead of at most {MOST_STEPS:g}" if steps > MOST_STEPS else "",
        f"{rounding:g} steps of rounding instead of at most {MOST_ROUNDING:g}" if rounding > MOST_ROUNDING else "",
        *([] if whole is None else _of_the_whole(variant.allowance, whole)),
    ]
    return " and ".join(text for text in wide if text)


def _of_the_whole(asked: Allowance, whole: WholeBar) -> list[str]:
    """What of the bars of all elements together is wider than a bundle may choose."""
    snr = asked.snr_db or 0.0
    return [
        f"an SNR of {snr:g} dB instead of at least {whole.snr_db:g} dB" if snr < whole.snr_db else "",
        "no bar in steps" if whole.rounding is not None and asked.steps is None else "",
        f"top-1 {asked.tolerance.top1:g} instead of at least {LEAST_TOP1:g}" if asked.tolerance.top1 < LEAST_TOP1 else "",
    ]
