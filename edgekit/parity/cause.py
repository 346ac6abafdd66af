"""Name the likely cause of an output that departs, by the pattern of its error.

A pattern is a hint and no proof: ``edgekit verify --bisect`` looks inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.tensors import Array, differences
from edgekit.tolerance import Bar, NoiseBar

FEW = 64
"""Elements of which a pattern is seen: fewer may follow one by chance."""
STEPS = 256
"""Values that eight bits can have."""
STUCK = 0.005
"""Share of elements at one end of the range from which an output is said to be clipped there."""
LEFT = 0.05
"""Share of an error that a factor, an offset or another order of channels may leave unexplained."""
TEN_BITS = 100, 8e3
"""Times its float32 noise that a network is off in arithmetic of 10 bits; each bit less doubles them."""
SEVEN_BITS = 64e3
EVEN = 30
"""Times the noise that every channel and sample must be off: a wrong weight leaves some as they were."""
NAMED = 4
"""Channels that are named."""
HALF = np.finfo(np.float16)


class Departed(NamedTuple):
    """A float ``output`` that fails, its float64 ``reference`` (samples first), and what was allowed: arrays of one shape.

    ``noise``: the rounding noise of each element, which broadcasts to that shape; None if it was not measured. ``axis`` is the
    channels' axis.
    """

    output: NDArray[np.float64]
    reference: NDArray[np.float64]
    limits: NDArray[np.float64]
    noise: NDArray[np.float64] | None
    axis: int
    on_gpu: bool

    @property
    def error(self) -> NDArray[np.float64]:
        """|y - r|; 0 where both are the same infinity."""
        return differences(self.output, self.reference)

    def by_channel(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values`` as channels x all else."""
        return np.moveaxis(values, self.axis, 0).reshape(values.shape[self.axis], -1)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Where the error is beyond what is allowed."""
        return np.asarray(~(self.error <= self.limits))


def likely_cause(output: Array, reference: NDArray[np.float64], bar: Bar, *, on_gpu: bool) -> str:
    """What the error of a failing output looks like; empty for no known pattern.

    ``output`` and ``reference``: samples x ...; ``bar`` is what the output was held to. ``on_gpu``: a GPU computed it, which may
    use TF32.
    """
    if output.shape != reference.shape or output.dtype not in (np.float32, np.float64) or output.size < FEW:
        return ""
    with np.errstate(all="ignore"):
        noise = _noise(bar, reference) if isinstance(bar, NoiseBar) else None
        wide = output.astype(np.float64)
        axis = bar.axis if isinstance(bar, NoiseBar) else min(1, reference.ndim - 1)
        case = Departed(wide, reference, np.broadcast_to(bar.limits(reference), reference.shape), noise, axis, on_gpu)
        return next(filter(None, (pattern(case) for pattern in _PATTERNS)), "")


def _noise(bar: NoiseBar, reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """The measured noise as the limits of a bar of factor 1."""
    return bar._replace(factor=1).limits(reference)


def _overflow(case: Departed) -> str:
    new = ~np.isfinite(case.output) & np.isfinite(case.reference)
    if not new.any():
        return ""
    if np.abs(case.reference[new]).min() > 0.5 * float(HALF.max):
        return "values beyond 65,504 became infinite, as in float16"
    return "finite values became infinite or NaN, as where float16 overflows inside the network"


def _clipped(case: Departed) -> str:
    """Many elements stop at one end of the output's range, and the reference goes on."""
    for end, sign in ((case.output.max(), 1), (case.output.min(), -1)):
        stuck = case.output == end
        beyond = sign * (case.reference - end) > case.limits
        if (
            stuck.mean() >= STUCK
            and stuck.sum() > 2
            and (beyond & stuck).sum() > 0.9 * stuck.sum()
            and not (beyond & ~stuck).any()
        ):
            most = sign * (sign * case.reference).max()
            return (
                f"values stop at {end:.4g} where the reference goes on to {most:.4g}: an int8 range that is too narrow, or a clip"
            )
    return ""


def _in_steps(case: Departed) -> str:
    """All values are whole multiples of one step, and the reference's are not."""
    values = np.unique(case.output)
    if not 2 < len(values) <= STEPS or case.output.size < 2 * STEPS or len(np.unique(case.reference)) <= STEPS:
        return ""
    step = float(np.diff(values).min())
    whole = values / step
    if np.abs(whole - whole.round()).max() > 0.01:
        return ""
    return f"the outputs are whole multiples of {step:.3g}: they were computed in int8"


def _in_half(case: Departed) -> str:
    """All values are numbers of 16 bits, and the reference's are not."""
    single = case.output.astype(np.float32)
    if len(np.unique(single)) < FEW:  # whole numbers, or an output that is dead
        return ""
    for name, rounded in (("bfloat16", _as_bfloat16), ("float16", _as_float16)):
        if (rounded(single) == single).all() and (rounded(case.reference.astype(np.float32)) == case.reference).mean() < 0.5:
            return f"all outputs are {name} numbers: the runtime computed in {name}"
    return ""


def _as_float16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values.astype(np.float16).astype(np.float32)


def _as_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray((values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32))


def _reordered(case: Departed) -> str:
    """The channels are those of the reference, in another order."""
    if case.output.ndim < 2 or not 2 <= case.output.shape[case.axis] <= STEPS or len(case.output) < 2:
        return ""
    mine, theirs = case.by_channel(case.output), case.by_channel(case.reference)
    distances = np.stack([np.abs(theirs - channel).mean(1) for channel in mine])
    nearest = distances.argmin(1)
    channels = np.arange(len(mine))
    allowed = np.abs(case.limits).max() + LEFT * case.error.mean()
    moved = np.flatnonzero(nearest != channels)
    if not len(moved) or sorted(nearest) != list(channels) or distances[channels, nearest].max() > allowed:
        return ""
    pairs = ", ".join(f"{channel} is {nearest[channel]}" for channel in moved[:NAMED])
    return f"the channels are in another order: {pairs}{', ...' if len(moved) > NAMED else ''}"


def _factor(case: Departed) -> str:
    """One factor, or one offset, explains the error of all elements, each weighed by what is allowed there."""
    weights = 1 / np.where(case.limits > 0, case.limits, np.inf)
    output, reference = (np.where(np.isfinite(case.reference), values * weights, 0.0) for values in (case.output, case.reference))
    left = LEFT * float(np.square(output - reference).sum())
    factor = float((output * reference).sum() / np.square(reference).sum())
    if float(np.square(output - factor * reference).sum()) <= left:
        return f"all values are those of the reference times {factor:.6g}"
    offset = float(((output - reference) * weights).sum() / np.square(weights).sum())
    if float(np.square(output - reference - offset * weights).sum()) <= left:
        return f"all values are those of the reference plus {offset:.3g}"
    return ""


def _one_channel(case: Departed) -> str:
    """All that is wrong lies in a few channels: the file's last layers, or what they read, differ there."""
    if case.output.ndim < 2 or case.output.shape[case.axis] < 4:
        return ""
    wrong = case.by_channel(case.wrong).any(1)
    if not 0 < np.count_nonzero(wrong) <= max(1, np.size(wrong) // 8):
        return ""
    numbers = np.flatnonzero(wrong)
    names = ", ".join(map(str, numbers[:NAMED])) + (f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else "")
    return f"only channel {names} departs: look at what the last layers compute of it"


def _imprecise(case: Departed) -> str:
    """Every channel of every sample is off by about as many times its noise: arithmetic of fewer bits."""
    if case.noise is None or case.output.ndim < 2:
        return ""
    shares = case.error / np.maximum(case.noise, np.finfo(np.float64).tiny)
    samples, channels = shares.reshape(len(shares), -1).max(1), case.by_channel(shares).max(1)
    if min(np.quantile(samples, 0.1), channels.min()) < EVEN:
        return ""
    times = float(np.median(channels))
    if not TEN_BITS[0] <= times <= SEVEN_BITS:
        return ""
    spread = f"all samples and channels are off by about {times:,.0f} times their rounding noise"
    few_bits = times > TEN_BITS[1]
    if not case.on_gpu:
        name = "bfloat16" if few_bits else "float16"
        return f"{spread}: a number that all of them use is wrong, such as a weight or an eps, or the arithmetic is {name}"
    name = "bfloat16" if few_bits else "TF32 or float16"
    return f"{spread}: arithmetic in {name}; if ort-cpu fails alike, a number in the file is wrong"


_PATTERNS: tuple[Callable[[Departed], str], ...] = (
    _overflow,
    _clipped,
    _in_steps,
    _in_half,
    _reordered,
    _factor,
    _one_channel,
    _imprecise,
)
