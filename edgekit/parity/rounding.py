"""What rounding alone does to a file that runs as it is written, in steps of 1/127 of an output's scale, and who may say so."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from edgekit.bundle.allowance import MOST_ROUNDING
from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.manifest import Allowance, Variant
from edgekit.parity.converted import STEPS, usual_steps
from edgekit.parity.inputs import Recorded, error_of_parts
from edgekit.parity.noise import moved_readings, noise_of_scale
from edgekit.tensors import Array, Feed
from edgekit.tolerance import MEASURED_FACTOR, Tolerance

FLOAT_STEPS = STEPS * Tolerance().rtol
"""What a float32 file may be off, in steps: a file in which no value fell to another code is held to that."""
TIMES_ROUNDING = 4.0
"""Times what rounding in float32 was seen to move outputs by that ``verify`` accepts."""
TIMES_USUAL = 8
"""``verify`` lets the usual sample be off by a 16th of four times the steps that are told here: twice what was seen."""
LEAST_TYPICAL, TYPICAL = 0.15, 1 / 16
"""Steps that three of four samples of an int8 file may be off where it is run as it was recorded, and the share of the most steps
that any sample may. Rounding moved none of the three on four networks, on another CPU too; one changed code moves most by 0.2."""


def steps_moved(moved: Mapping[str, Array], own: Mapping[str, Array], sizes: Sequence[int]) -> float:
    """The most steps that any output is off ``own``, samples in parts of ``sizes``; those of the usual sample count 8 times."""
    usual = max(usual_steps(moved[name], array, sizes) for name, array in own.items())
    return max(most_steps(moved, own, sizes), TIMES_USUAL * usual)


def most_steps(moved: Mapping[str, Array], own: Mapping[str, Array], sizes: Sequence[int]) -> float:
    """The most steps that any output is off ``own``, samples in parts of ``sizes``."""
    return STEPS * error_of_parts(moved, own, sizes)


class Support(NamedTuple):
    """The steps that ``any_sample`` of an exported file may be off as written, and the ``rounding`` that it may ask for."""

    any_sample: float
    rounding: float


def largest_noise(recorded: Recorded, evidence: EvidenceArrays | None) -> float | None:
    """The largest noise floor, of scale, of any output on any part; None where no floors are those of the samples."""
    wide, sizes = recorded.arrays.float64, recorded.sizes
    floors = {} if evidence is None else {name: each for name, each in evidence.floors.items() if len(each) == len(sizes)}
    return max((noise_of_scale(floor, wide[name], sizes) for name, floor in floors.items()), default=None)


def recorded_support(precision: str, recorded: Recorded, evidence: EvidenceArrays | None) -> Support:
    """What a bundle's recorded arrays support: of any sample four times the noise floors and the original's own error.

    Both are told from the float64 reference, and the file from the original. Never less than ``FLOAT_STEPS``. A ``rounding`` may
    be ``TIMES_USUAL`` times as much, because it is that where rounding moves all samples alike. An int8 file without floors, as
    one of before there were any, may ask for what any may, because ``verify`` holds it to what it sees too; any other is held to
    the original's own error, so that floors which are left out widen nothing.
    """
    noise, own = largest_noise(recorded, evidence), recorded.error(recorded.arrays.original)
    if noise is None and precision == "int8":
        return Support(MOST_ROUNDING, MOST_ROUNDING)
    most = max(FLOAT_STEPS, MEASURED_FACTOR * STEPS * ((noise or 0.0) + (own if math.isfinite(own) else 0.0)))
    return Support(most, TIMES_USUAL * most)


SEEN_UNITS = 64
"""Units in float32's last place by which ``verify`` moves numbers: whatever fell to another code at export falls here too."""


def support_of(
    variant: Variant,
    recorded: Recorded,
    evidence: EvidenceArrays | None,
    content: bytes,
    unknown: Collection[str],
    run: Callable[[bytes, Feed], Mapping[str, Array]],
) -> Support:
    """What supports the rounding of a variant's file ``content`` where it runs as written, for ``verify`` and for ``export``.

    It is what was recorded, and of an exported file in steps no more than what is seen here: ``run`` gives the outputs of a copy
    of the file for a feed. A file with scales that cannot be moved (``unknown``) shows too little, and is held to what was
    recorded, if fingerprints of its values show that its nodes are those of the export.
    """
    support, known = recorded_support(variant.precision, recorded, evidence), evidence is not None and bool(evidence.nodes)
    if variant.conversion is not None or variant.precision != "int8" or (known and unknown):
        return support
    inputs = recorded.arrays.inputs
    readings = (run(*reading) for reading in moved_readings(content, inputs, SEEN_UNITS))
    seen = seen_support(readings, run(content, inputs), recorded.sizes, variant.allowance)
    return Support(*map(min, support, seen))


def seen_support(
    readings: Iterable[Mapping[str, Array]], own: Mapping[str, Array], sizes: Sequence[int], allowance: Allowance
) -> Support:
    """What rounding does to a file here supports: four times the most that any of the ``readings`` moves its outputs ``own``.

    It is measured, and no claim of the bundle. It depends on the file, which whoever forges a bundle gives too. Readings are
    taken until they support the ``allowance``.
    """
    asked, most, told = min(_asked(allowance), MOST_ROUNDING), 0.0, 0.0
    if asked > FLOAT_STEPS:
        for moved in readings:
            most, told = max(most, most_steps(moved, own, sizes)), max(told, steps_moved(moved, own, sizes))
            if TIMES_ROUNDING * most >= asked:
                break
    return Support(TIMES_ROUNDING * most, TIMES_ROUNDING * told)


def _asked(allowance: Allowance) -> float:
    """The steps of rounding that a manifest asks for; one that does not say asks for the most that any may."""
    return MOST_ROUNDING if allowance.rounding is None else allowance.rounding


def trusts(allowance: Allowance, *, trusting: bool) -> bool:
    """Whether a caller takes the rounding that the manifest asks for, whatever supports it."""
    return trusting and allowance.rounding is not None


def steps_as_exported(variant: Variant, allowance: Allowance, support: Support, *, trusting: bool) -> tuple[float, float | None]:
    """The steps that any sample, and three of four samples, of an exported file may be off where it runs as written.

    They are what the ``allowance`` asks for and the ``support`` covers, unless the caller is ``trusting``. Of 16 bits it is its
    rtol at most: there rounding moves all samples alike.
    """
    asked = _asked(allowance)
    rounding, any_sample = (
        (asked, asked) if trusts(allowance, trusting=trusting) else (min(asked, support.rounding), min(asked, support.any_sample))
    )
    steps = max(FLOAT_STEPS, any_sample)
    if variant.precision == "int8":
        return steps, max(FLOAT_STEPS, TYPICAL * rounding)
    return steps_in_half(steps, allowance), None


def steps_in_half(steps: float | None, allowance: Allowance) -> float:
    """The steps that a file of 16 bits may be off where it runs as written: its ``rounding``, and its rtol at most.

    What was measured sums in float32. Kernels for ARM sum in float16, which moves more: there the rtol alone holds.
    """
    most = STEPS * allowance.tolerance.rtol
    return most if steps is None or platform.machine().lower() in ("aarch64", "arm64") else min(steps, most)
