"""Golden inputs that reach: beside pictures or normal numbers, the inputs that drive a network to its edges.

A network that has seen ordinary inputs only may hide a fault behind them: a clip that never clips, a border that is always dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle.folder import Bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import GoldenPart
from edgekit.errors import ModelError
from edgekit.preprocess import Preprocess
from edgekit.tensors import Array, TensorSpec, differences, normalised_error, sample_feed
from edgekit.tolerance import NoiseBar, channel_axis, finite_scale, parts_of

SEED = 0
NO_ROWS: Mapping[str, int] = MappingProxyType({})
NORMAL, EACH = 40, 8
"""Samples of the first part, and of each further one."""
LARGE_NORMAL, LARGE_EACH = 8, 2
"""Samples of the first part, and of each further one, of inputs however large."""
MOST_ELEMENTS = 64 * 3 * 224 * 224
"""Elements that all samples hold at most while there are more samples than those of large inputs."""
STEPS = 32
"""Normal numbers are rounded to this part of 1, so that a bundle's golden file packs to a quarter."""


class Golden(NamedTuple):
    """Golden inputs: name -> samples x ..., and the kinds of samples in their order."""

    inputs: dict[str, Array]
    parts: tuple[GoldenPart, ...]


MOST_ROWS = 1 << 20


def rows_of(specs: Sequence[TensorSpec], runs: Callable[[Mapping[str, Array]], bool]) -> dict[str, int]:
    """The number of rows that an integer input may name, for inputs that are indices: a number beyond the last row is refused.

    ``runs`` says whether the model takes a feed of one sample. Inputs that take any number are no indices, and are left out.
    """
    rows = {}
    for spec in specs:
        if np.dtype(spec.dtype).kind not in "iu" or len(spec.shape) > 3:
            continue

        def takes(number: int, spec: TensorSpec = spec) -> bool:
            feed = sample_feed([each.with_free_batch() for each in specs], 1)
            return number <= np.iinfo(spec.dtype).max and runs({**feed, spec.name: np.full_like(feed[spec.name], number)})

        if not takes(0) or takes(MOST_ROWS):
            continue
        low, high = 0, MOST_ROWS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if takes(middle) else (low, middle)
        rows[spec.name] = low + 1
    return rows


def without_data(
    specs: Sequence[TensorSpec], preprocess: Preprocess | None = None, rows: Mapping[str, int] = NO_ROWS, seed: int = SEED
) -> Golden:
    """Inputs for a model whose data is unknown: 80 samples, 64 or more up to 3x224x224 elements each, and fewer of larger ones.

    They are pictures where the ``preprocess`` of one picture input is known, and otherwise numbers: normal, wide, extreme,
    constant, blocky and with edges. Integer inputs take their whole range in every sample, and indices all ``rows`` (see
    ``rows_of``). Raises ModelError for a dtype that numpy lacks.
    """
    if preprocess is not None:
        pixels, kinds_of_pictures = pictures_without_data(len(preprocess.mean), preprocess.height, preprocess.width, seed)
        return Golden({specs[0].name: preprocess.normalise(pixels)}, kinds_of_pictures)
    kinds: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
        "normal": _normal,
        "wide": lambda rng, shape: 4 * _normal(rng, shape),
        "extreme": lambda rng, shape: 32 * _normal(rng, shape),
        "constant": _constant,
        "blocky": _blocky,
        "edges": _edges,
    }
    free = [spec.with_free_batch() for spec in specs]
    normal, each = _counts(sum(math.prod(spec.concrete(1)) for spec in free))
    parts = [GoldenPart(kind, normal if kind == "normal" else each) for kind in kinds]
    total = sum(part.samples for part in parts)
    inputs = sample_feed(free, total, seed)
    rng = np.random.default_rng(seed)
    for name, count in rows.items():
        inputs[name] = _each_row(rng, count, inputs[name])
    for spec in free:
        if np.issubdtype(np.dtype(spec.dtype), np.floating):
            pieces = [kinds[part.kind](rng, (part.samples, *spec.concrete(1)[1:])) for part in parts]
            inputs[spec.name] = np.concatenate(pieces).astype(spec.dtype)
    return Golden(inputs, tuple(parts))


def _counts(elements: int) -> tuple[int, int]:
    """Samples of the first part, and of each further one, of inputs of ``elements`` each: fewer of pictures beyond 224x224."""
    share = min(1.0, MOST_ELEMENTS / ((NORMAL + 5 * EACH) * max(1, elements)))
    return max(LARGE_NORMAL, math.ceil(share * NORMAL)), max(LARGE_EACH, math.ceil(share * EACH))


def _each_row(rng: np.random.Generator, count: int, like: Array) -> Array:
    """Numbers below ``count`` in the shape of ``like``: each at least once, as far as there is room."""
    numbers = np.arange(like.size) % count
    return rng.permutation(numbers).reshape(like.shape).astype(like.dtype)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(np.round(rng.standard_normal(shape, np.float32) * STEPS) / STEPS)


def _constant(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """One number for all elements of a sample, from -4 to 4; zero among them."""
    levels = np.linspace(-4, 4, shape[0] + 1)[1:] if shape[0] > 1 else np.zeros(1)
    return np.broadcast_to(levels.reshape(-1, *[1] * (len(shape) - 1)), shape)


def _blocky(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal numbers that stay the same over blocks of four along the last two axes."""
    sides = shape[-2:] if len(shape) > 3 else shape[len(shape) - 1 :] if len(shape) > 1 else ()
    small = shape[: len(shape) - len(sides)] + tuple(-(-side // 4) for side in sides)
    blocks = 2 * _normal(rng, small)
    for axis in range(len(shape) - len(sides), len(shape)):
        blocks = np.repeat(blocks, 4, axis=axis)
    return blocks[tuple(slice(0, size) for size in shape)]


def _edges(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Two levels of a sample with one border between them, along the last axis and the one before in turn."""
    values = np.empty(shape)
    for index in range(shape[0]):
        low, high = _normal(rng, (2,)) * 2
        values[index] = low
        axis = len(shape) - 1 - (index % 2 if len(shape) > 3 else 0)
        if axis:
            place = [slice(None)] * len(shape)
            place[0], place[axis] = slice(index, index + 1), slice(int(rng.integers(0, shape[axis])), None)
            values[tuple(place)] = high
    return values


def extreme_pictures(channels: int, height: int, width: int, seed: int = SEED) -> NDArray[np.uint8]:
    """Pictures that no camera takes, uint8 N x ``channels`` x ``height`` x ``width``: flat, striped, noisy, blocky, one pixel."""
    rng, shape = np.random.default_rng(seed), (channels, height, width)
    rows, columns = np.mgrid[0:height, 0:width]
    centre = (rows == height // 2) & (columns == width // 2)
    masks = [
        (rows + columns) % 2 == 0,
        rows % 4 < 2,
        columns % 4 < 2,
        columns >= width // 2,
        rows >= height // 3,
        centre,
        ~centre,
        (rows == 0) | (columns == 0) | (rows == height - 1) | (columns == width - 1),
    ]
    pictures = [np.full(shape, level) for level in (0, 128, 255)]
    pictures += [np.broadcast_to(255 * mask, shape) for mask in masks]
    pictures += [np.broadcast_to(np.linspace(0, 255, width).round(), shape)]
    pictures += [rng.integers(0, 256, shape) for _ in range(2)]
    blocks = rng.integers(0, 256, (2, channels, -(-height // 4), -(-width // 4)))
    pictures += [np.kron(block, np.ones((1, 4, 4), int))[:, :height, :width] for block in blocks]
    if channels > 1:
        pictures += [np.where(np.arange(channels)[:, None, None] == channel, 255, np.zeros(shape)) for channel in range(channels)]
    return np.stack(pictures).astype(np.uint8)


def pictures_without_data(
    channels: int, height: int, width: int, seed: int = SEED
) -> tuple[NDArray[np.uint8], tuple[GoldenPart, ...]]:
    """Pictures for a model whose preprocessing is known and whose data is not: 56 of noise and blocks, and the extremes.

    Of pictures beyond 3x224x224 there are fewer of noise and blocks.
    """
    rng, shape = np.random.default_rng(seed), (channels, height, width)
    normal, each = _counts(channels * height * width)
    noise = rng.normal(128, 48, (normal, *shape)).round().clip(0, 255)
    blocks = rng.integers(0, 256, (2 * each, channels, -(-height // 8), -(-width // 8)))
    blocky = np.kron(blocks, np.ones((1, 1, 8, 8), int))[:, :, :height, :width]
    extremes = extreme_pictures(*shape, seed)
    parts = (GoldenPart("noise", len(noise)), GoldenPart("blocky", len(blocky)), GoldenPart("extremes", len(extremes)))
    return np.concatenate([noise, blocky, extremes]).astype(np.uint8), parts


def error_of_parts(outputs: Mapping[str, Array], reference: Mapping[str, Array], sizes: Sequence[int]) -> float:
    """The largest error of scale of any output on any of the parts of ``sizes``; NaN if any output holds a NaN."""
    errors = [
        normalised_error(mine, part)
        for name, whole in reference.items()
        for mine, part in zip(parts_of(outputs[name], sizes), parts_of(whole, sizes), strict=True)
    ]
    return float(np.max(errors))


class Recorded(NamedTuple):
    """Golden samples with their outputs, and the kinds of samples in their order."""

    arrays: GoldenArrays
    parts: tuple[GoldenPart, ...]

    @property
    def sizes(self) -> list[int]:
        """The number of samples of each part."""
        return [part.samples for part in self.parts]

    def of_first(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the first part's samples."""
        return {name: array[: self.sizes[0]] for name, array in outputs.items()}

    def error(self, outputs: Mapping[str, Array]) -> float:
        """The largest error of scale of any output on any part; NaN if any output holds a NaN."""
        return error_of_parts(outputs, self.arrays.float64, self.sizes)

    def bar(self, name: str, rtol: float) -> NoiseBar:
        """A bar of ``rtol`` times the scale of each part of the output ``name``."""
        reference = self.arrays.float64[name]
        axis = channel_axis(reference)
        channels = reference.shape[axis] if reference.ndim > 1 else 1
        return NoiseBar(np.full((len(self.parts), channels), np.inf), self.sizes, axis, 1, rtol)


def recorded_in(bundle: Bundle, arrays: GoldenArrays | None = None) -> Recorded:
    """The golden samples of a bundle, with its ``arrays`` if they are read already; without named kinds all are of one kind."""
    golden = bundle.manifest.golden
    return Recorded(arrays or bundle.golden(), golden.parts or (GoldenPart(golden.kind, golden.samples),))


STEADY = 5e-6
"""Error of scale, of a part, up to which a golden sample is steady: a quarter of what float32 files are allowed."""


def only_steady(recorded: Recorded, *moved: Mapping[str, Array]) -> Recorded:
    """``recorded`` without the samples on which the original's own rounding is large; the first part stays whole.

    A sample stays if its outputs are finite, or infinite where some of the first part's are (as masks are), and
    max|original - float64| over it is at most ``STEADY`` times the scale of its part, or at most twice the same figure of the
    first part. ``moved`` are outputs for inputs that were moved by a unit in the last place, which count as the original's do.
    """
    golden, parts = recorded
    keep = np.ones(sum(part.samples for part in parts), bool)
    ends = np.cumsum([part.samples for part in parts])
    places = [slice(end - part.samples, end) for part, end in zip(parts, ends, strict=True)]
    for name, reference in golden.float64.items():
        runs = [differences(outputs[name], reference) for outputs in (golden.original, *moved)]
        error = np.max(runs, axis=0).reshape(len(reference), -1).max(1, initial=0.0)
        shares = [error[place] / (finite_scale(reference[place]) or 1.0) for place in places]
        bound = max(STEADY, 2 * float(shares[0].max(initial=0.0)))
        masked = np.isinf(reference[places[0]]).any(0)
        overflows = np.asarray((np.isinf(reference) & ~masked).reshape(len(reference), -1).any(1))
        for place, share in zip(places[1:], shares[1:], strict=True):
            keep[place] &= (share <= bound) & ~overflows[place]  # a NaN is not
    left = [GoldenPart(part.kind, int(keep[place].sum())) for part, place in zip(parts, places, strict=True) if keep[place].any()]
    kept = GoldenArrays(
        _those(golden.inputs, keep),
        _those(golden.float64, keep),
        _those(golden.original, keep),
        None if golden.labels is None else golden.labels[keep],
    )
    return Recorded(kept, tuple(left))


def _those(arrays: Mapping[str, Array], keep: NDArray[np.bool_]) -> dict[str, Array]:
    return {name: array[keep] for name, array in arrays.items()}


FEWEST = 8
"""Golden samples that a bundle needs: fewer say little about a file."""


def check_telling(golden: GoldenArrays) -> None:
    """Raise ModelError for golden samples that could not show a fault: fewer than ``FEWEST``, or outputs that never change."""
    problem = why_not_telling(golden)
    if problem:
        raise ModelError(f"{problem}, so that no comparison could show a fault", "check the model, its weights and its inputs")


def why_not_telling(golden: GoldenArrays) -> str:
    """What keeps the golden samples from showing a fault; empty if nothing does."""
    samples = len(next(iter(golden.inputs.values())))
    if samples < FEWEST:
        return f"there are {samples} golden samples only, fewer than {FEWEST}"
    if all(is_constant(reference) for reference in golden.float64.values()):
        return "the model gives the same outputs for every golden input"
    return ""


def is_constant(reference: Array) -> bool:
    """Whether all samples have the same values."""
    return bool((reference == reference[:1]).all())
