"""What ``verify`` accepts of a converted file: proposed from its outputs when it is made, and held against them afterwards.

A proposal is made of two readings: the recorded one, which is ONNX Runtime's on a CPU, and what another runtime does at worst
(TensorRT clips codes at 127, GPUs round to float16 behind every node). A bundle holds the first one only. What its manifest asks
for may therefore be wider than that shows, by no more than ``ROOMS`` say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from edgekit.bundle.allowance import (
    HALF_MARGIN_DB,
    LEAST_TOP1,
    MARGIN_DB,
    MOST_ATOL,
    MOST_ROUNDING,
    MOST_RTOL,
    MOST_STEPS,
    WHOLE_BARS,
)
from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.manifest import Allowance, Variant
from edgekit.onnx.rounding import rounding_unit
from edgekit.parity.compare import top1_agreement
from edgekit.parity.converted import STEPS, worst_snr_db
from edgekit.parity.inputs import Recorded
from edgekit.parity.rounding import TIMES_ROUNDING, recorded_support
from edgekit.tensors import Array, normalised_error
from edgekit.tolerance import Tolerance, half_tolerance

TIMES_ERROR, FEW_STEPS = 3.0, 3.0
"""``verify`` accepts so many times the measured error of an int8 file, and at least so many steps."""
FEW_FLIPS = 2
"""Samples that may change their class beside twice as many as were seen to."""


class Room(NamedTuple):
    """How much wider a manifest may ask than the recorded reading shows: ``times`` its errors, and ``db`` less of its SNR."""

    times: float
    db: float


ROOMS = {"int8": Room(2, 6), "float16": Room(4, 12)}
"""Proposals of 40 files were wider by 1.2 times and 1 dB in int8, and in float16 by 1.0 to 3.3 times and 0 to 8 dB, but for one
network of a few hundred weights (8 times, 15 dB); what a proposal has beyond this room is left out."""
TRAINED = Room(4, 18)
"""Ranges that were trained end below the largest values, so that clipping does more: 2.7 times and 15 dB were measured."""


def int8_allowance(readings: Sequence[Mapping[str, Array]], reference: Mapping[str, Array], rounding: float) -> Allowance:
    """The errors that an int8 file has on the first part (samples x ...), in the worst of the ``readings``, and a margin.

    An output may be off by three times what it is off here, of its scale, and by as much from the file's own recorded outputs.
    The share of samples whose largest output moves may be twice as large, and two samples larger. ``rounding``: the steps that
    rounding in float32 moves outputs by.
    """
    error = max(normalised_error(outputs[name], wide) for outputs in readings for name, wide in reference.items())
    snr_db = min(worst_snr_db(outputs, reference) for outputs in readings)
    moved = max(_moved(outputs, reference) for outputs in readings)
    samples = len(next(iter(reference.values())))
    return Allowance(
        Tolerance(
            atol=0.0,
            rtol=min(max(FEW_STEPS / STEPS, TIMES_ERROR * error), MOST_RTOL),
            top1=max(LEAST_TOP1, 1 - (2 * moved + FEW_FLIPS) / samples),
        ),
        snr_db=max(0.0, snr_db - MARGIN_DB),
        steps=min(max(FEW_STEPS, TIMES_ERROR * error * STEPS), MOST_STEPS),
        rounding=rounding_room(rounding, "int8"),
    )


def _moved(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> int:
    """The most samples of any output of classes whose largest value is elsewhere."""
    return max((int((outputs[name].argmax(1) != reference[name].argmax(1)).sum()) for name in _classes(reference)), default=0)


def _classes(reference: Mapping[str, Array]) -> list[str]:
    """The outputs of samples x classes."""
    return [name for name, wide in reference.items() if wide.ndim == 2 and wide.shape[1] > 1]


def half_allowance(readings: Sequence[Mapping[str, Array]], recorded: Recorded) -> Allowance:
    """What the worst of the ``readings`` of a float16 file needs, on all parts: ``half_tolerance`` of its error, and its SNR."""
    reference = recorded.arrays.float64
    error = max(map(recorded.error, readings))
    top1 = min(
        (top1_agreement(outputs[name], reference[name], Tolerance()) for outputs in readings for name in _classes(reference)),
        default=1.0,
    )
    first = recorded.of_first(reference)
    snr_db = min(worst_snr_db(recorded.of_first(outputs), first) for outputs in readings)
    return Allowance(half_tolerance(error, top1), snr_db=max(0.0, snr_db - HALF_MARGIN_DB))


FEW_CODES = 3 / 255
"""Of scale: steps of 8 bits by which fused integer kernels of other machines round differently."""
HALVES = ("float16", "bfloat16")
"""Precisions of 16 bits, whose exported files are held by ``half_tolerance`` of the original's own error."""


def rounding_room(steps: float, precision: str) -> float:
    """The steps of rounding that a file of ``precision`` may ask for where ``steps`` were seen: four times these.

    Of 16 bits it is a unit in the last place at least.
    """
    least = STEPS * rounding_unit(precision) if precision in HALVES else 0.0
    return min(max(TIMES_ROUNDING * steps, least), MOST_ROUNDING)


def asks_beyond_export(variant: Variant, recorded: Recorded, evidence: EvidenceArrays | None) -> str:
    """What the manifest asks for an exported file in fewer bits beyond what was recorded with it; empty where nothing is.

    The original's error supports the rtol of 16 bits; only where the reference is the original itself, which then has none, the
    file's own does. That of steps of 8 bits, and all rounding as written, is supported by the noise floors.
    """
    asked, rounding = variant.allowance.tolerance.rtol, variant.allowance.rounding or 0.0
    most = _most_rtol(variant, recorded, evidence)
    wide = "" if asked <= (1 + 1e-6) * most else f"{asked:.3g} rtol instead of at most {most:.3g}"
    steps = recorded_support(variant.precision, recorded, evidence).rounding
    rounds = "" if rounding <= (1 + 1e-6) * steps else f"{rounding:.3g} steps of rounding instead of at most {steps:.3g}"
    return " and ".join(filter(None, (wide, rounds)))


def _most_rtol(variant: Variant, recorded: Recorded, evidence: EvidenceArrays | None) -> float:
    if variant.precision in HALVES:
        return half_tolerance(recorded.error(recorded.arrays.original) or variant.error or 0.0).rtol
    return max(FEW_CODES, recorded_support(variant.precision, recorded, evidence).any_sample / STEPS)


def widest_allowance(variant: Variant, recorded: Recorded, own: Mapping[str, Array]) -> Allowance | None:
    """The widest that a manifest may ask for a variant whose recorded outputs are ``own``; None for a precision without bars."""
    room, whole = _room(variant), WHOLE_BARS.get(variant.precision)
    if room is None or whole is None:
        return None
    error = recorded.error(own)
    of_steps = int8_allowance([recorded.of_first(own)], recorded.of_first(recorded.arrays.float64), error * STEPS)
    shown = half_allowance([own], recorded) if variant.precision == "float16" else of_steps
    few, moved = FEW_FLIPS / recorded.sizes[0], 1 - shown.tolerance.top1
    return Allowance(
        Tolerance(MOST_ATOL, min(room.times * shown.tolerance.rtol, whole.rtol), max(LEAST_TOP1, 1 - room.times * moved - few)),
        snr_db=max((shown.snr_db or 0.0) - room.db, whole.snr_db),
        steps=min(room.times * (of_steps.steps or 0.0), MOST_STEPS),
        rounding=None if whole.rounding is None else max(error * STEPS, whole.rounding),
    )


def _room(variant: Variant) -> Room | None:
    calibration = variant.conversion.calibration if variant.conversion else None
    trained = variant.precision == "int8" and calibration is not None and calibration.method == "trained"
    return TRAINED if trained else ROOMS.get(variant.precision)


def within_support(variant: Variant, recorded: Recorded, own: Mapping[str, Array]) -> Variant:
    """The variant with its allowance where its recorded outputs ``own`` support that, and the widest that they do elsewhere."""
    most, asked = widest_allowance(variant, recorded, own), variant.allowance
    if most is None:
        return variant
    tolerance = Tolerance(
        asked.tolerance.atol,
        min(asked.tolerance.rtol, most.tolerance.rtol),
        max(asked.tolerance.top1, most.tolerance.top1),
    )
    supported = msgspec.structs.replace(
        asked,
        tolerance=tolerance,
        snr_db=max(asked.snr_db or 0.0, most.snr_db or 0.0),
        steps=_least(asked.steps, most.steps),
        rounding=_least(asked.rounding, most.rounding),
    )
    return msgspec.structs.replace(variant, allowance=supported)


def _least(asked: float | None, most: float | None) -> float | None:
    """What is asked, but no more than ``most``; None where nothing is asked."""
    return asked if asked is None or most is None else min(asked, most)


def asks_beyond(variant: Variant, recorded: Recorded, own: Mapping[str, Array]) -> str:
    """What the manifest asks for a variant beyond what its recorded outputs ``own`` support; empty where nothing is."""
    most, asked = widest_allowance(variant, recorded, own), variant.allowance
    if most is None:
        return ""
    pairs = [
        ("rtol", asked.tolerance.rtol, most.tolerance.rtol),
        ("steps", asked.steps or 0.0, most.steps or 0.0),
        ("steps of rounding", asked.rounding or 0.0, most.rounding or math.inf),
    ]
    wide = [f"{mine:.3g} {what} instead of at most {limit:.3g}" for what, mine, limit in pairs if not mine <= limit]
    if not (asked.snr_db or 0.0) >= (most.snr_db or 0.0):
        wide.append(f"an SNR of {asked.snr_db or 0.0:.3g} dB instead of at least {most.snr_db:.3g} dB")
    if not asked.tolerance.top1 >= most.tolerance.top1:
        wide.append(f"top-1 {asked.tolerance.top1:.3g} instead of at least {most.tolerance.top1:.3g}")
    return " and ".join(wide)
