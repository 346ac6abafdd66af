"""What an exported file in fewer bits than float32 is held to: measured on the file, in ONNX Runtime on this CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx

from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.manifest import MODEL, Variant
from edgekit.errors import ModelError
from edgekit.onnx.arithmetic import steps_between_floats
from edgekit.onnx.half import rounded_after_every_node
from edgekit.onnx.read import quantised
from edgekit.onnx.run import open_unoptimised, run_in_batches
from edgekit.parity.allowances import FEW_CODES, HALVES, rounding_room
from edgekit.parity.compare import top1_agreement
from edgekit.parity.graph_claims import FULL_NAMES
from edgekit.parity.inputs import Recorded
from edgekit.parity.noise import Outcome, moved_readings
from edgekit.parity.rounding import FLOAT_STEPS, SEEN_UNITS, largest_noise, most_steps, recorded_support, steps_moved
from edgekit.tensors import Array, Feed, worst_error
from edgekit.tolerance import Tolerance, half_tolerance, widest_rtol

MOST_OF_STEPS = 0.1  # of scale: what fused integer kernels may change before the file is refused
WITH_ALLOWANCE = "; edgekit verify takes it only with --allow tolerance"
UNITS = (1, 8, SEEN_UNITS)
"""Units in the last place by which numbers are moved, one after the other until a value falls to another code."""


class NarrowFile(NamedTuple):
    """A file in fewer bits: its ``content``, ``source`` in a message, and its only batch size, or None for any."""

    content: bytes
    source: str
    recorded: Recorded
    batch: int | None = None

    def outputs(self, content: bytes, feed: Feed, level: str = "off") -> dict[str, Array]:
        """What ``content``, this file or a copy of it with other numbers, gives at one of ONNX Runtime's levels."""
        return run_in_batches(open_unoptimised(content, Path(MODEL), level=level), feed, self.batch, Path(MODEL))


def tolerance_in_half(narrow: NarrowFile, outputs: Mapping[str, Array], original_error: float) -> Tolerance:
    """The tolerance of a file of 16 bits: ``half_tolerance`` of the original's own error, and the classes that move."""
    reference = narrow.recorded.arrays.float64
    return half_tolerance(original_error, min(_top1(each, reference) for each in (outputs, narrow.recorded.arrays.original)))


def tolerance_in_steps(narrow: NarrowFile, outputs: Mapping[str, Array]) -> Tolerance:
    """The tolerance of a quantised file: what ONNX Runtime's fused kernels change on this CPU, twice, and three steps at least.

    They round in other places than the file says, and without VNNI some of them saturate. ``with_noise`` widens it once noise is
    measured. Raises ModelError where fused kernels ruin the file.
    """
    reference = narrow.recorded.arrays.float64
    fused = narrow.outputs(narrow.content, narrow.recorded.arrays.inputs, "all")
    change = worst_error(fused, reference)
    if not change <= MOST_OF_STEPS:
        raise ModelError(
            f"{narrow.source} is quantised ({operator(narrow.content)}), and ONNX Runtime's optimisations change its outputs by "
            f"{change:.1e} of their scale on this CPU",
            "export the float model it was made from",
        )
    return Tolerance(rtol=max(FEW_CODES, 2 * change), top1=min(_top1(each, reference) for each in (outputs, fused)))


def _top1(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    classes = [name for name, array in reference.items() if array.ndim == 2 and array.shape[1] > 1]
    return min((top1_agreement(outputs[name], reference[name], Tolerance()) for name in classes), default=1.0)


def operator(content: bytes) -> str:
    """The operator by which a file is quantised."""
    return quantised(onnx.load_from_string(content)) or "int8"


def note_of_steps(content: bytes, tolerance: Tolerance) -> str:
    """What an export says of a quantised file."""
    return (
        f"the file is quantised ({operator(content)}): the tolerance is {tolerance.rtol:.1e}, three steps of 8 bits, or twice "
        "what ONNX Runtime's optimisations or rounding change on the CPU of the export; another CPU may compute something else"
        + (WITH_ALLOWANCE if tolerance.rtol > widest_rtol("int8") else "")
        + ("" if steps_between_floats(content) else "; it computes in integers itself, and is held to that tolerance alone")
    )


class Rounding:
    """What rounding moves a file's outputs by from the original's, where it runs node by node; an iteration runs it.

    All samples are run, because all are held to it. Inputs and stored scales are moved by a unit in the last place, as another
    order of summation moves what lies between; by more where no value falls to another code, because it may on another CPU. Of
    16 bits every value is rounded instead, which ONNX Runtime's CPU leaves out, and which moves more. ``steps``: the most that
    any run moved; None before the iteration, and where the file is not run so, as one of integer nodes.
    """

    def __init__(self, narrow: NarrowFile, precision: str) -> None:
        self.narrow, self.half = narrow, precision in HALVES
        self.runs_so = precision not in FULL_NAMES and steps_between_floats(narrow.content)
        self.steps: float | None = None

    def __iter__(self) -> Iterator[Outcome]:
        recorded, moved = self.narrow.recorded, most_steps if self.half else steps_moved
        for units in () if not self.runs_so else UNITS[:1] if self.half else UNITS:
            for outputs in _moved(self.narrow, recorded.arrays.inputs, units, half=self.half):
                self.steps = max(self.steps or 0.0, moved(outputs, recorded.arrays.original, recorded.sizes))
                yield Outcome(np.arange(sum(recorded.sizes)), outputs)
            if (self.steps or 0.0) > FLOAT_STEPS:
                return


def _moved(narrow: NarrowFile, feed: Feed, units: int, *, half: bool) -> Iterator[dict[str, Array]]:
    """The file's outputs, and those of readings with numbers moved by ``units`` in their last places."""
    yield narrow.outputs(narrow.content, feed)
    if half:
        with suppress(ModelError):  # the copy has other nodes, which the runtime may refuse
            yield narrow.outputs(rounded_after_every_node(onnx.load_from_string(narrow.content)).SerializeToString(), feed)
        return
    for reading in moved_readings(narrow.content, feed, units):
        yield narrow.outputs(*reading)


def with_rounding(variant: Variant, rounding: Rounding, recorded: Recorded, measured: EvidenceArrays) -> Variant:
    """The variant with the rounding that ``edgekit verify`` accepts where its file runs as written: four times what was seen.

    ``rounding`` has been iterated over. Of 16 bits it is a unit in the last place at least. It is no more than the bundle's
    arrays support, ``recorded`` and ``measured``.
    """
    if rounding.steps is None:
        return variant
    most = recorded_support(variant.precision, recorded, measured).rounding
    supported = min(rounding_room(rounding.steps, variant.precision), most)
    return msgspec.structs.replace(variant, allowance=msgspec.structs.replace(variant.allowance, rounding=supported))


def with_noise(variant: Variant, recorded: Recorded, measured: EvidenceArrays) -> Variant:
    """A variant in steps with an rtol of twice the noise that was measured, where that is more, and the widest of int8 at most.

    Another runtime sums in another order, which moves values to other codes. A file of any other precision stays as it is.
    """
    asked = variant.allowance.tolerance
    if variant.precision != "int8":
        return variant
    noise = largest_noise(recorded, measured) or 0.0
    tolerance = msgspec.structs.replace(asked, rtol=max(asked.rtol, min(2 * noise, widest_rtol("int8"))))
    return msgspec.structs.replace(variant, allowance=msgspec.structs.replace(variant.allowance, tolerance=tolerance))
