"""What a manifest says against what the bundle's files show."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec
import numpy as np

from edgekit.bundle.folder import Bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.errors import UsageError
from edgekit.parity.bars import asks_too_much
from edgekit.parity.inputs import FEWEST, is_constant
from edgekit.preprocess import Preprocess
from edgekit.reports.verify import Check
from edgekit.spelling import did_you_mean
from edgekit.tensors import Array

TOLERANCE = "tolerance"
CODES = (TOLERANCE, "few-samples", "constant-reference", "pixels")
WHOLE = 1e-3
"""Distance from a whole number that a pixel may have after mean and std are undone: 1e-5 is usual, 3e-3 is another unit."""


def check_manifest(bundle: Bundle, golden: GoldenArrays, allowed: Collection[str] = ()) -> tuple[Check, ...]:
    """Hold every claim of the manifest against the files; a failed check whose code is ``allowed`` is reported as that."""
    checks = [check for judge in CHECKS for check in judge(bundle, golden)]
    return tuple(
        msgspec.structs.replace(check, outcome="allowed") if check.outcome == "fail" and check.code in allowed else check
        for check in checks
    )


def check_codes(codes: Collection[str]) -> None:
    """Raise UsageError for a code that no check has."""
    for code in codes:
        if code not in CODES:
            raise UsageError(f"--allow {code} is no check's", f"choose from {', '.join(CODES)}{did_you_mean(code, CODES)}")


def _tolerance(bundle: Bundle, golden: GoldenArrays) -> list[Check]:
    checks = []
    for variant in bundle.manifest.variants:
        wide = asks_too_much(variant)
        text = f"the bundle asks for a wider bar for {variant.name} than it may choose: {wide}" if wide else ""
        checks.append(Check(TOLERANCE, "fail" if wide else "pass", text))
    return checks


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


def _pixels(bundle: Bundle, golden: GoldenArrays) -> list[Check]:
    """Golden inputs with mean and std undone must be pixels: whole numbers within 0..255, some of them above 1."""
    preprocess = bundle.manifest.preprocess
    if preprocess is None or len(golden.inputs) != 1:
        return []
    pixels = undone(next(iter(golden.inputs.values())), preprocess)
    if pixels is None:
        return [Check("pixels", "fail", "the golden inputs do not have the channels that the preprocessing describes")]
    distance, low, high = float(np.abs(pixels - pixels.round()).max()), float(pixels.min()), float(pixels.max())
    problem = ""
    if not distance <= WHOLE:
        problem = f"the golden inputs are no pixels once mean and std are undone: {distance:.2g} from whole numbers"
    elif low < -WHOLE or high > 255 + WHOLE:
        problem = f"the golden inputs are no pixels once mean and std are undone: they go from {low:.0f} to {high:.0f}"
    elif high <= 1:
        problem = "the golden inputs are all 0 or 1 once mean and std are undone, so mean and std may be of another unit"
    if problem:
        return [Check("pixels", "fail", f"{problem}; mean or std is not what the network was given")]
    if low > 64 or high < 192:
        return [Check("pixels", "note", f"the golden inputs use the pixels {low:.0f} to {high:.0f} of 0 to 255 only")]
    return [Check("pixels", "pass")]


def undone(inputs: Array, preprocess: Preprocess) -> Array | None:
    """The pixels 255 * (x * std + mean), float64 of the shape of ``inputs``; None if the channels do not fit."""
    if inputs.ndim != 4 or inputs.shape[1] != len(preprocess.mean):
        return None
    mean, std = (np.asarray(values, np.float64).reshape(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std))
    return np.asarray(255 * (inputs.astype(np.float64) * std + mean))


CHECKS: tuple[Callable[[Bundle, GoldenArrays], list[Check]], ...] = (_tolerance, _samples, _constant, _pixels)
"""Every check; each gives a row for every claim that it holds against the files, and none where nothing is claimed."""
