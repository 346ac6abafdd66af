"""Tensors of a model: names, dtypes, shapes, feeds, batches, and the error between two arrays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ModelError, UsageError
from edgekit.numerals import whole
from edgekit.tolerance import finite_scale

Array: TypeAlias = NDArray[Any]
Feed: TypeAlias = Mapping[str, Array]
"""Input name -> array; pictures are NCHW."""

BATCH = "batch"
"""The name of the symbolic batch axis in every file edgekit writes."""
SIDES = {"height": 480, "width": 640}
"""The names of the free sides of pictures, with the sizes that they have where nobody says another: those of a small camera."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output: ``shape`` holds sizes, or names for axes whose size is free (``"batch"``)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def free(self) -> bool:
        """Whether an axis is free."""
        return any(isinstance(axis, str) for axis in self.shape)

    def concrete(self, batch: int) -> tuple[int, ...]:
        """The shape with every free axis set to ``batch``, but for the ``SIDES`` of pictures."""
        return tuple(SIDES.get(axis, batch) if isinstance(axis, str) else axis for axis in self.shape)

    def sized(self, axes: Mapping[str, int]) -> TensorSpec:
        """The same tensor with sizes for the free ``axes`` behind the first."""
        sizes = (axes.get(axis, axis) if isinstance(axis, str) else axis for axis in self.shape[1:])
        return TensorSpec(self.name, self.dtype, (self.shape[0], *sizes))

    def of_samples(self, samples: int) -> tuple[int, ...]:
        """The shape of ``samples`` samples, whatever the size of the batches that the model takes."""
        return (samples, *self.concrete(samples)[1:])

    def with_free_batch(self) -> TensorSpec:
        """The same tensor with a free first axis."""
        return TensorSpec(self.name, self.dtype, (BATCH, *self.shape[1:]))

    def check(self, array: Array) -> None:
        """Raise ModelError unless ``array`` has this dtype and shape."""
        fits = len(array.shape) == len(self.shape) and all(
            isinstance(axis, str) or axis == size for axis, size in zip(self.shape, array.shape, strict=True)
        )
        if not fits or str(array.dtype) != self.dtype:
            raise ModelError(
                f"input {self.name!r} takes {self.dtype} {shape_text(self.shape)}, "
                f"but was given {array.dtype} {shape_text(array.shape)}",
                "reshape or convert it",
            )


def fixed_batch(specs: Sequence[TensorSpec]) -> int | None:
    """The only batch size that a model with these inputs takes; None if the batch is free."""
    return next((int(spec.shape[0]) for spec in specs if not isinstance(spec.shape[0], str)), None)


def shape_text(shape: Sequence[int | str]) -> str:
    """``(2, 3, 8)`` -> ``"2x3x8"``, ``("batch", 3)`` -> ``"batch x 3"``; a scalar is ``"()"``."""
    between = " x " if any(isinstance(axis, str) for axis in shape) else "x"
    return between.join(str(axis) for axis in shape) or "()"


def check_feed(specs: Sequence[TensorSpec], feed: Feed) -> None:
    """Raise ModelError unless ``feed`` has exactly the inputs in ``specs``, each of its dtype and shape."""
    names, fed = {spec.name for spec in specs}, set(feed)
    if names != fed:
        raise ModelError(f"the model takes the inputs {sorted(names)}, but was given {sorted(map(str, fed))}", "rename them")
    for spec in specs:
        spec.check(feed[spec.name])


def sample_feed(specs: Sequence[TensorSpec], batch: int, seed: int = 0) -> dict[str, Array]:
    """A repeatable feed of each input's shape: standard normal floats, or integers over their whole range (see ``_integers``)."""
    rng = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for spec in specs:
        shape = spec.concrete(batch)
        try:
            np.dtype(spec.dtype)
        except TypeError:
            raise ModelError(f"input {spec.name!r} has the dtype {spec.dtype}, which numpy lacks", "use float32") from None
        if np.issubdtype(np.dtype(spec.dtype), np.floating):
            feed[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        else:
            feed[spec.name] = _integers(rng, np.dtype(spec.dtype), shape)
    return feed


def _integers(rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Integers as a picture has them: the whole range of 8 and 16 bits, 0 to 255 in wider types.

    Fewer than four axes of a wide type are indices or masks, and get 0 and 1.
    """
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        return rng.integers(0, 256 if dtype.kind in "iu" and len(shape) > 3 else 2, shape).astype(dtype)
    bounds = np.iinfo(dtype)
    return rng.integers(bounds.min, bounds.max, shape, endpoint=True, dtype=dtype)


def batches_of(feed: Feed, size: int) -> Iterator[tuple[dict[str, Array], int]]:
    """Cut a feed into batches of ``size``; yields each batch and its number of real samples.

    Copies of the last sample fill the last batch up to ``size``.
    """
    samples = len(next(iter(feed.values())))
    for start in range(0, samples, size):
        index = np.minimum(np.arange(start, start + size), samples - 1)
        yield {name: array[index] for name, array in feed.items()}, min(size, samples - start)


def in_turns(feed: Feed, sizes: Sequence[int]) -> Iterator[tuple[slice, dict[str, Array], int]]:
    """Cut a feed into batches whose ``sizes`` take turns; yields the samples of each batch, the batch, and its size.

    Copies of the last sample fill the last batch up.
    """
    samples, start = len(next(iter(feed.values()))), 0
    for size in itertools.cycle(sizes):
        batch, real = next(batches_of({name: array[start : start + size] for name, array in feed.items()}, size))
        yield slice(start, start + real), batch, size
        start += size
        if start >= samples:
            return


def real_samples(outputs: Mapping[str, Array], size: int, real: int) -> dict[str, Array]:
    """The outputs of one batch, without those of the samples that fill it up.

    An output whose first axis is not ``size`` is left whole, so that a comparison reports its shape.
    """
    return {name: array[:real] if array.shape[:1] == (size,) else array for name, array in outputs.items()}


def joined_outputs(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The outputs of several batches, concatenated along the first axis."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def largest(array: Array) -> float:
    """max|array| in float64; 0 for an empty array."""
    return float(np.abs(np.asarray(array, np.float64)).max(initial=0))


def differences(output: Array, reference: Array) -> NDArray[np.float64]:
    """|y - r| of each element in float64; 0 where both are the same infinity, and not finite for other values that are not."""
    mine, other = np.asarray(output, np.float64), np.asarray(reference, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.abs(mine - other)
    return np.where(np.isinf(other) & (mine == other), 0.0, apart)


def normalised_error(output: Array, reference: Array, *, scale: float | None = None, of_zero: float = 1.0) -> float:
    """The error "of scale": max|y - r| / max|r| in float64, infinite values of r left out; NaN if either array holds a NaN.

    Equal infinities agree. ``scale`` replaces max|r|. ``of_zero`` replaces a scale of zero: 1 gives
    the absolute difference, 0 gives infinity for any difference.
    """
    difference = largest(differences(output, reference))
    divisor = (finite_scale(np.asarray(reference, np.float64)) if scale is None else scale) or of_zero
    if not divisor:
        return math.inf if difference else 0.0
    return difference / divisor


MOST_DB = 200.0
"""The bound of an SNR in a report: JSON has no infinity."""


def bounded_snr_db(output: Array, reference: Array) -> float:
    """The SNR in dB of one output, within ``MOST_DB`` on both sides of 0."""
    return float(np.clip(snr_db(differences(output, reference), np.asarray(reference, np.float64)), -MOST_DB, MOST_DB))


def snr_db(difference: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """10 log10(sum r^2 / sum (y - r)^2) in dB, of ``difference`` y - r; infinite values of r left out.

    Infinite without a difference, -inf where there is a difference and no signal, or one that is not finite.
    """
    finite = np.isfinite(reference)
    with np.errstate(over="ignore"):
        signal, noise = float(np.square(reference[finite]).sum()), float(np.square(difference[finite]).sum())
    if not noise:
        return math.inf
    ratio = signal / noise if math.isfinite(noise) else 0.0
    return 10 * math.log10(ratio) if 0 < ratio < math.inf else -math.inf


def worst_error(outputs: Mapping[str, Array], references: Mapping[str, Array]) -> float:
    """The largest error of scale of any output in ``references``; NaN if any output holds a NaN."""
    return float(np.max([normalised_error(outputs[name], reference) for name, reference in references.items()]))


LARGEST_BATCH = 65536


class BatchRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The batch sizes that an engine takes, ``min`` to ``max``; ``opt`` is the size that the engine is tuned for."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= LARGEST_BATCH:
            raise ValueError(f"{self} is not a range of batch sizes: 1 <= min <= opt <= max <= {LARGEST_BATCH} must hold")

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    @classmethod
    def parse(cls, text: str) -> BatchRange:
        """The range in a text like ``1:8:32``, or ``8`` for one size alone; raises UsageError for anything else."""
        sizes = whole_numbers(text.split(":"))
        if sizes is None or len(sizes) not in (1, 3):
            raise UsageError(
                f"--batch {_shortened(text)} is not a range of batch sizes", "write min:opt:max like 1:8:32, or one size like 8"
            )
        try:
            return cls(sizes[0], sizes[len(sizes) // 2], sizes[-1])
        except ValueError as problem:
            raise UsageError(f"--batch {problem}", "write min:opt:max like 1:8:32") from None

    def __contains__(self, batch: int) -> bool:
        return self.min <= batch <= self.max


def batch_sizes(text: str) -> tuple[int, ...]:
    """The sizes in a text like ``1,8,32``, without repetitions; raises UsageError for anything else."""
    sizes = whole_numbers(text.split(","))
    if sizes is None or not all(1 <= size <= LARGEST_BATCH for size in sizes):
        raise UsageError(
            f"--batch {_shortened(text)} is not a list of batch sizes from 1 to {LARGEST_BATCH}", "write it like 1,8,32"
        )
    return tuple(dict.fromkeys(sizes))


def whole_numbers(parts: list[str]) -> list[int] | None:
    """The texts as whole numbers, or None if any of them is none."""
    numbers = [number for part in parts if (number := whole(part)) is not None]
    return numbers if len(numbers) == len(parts) else None


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:50]}...")
