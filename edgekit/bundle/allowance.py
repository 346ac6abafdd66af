"""What a bundle may choose of its own bar, and which of its files the measured noise is the bar of."""

from __future__ import annotations

from edgekit.bundle.manifest import Manifest, Variant
from edgekit.tolerance import widest_rtol

_EXACT = ("float32", "float64")
MOST_ATOL = 1e-5


def held_to_noise(manifest: Manifest, variant: Variant) -> bool:
    """Whether the recorded noise floors, which are of the first file, are a variant's bar."""
    return variant.precision in _EXACT and variant == manifest.variants[0]


def asks_too_much(variant: Variant) -> str:
    """What of the variant's recorded tolerance is wider than a bundle may choose; empty if nothing is."""
    asked, most = variant.allowance.tolerance, widest_rtol(variant.precision)
    wide = [
        f"rtol {asked.rtol:g} instead of at most {most:g}" if asked.rtol > most else "",
        f"atol {asked.atol:g} instead of at most {MOST_ATOL:g}" if asked.atol > MOST_ATOL else "",
        f"top-1 {asked.top1:g} instead of 1" if asked.top1 < 1 and variant.precision in _EXACT else "",
    ]
    return " and ".join(text for text in wide if text)
