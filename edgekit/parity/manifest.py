"""What a manifest says against what the bundle's files show."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from edgekit.bundle.allowance import asks_too_much, held_to_noise
from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.folder import Bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import Variant
from edgekit.bundle.signed import OF_GIT, strays_of
from edgekit.bundle.variants import own_outputs
from edgekit.errors import UsageError
from edgekit.parity.allowances import asks_beyond, asks_beyond_export
from edgekit.parity.claims import CLAIMS
from edgekit.parity.evidenced import evidenced
from edgekit.parity.inputs import FEWEST, is_constant, recorded_in
from edgekit.parity.own_inputs import OWN_INPUTS, own_inputs
from edgekit.parity.pixels import pixels
from edgekit.reports.verify import Check
from edgekit.spelling import did_you_mean

TOLERANCE = "tolerance"
STRAYS = "stray-files"
CODES = (TOLERANCE, "few-samples", "constant-reference", "pixels", OWN_INPUTS, STRAYS, *CLAIMS)


def check_manifest(
    bundle: Bundle, golden: GoldenArrays, arrays: EvidenceArrays | None, allowed: Collection[str] = ()
) -> tuple[Check, ...]:
    """Hold every claim of the manifest against the files; a failed check whose code is ``allowed`` is reported as that."""
    seen = evidenced(bundle, golden, arrays)
    checks = [*_tolerance(bundle, golden, arrays), *(check for judge in CHECKS for check in judge(bundle, golden))]
    checks += [check for claim in CLAIMS.values() for check in claim(seen)]
    return tuple(
        msgspec.structs.replace(check, outcome="allowed") if check.outcome == "fail" and check.code in allowed else check
        for check in checks
    )


def check_codes(codes: Collection[str]) -> None:
    """Raise UsageError for a code that no check has."""
    for code in codes:
        if code not in CODES:
            raise UsageError(
                f"--allow {code}: there is no such check", f"choose from {', '.join(CODES)}{did_you_mean(code, CODES)}"
            )


def _tolerance(bundle: Bundle, golden: GoldenArrays, arrays: EvidenceArrays | None) -> list[Check]:
    checks = []
    for variant in bundle.manifest.variants:
        wide = asks_too_much(variant)
        text = f"the bundle asks for a wider bar for {variant.name} than it may choose: {wide}" if wide else ""
        if not wide and (beyond := _beyond(bundle, golden, arrays, variant)):
            text = f"the bundle asks for a wider bar for {variant.name} than its recorded outputs support: {beyond}"
        checks.append(Check(TOLERANCE, "fail" if text else "pass", text))
    return checks


def _beyond(bundle: Bundle, golden: GoldenArrays, arrays: EvidenceArrays | None, variant: Variant) -> str:
    """What a variant asks for beyond what the outputs that it has recorded support."""
    own = own_outputs(bundle, variant.name)
    if own is not None:
        return asks_beyond(variant, recorded_in(bundle, golden), own)
    narrow = variant == bundle.manifest.variants[0] and not held_to_noise(bundle.manifest, variant)
    return asks_beyond_export(variant, recorded_in(bundle, golden), arrays) if narrow else ""


def _samples(bundle: Bundle, golden: GoldenArrays) -> list[Check]:
    samples = bundle.manifest.golden.samples
    few = f"{samples} golden samples are fewer than {FEWEST}, and show little" if samples < FEWEST else ""
    return [Check("few-samples", "fail" if few else "pass", few)]


def _constant(bundle: Bundle, golden: GoldenArrays) -> list[Check]:
    constant = [name for name, reference in golden.float64.items() if is_constant(reference)]
    if len(constant) == len(golden.float64):
        return [
            Check("constant-reference", "fail", "the recorded outputs are the same for every golden input, and prove nothing")
        ]
    return [
        Check("constant-reference", "note", f"the recorded output {name!r} is the same for every input") for name in constant
    ] or [Check("constant-reference", "pass")]


def _strays(bundle: Bundle, golden: GoldenArrays) -> list[Check]:
    """What lies in the folder and is no part of the bundle: no checksum is of it, and no signature."""
    strays = strays_of(bundle)
    strangers = [name for name in strays if name not in OF_GIT]
    if strangers:
        names = ", ".join(strangers[:3]) + (f" and {len(strangers) - 3} more" if len(strangers) > 3 else "")
        return [Check(STRAYS, "fail", f"the folder holds {names}, which the manifest does not list: move it out")]
    git = f"the folder holds {', '.join(strays)}, which is git's and no part of the bundle" if strays else ""
    return [Check(STRAYS, "note" if git else "pass", git)]


CHECKS: tuple[Callable[[Bundle, GoldenArrays], list[Check]], ...] = (
    _samples,
    _constant,
    pixels,
    own_inputs,
    _strays,
)
"""Checks of the golden set and the folder; each gives a row for every claim that it holds against the files, if any is made."""
