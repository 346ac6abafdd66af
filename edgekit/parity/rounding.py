"""What rounding alone does to a file that runs as it is written, in steps of 1/127 of an output's scale, and who may say so."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence

from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.manifest import Allowance, Variant
from edgekit.parity.converted import STEPS, usual_steps
from edgekit.parity.inputs import Recorded, error_of_parts
from edgekit.parity.noise import noise_of_scale
from edgekit.tensors import Array
from edgekit.tolerance import MEASURED_FACTOR, Tolerance

FLOAT_STEPS = STEPS * Tolerance().rtol
"""What a float32 file may be off, in steps: a file in which no value fell to another code is held to that."""
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


def most_rounding(recorded: Recorded, evidence: EvidenceArrays | None) -> float:
    """The steps that a bundle's recorded arrays let any sample of its first file be off, run as it is written.

    Four times the noise floors that were measured at export, and the original's own error: both are told from the float64
    reference, and the file from the original. Never less than ``FLOAT_STEPS``. A ``rounding`` may be ``TIMES_USUAL`` times as
    much, because it is that where rounding moves all samples alike.
    """
    wide, sizes = recorded.arrays.float64, recorded.sizes
    floors = {} if evidence is None else {name: each for name, each in evidence.floors.items() if len(each) == len(sizes)}
    noise = max((noise_of_scale(floor, wide[name], sizes) for name, floor in floors.items()), default=0.0)
    own = recorded.error(recorded.arrays.original)
    return max(FLOAT_STEPS, MEASURED_FACTOR * STEPS * (noise + (own if math.isfinite(own) else 0.0)))


def steps_as_exported(variant: Variant, allowance: Allowance, most: float, *, trusting: bool) -> tuple[float, float | None]:
    """The steps that any sample, and three of four samples, of an exported file may be off where it runs as written.

    ``most``: what the recorded arrays let any sample be off (see ``most_rounding``); a file without a recorded ``rounding`` may
    be off by all that they support. Of 16 bits it is its rtol at most: there rounding moves all samples alike.
    """
    asked = TIMES_USUAL * most if allowance.rounding is None else allowance.rounding
    trusted = trusting and allowance.rounding is not None
    rounding, any_sample = (asked, asked) if trusted else (min(asked, TIMES_USUAL * most), min(asked, most))
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
